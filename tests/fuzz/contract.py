"""Canonical forms of contracts, as a server may tell them: each is a contract or none, and a contract can be compared with any other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from aster._contract import MalformedContractError, contract_differences, decode_form, encode_form, summary
from tests.fuzz.target import Run, Target
from tests.protocol.vectors import CONTRACT

__all__ = ["CONTRACTS"]

_SCALARS = ("bool", "int", "float", "str", "bytes", "date", "datetime", "time", "timedelta", "decimal", "uuid", "complex")
_NAMES = ("demo.Task", "demo.Level", "demo.Other", "")


def _type(chance: random.Random, room: int) -> Any:
    """A type of a field, or nearly one."""
    if room == 0 or chance.random() < 0.5:
        return chance.choice(_SCALARS)

    def some(most: int) -> list[Any]:
        return [_type(chance, room - 1) for _ in range(chance.randint(0, most))]

    forms: list[Callable[[], list[Any]]] = [
        lambda: ["type", chance.choice(_NAMES)],
        lambda: [chance.choice(("list", "tuple", "set", "optional")), _type(chance, room - 1)],
        lambda: ["dict", *some(2)],
        lambda: ["items", *some(3)],
        lambda: ["union", *sorted(some(3), key=_text)],
        lambda: ["literal", chance.choice(("int", "str", "bool", ["type", "demo.Level"])), chance.choice(("1", "LOW", True, 1))],
    ]
    return chance.choice(forms)()


def _make(chance: random.Random) -> bytes:
    data: dict[str, Any] = json.loads(CONTRACT)
    level, task = data["types"]
    task["fields"] = [{"default": chance.random() < 0.5, "name": name, "type": _type(chance, chance.choice((1, 1, 2, 40)))} for name in ("id", "level", "next")]
    if chance.random() < 0.3:
        chance.shuffle(level["members"])
    if chance.random() < 0.3:
        data["methods"][0]["pattern"] = chance.choice(("UNARY", "BIDI_STREAM", "MANY"))
    return _text(data).encode()


def _text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _run(data: bytes) -> str:
    try:
        contract = decode_form(data)
    except MalformedContractError:
        return "no contract"
    assert encode_form(contract) == data
    assert contract_differences(contract, contract) == []
    ours = decode_form(CONTRACT)
    differences = [*contract_differences(ours, contract), *contract_differences(contract, ours)]
    summary(differences)
    return "another contract" if differences else "a contract that fits"


@contextmanager
def _open() -> Generator[Run]:
    yield _run


_WORDS = frozenset({"no contract", "another contract", "a contract that fits"})
CONTRACTS = Target("contracts", "contracts of services", "contract", _make, _open, _WORDS, share=50, cost=0.1)
