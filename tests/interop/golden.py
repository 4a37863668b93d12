"""The recorded payloads and readings, which are JSON files beside this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from tests.interop.fixtures import FIXTURES, encoded

ASTER = Path(__file__).parent / "golden" / "aster.json"
JAVASCRIPT = Path(__file__).parent / "golden" / "javascript.json"


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def save(path: Path, content: Any) -> None:
    path.write_text(_laid_out(content, levels=2) + "\n")


def _laid_out(content: Any, levels: int) -> str:
    """JSON with a line for each payload or reading, so that a difference shows where it is."""
    if not levels or not isinstance(content, dict):
        return json.dumps(content)
    entries = (f"{json.dumps(name)}: {_laid_out(item, levels - 1)}" for name, item in cast("dict[str, Any]", content).items())
    return "{\n" + ",\n".join(entries) + "\n}"


def aster_payloads() -> dict[str, str]:
    """What Aster makes of each fixture today, in hexadecimal."""
    return {name: encoded(value).hex() for name, value in FIXTURES.items()}
