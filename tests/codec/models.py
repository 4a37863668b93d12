"""Dataclasses that the codec's tests send. All hints of this module are strings, by its first import."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, ClassVar, Dict, Final, List, Literal, NewType, Optional, Union  # noqa: UP035  # the old spellings are under test too

from aster.codec import Codec, auto_tag, make_codec, wire_tag, wire_type, wire_types
from aster.types import SerializationMode

MODES = tuple(SerializationMode)
FORY_MODES = (SerializationMode.XLANG, SerializationMode.NATIVE)
"""Those in which Fory writes the payloads."""

UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"
    AZURE = "b"  # noqa: PIE796  # an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Depth(enum.IntEnum):
    BELOW = -1
    ABOVE = 1


@wire_type("tests.codec/TaskRequest")
@dataclass
class TaskRequest:
    task_id: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Point:
    x: int = 0
    y: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    key: str
    value: str | None = None


@dataclass(slots=True)
class Counter:
    count: int
    labels: list[Label] = field(default_factory=list[Label])


@dataclass
class Empty:
    pass


@dataclass
class Base:
    name: str
    kind: ClassVar[str] = "base"


@dataclass
class Derived(Base):
    _: KW_ONLY
    size: int
    weight: float = 1.0


@dataclass(slots=True)
class SlottedDerived(Base):
    extra: int = 0


@dataclass
class Scalars:
    text: str
    number: int
    real: float
    truth: bool
    raw: bytes
    day: datetime.date
    instant: datetime.datetime
    span: datetime.timedelta
    clock: datetime.time
    money: decimal.Decimal
    id: uuid.UUID
    color: Color
    level: Level
    depth: Depth


@dataclass
class Containers:
    numbers: list[int]
    names: set[str]
    chosen: frozenset[int]
    table: dict[str, float]
    path: tuple[str, ...]
    pair: tuple[int, str]
    points: list[Point]
    by_point: dict[Point, Label]
    labels: set[Label]
    grid: dict[str, list[dict[int, tuple[bool, bytes]]]]
    gaps: list[int | None]
    holes: dict[str, Point | None]
    pairs: set[tuple[int, str]]
    old: Dict[str, List[int]]  # noqa: UP006
    frozen: list[frozenset[str]]


@dataclass
class Choices:
    maybe: int | None
    perhaps: Optional[Point]  # noqa: UP045
    either: Union[int, str]  # noqa: UP007
    several: int | bool | float | Point | Label | list[int] | None
    mixed: list[int | str | None]
    keyed: dict[int | str, Color | bytes]
    tupled: str | tuple[int, ...]
    shapes: tuple[Point | Label, list[tuple[int, ...]]]
    setted: int | frozenset[int]


@dataclass
class Normalised:
    mode: Literal["r", "w"]
    size: Literal[1, 2, None]
    shade: Literal[Color.RED]
    note: Annotated[str, "a comment"]
    user: UserId
    fixed: Final[int] = 3


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=lambda: list[Tree]())  # noqa: PLW0108  # not defined yet
    parent: Tree | None = None


@dataclass
class Ping:
    pong: Pong | None = None


@dataclass
class Pong:
    pings: dict[str, Ping] = field(default_factory=dict[str, Ping])


@dataclass(frozen=True, slots=True)
class Link:
    value: int
    next: Link | None = None


@dataclass
class Checked:
    low: int = 0
    high: int = 0
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        self.total = self.low + self.high


@dataclass
class CheckedMany:
    items: list[Checked]
    named: dict[str, Checked | None]
    either: Checked | int = 0
    pair: tuple[int, Checked] = (0, Checked())


@dataclass
class Reals:
    field: float
    many: list[float]
    table: dict[str, float | None]
    pair: tuple[float, str]
    either: float | str
    inner: dict[str, list[tuple[float, float]]]


@dataclass
class Moment:
    instant: datetime.datetime


@dataclass
class Price:
    amount: decimal.Decimal


@dataclass
class LabelSet:
    labels: set[Label]


MESSAGES: tuple[type, ...] = (
    TaskRequest,
    Counter,
    Empty,
    Derived,
    SlottedDerived,
    Scalars,
    Containers,
    Choices,
    Normalised,
    Tree,
    Ping,
    Link,
    Checked,
    CheckedMany,
    Reals,
    Moment,
    Price,
    LabelSet,
)


def tags_of(*roots: type) -> Mapping[type, str]:
    """The tags of all types that the roots reach, as a service would have them."""
    return {cls: wire_tag(cls) or auto_tag(cls) for cls in wire_types(roots)}


CODECS: Mapping[SerializationMode, Codec] = {mode: make_codec(mode, tags_of(*MESSAGES)) for mode in MODES}
