"""The recorded payloads and readings, which are JSON files beside this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.interop.fixtures import FIXTURES, encoded

ASTER = Path(__file__).parent / "golden" / "aster.json"
JAVASCRIPT = Path(__file__).parent / "golden" / "javascript.json"


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def aster_payloads() -> dict[str, str]:
    """What Aster makes of each fixture today, in hexadecimal."""
    return {name: encoded(value).hex() for name, value in FIXTURES.items()}
