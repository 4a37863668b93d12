"""The services whose contracts are on record in ``golden``."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from aster import SerializationMode, bidi_stream, rpc, server_stream, service, wire_type
from tests.guide import TaskService

__all__ = ["GOLDEN", "Shapes"]


@wire_type("golden/Tree")
@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list["Tree"])
    parent: Tree | None = None
    twig: Twig | None = None


@wire_type("golden/Twig")
@dataclass
class Twig:
    of: Tree


@service("Trees", version=3)
class Trees:
    @rpc
    async def grow(self, tree: Tree) -> Tree:
        return tree

    @server_stream
    async def twigs(self, tree: Tree) -> AsyncIterator[Twig]:
        yield Twig(tree)


@wire_type("golden/Color")
class Color(enum.Enum):
    RED = "r"
    BLUE = "b"
    AZURE = "b"  # noqa: PIE796  # an alias


@wire_type("golden/Level")
class Level(enum.IntEnum):
    HIGH = 10
    LOW = 1


@wire_type("golden/Depth")
class Depth(enum.IntEnum):
    BELOW = -1
    ABOVE = 1


@wire_type("golden/Choice")
@dataclass
class Choice:
    color: Color
    level: Level | None
    depth: Depth = Depth.ABOVE
    some: Literal[Color.RED] = Color.RED
    word: Literal["yes", "no"] | None = None
    number: Literal[-1, 10] = 10
    flag: Literal[True] = True
    raw: Literal[b"\x00\xff"] = b"\x00\xff"


@service("Choices", serialization=[SerializationMode.NATIVE, SerializationMode.XLANG])
class Choices:
    @rpc
    async def choose(self, choice: Choice) -> Choice:
        return choice

    @rpc(serialization=SerializationMode.NATIVE)
    async def choose_again(self, choice: Choice) -> Choice:
        return choice


@wire_type("golden/Key")
@dataclass(frozen=True)
class Key:
    a: int
    b: str = ""


@wire_type("golden/Shape")
@dataclass
class Shape:
    flag: bool
    number: int
    real: float
    text: str
    raw: bytes
    day: datetime.date
    instant: datetime.datetime
    hour: datetime.time
    span: datetime.timedelta
    amount: Decimal
    name: uuid.UUID
    rows: list[list[int]]
    many: tuple[str, ...]
    pair: tuple[int, Key]
    nothing: tuple[()]
    keys: set[Key]
    frozen: frozenset[tuple[int, str]]
    table: dict[str, dict[Key, list[Key | None]]]
    either: int | str | list[Key] | None = None


@service("Shapes")
class Shapes:
    @rpc(timeout=3.0, idempotent=True)
    async def same(self, shape: Shape) -> Shape:
        """A docstring."""
        return shape


@service("Room", scoped="stream")
class Room:
    def __init__(self, peer: str) -> None:
        self.peer = peer

    @bidi_stream
    async def talk(self, stream: AsyncIterator[Key]) -> AsyncIterator[Key]:
        async for key in stream:
            yield key


GOLDEN: Mapping[str, type] = {"task_engine": TaskService, "trees": Trees, "choices": Choices, "shapes": Shapes, "room": Room}
"""By the names of their files."""
