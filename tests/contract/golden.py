"""Contracts on record: each service's canonical form, indented for people, and its id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aster
from aster._contract import contract_of, encode_form
from aster.decorators import service_info

__all__ = ["FOLDER", "as_recorded"]

FOLDER = Path(__file__).parent / "golden"


def as_recorded(service: type) -> str:
    """What the file of a service holds."""
    form: Any = json.loads(encode_form(contract_of(service_info(service))))
    return json.dumps({"id": aster.contract_id(service), "contract": form}, indent=1, ensure_ascii=False) + "\n"
