"""Message types for the tests of decorators."""

from __future__ import annotations

from dataclasses import dataclass

from aster.codec import wire_type


@wire_type("tests.decorators/Ask")
@dataclass
class Ask:
    text: str = ""


@wire_type("tests.decorators/Answer")
@dataclass
class Answer:
    text: str = ""
    rank: int = 0


@wire_type("tests.decorators/Item")
@dataclass
class Item:
    number: int = 0


@wire_type("tests.decorators/Basket")
@dataclass
class Basket:
    items: list[Item]
    note: Answer | None = None
