"""Every way to declare a dataclass, an Enum or a field: it arrives exactly, or is refused by name (which ``test_wire_types.py`` holds)."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import sys
import types
import uuid
from collections.abc import Hashable
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, NewType, Optional, TypeVar, Union, cast

import pytest

from aster.codec import make_codec
from aster.types import SerializationMode
from tests.codec.models import MODES, Color, Depth, Label, Level, Point, UserId, tags_of
from tests.codec.test_round_trip import round_trip
from tests.codec.values import identical

T = TypeVar("T")

modes = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)

AdminId = NewType("AdminId", UserId)


class Word(enum.StrEnum):
    A = "a"
    EMPTY = ""


class Real(float, enum.Enum):
    HALF = 0.5
    NAN = float("nan")


class Odd(enum.Enum):
    """Values of many types, some without a hash, and methods of its own."""

    NONE = None
    ONE = 1
    TRUE = "1"
    PAIR = (1, "a")
    LIST = [1]  # noqa: RUF012  # a member, not a default
    POINT = Point(1, 2)
    OBJECT = object()

    def describe(self) -> str:
        return self.name


class Ends(enum.IntEnum):
    FIRST = 0
    LAST = 2**32 - 1


class Made(enum.Enum):
    """Its members' values are not those that its body gives."""

    A = (1, "x")
    B = (2, "y")

    def __new__(cls, value: int, label: str) -> Made:
        member = object.__new__(cls)
        member._value_ = value
        member.label = label
        return member

    label: str


@dataclass
class SlotsByHand:
    __slots__ = ("a", "b")
    a: int
    b: str


@dataclass(frozen=True)
class FrozenSlotsByHand:
    __slots__ = ("a", "b")
    a: int
    b: str


@dataclass(slots=True, weakref_slot=True)
class Referable:
    a: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strict:
    a: int
    again: Optional[Strict] = None  # noqa: UP045  # the old spelling, of a class still to come


@dataclass(order=True)
class Fields:
    shown: int
    computed: int = field(init=False)
    made: list[int] = field(default_factory=list[int], compare=False, repr=False, hash=False)
    named: int = field(default=5, kw_only=True, metadata={"unit": "m"})
    count: ClassVar[int] = 3
    fixed: Final[int] = 4

    def __post_init__(self) -> None:
        self.computed = self.shown * 2


@dataclass(frozen=True)
class OnTheClass:
    """A default without ``init`` that nothing sets: the instance has no attribute of its own."""

    a: int = 1
    b: int = field(init=False, default=5)


@dataclass
class HoldsOnTheClass:
    first: OnTheClass
    table: dict[OnTheClass, list[OnTheClass]]
    c: str = field(init=False, default="c")


@dataclass(init=False, eq=False, repr=False)
class OwnInit:
    a: int

    def __init__(self, **given: int) -> None:
        self.a = given["a"]


@dataclass
class OwnNew:
    a: int

    def __new__(cls, *_: object, **__: object) -> OwnNew:
        return object.__new__(cls)


@dataclass
class OwnAccess:
    a: int

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


@dataclass
class Properties:
    a: int

    @property
    def doubled(self) -> int:
        return 2 * self.a

    @functools.cached_property
    def tripled(self) -> int:
        return 3 * self.a


class HasProperty:
    @property
    def a(self) -> int:
        return 1


@dataclass
class BesideProperty(HasProperty):
    b: int = 0


@dataclass(frozen=True)
class Content(Generic[T]):
    content: T


@dataclass(frozen=True)
class IntContent(Content[int]):
    content: int


@dataclass
class Unused(Generic[T]):
    a: int = 1


@dataclass
class Middle(SlotsByHand):
    c: float


@dataclass
class Redefining(Middle):
    a: int = 1
    b: str = ""
    c: float = 0.5
    d: list[Redefining] = field(default_factory=list["Redefining"])


@dataclass
class Names:
    """Names that mean something to the code that is generated."""

    value: int
    depth: int
    self: int
    v1: int
    check_0: int
    is_encodable: int
    class_: int
    _private: int
    _: int
    CamelCase: int


INSTANCES: list[Any] = [
    SlotsByHand(1, "b"),
    FrozenSlotsByHand(1, "b"),
    Referable(1),
    Strict(a=1, again=Strict(a=2)),
    Fields(1, [2], named=3),
    OnTheClass(2),
    HoldsOnTheClass(OnTheClass(3), {OnTheClass(4): [OnTheClass(5)]}),
    OwnInit(a=1),
    OwnNew(1),
    OwnAccess(1),
    Properties(1),
    BesideProperty(2),
    IntContent(1),
    Unused[Any](2),
    Middle(1, "b", 0.5),
    Redefining(d=[Redefining(2)]),
    Names(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
]


@modes
@pytest.mark.parametrize("value", INSTANCES, ids=lambda value: type(value).__name__)
def test_every_kind_of_dataclass_arrives_exactly(mode: SerializationMode, value: Any) -> None:
    cls = cast("type[Any]", type(value))
    assert identical(round_trip(make_codec(mode, tags_of(cls)), value), value)


def _carry(mode: SerializationMode, hint: Any, value: Any) -> None:
    holder = make_dataclass("Holder", [("value", hint)])
    codec = make_codec(mode, tags_of(holder))
    assert identical(round_trip(codec, holder(value)), holder(value))


@modes
@pytest.mark.parametrize("cls", [Color, Level, Depth, Word, Real, Odd, Ends, Made], ids=lambda cls: cls.__name__)
def test_every_member_of_an_enum_arrives_as_itself_wherever_it_is(mode: SerializationMode, cls: type[enum.Enum]) -> None:
    for member in cls:
        _carry(mode, cls, member)
    _carry(mode, list[cls], list(cls))
    _carry(mode, dict[cls, cls | None], dict.fromkeys(cls))
    _carry(mode, set[cls], set(cls))
    _carry(mode, tuple[cls, bytes | cls], (next(iter(cls)), next(iter(cls))))


UTC = datetime.UTC
KEYS: dict[Any, list[Hashable]] = {
    str: ["", "a\0\N{GRINNING FACE}"],
    int: [-(2**63), 0, 2**63 - 1],
    float: [float("inf"), -0.0, 5e-324, 0.1],
    bool: [False, True],
    bytes: [b"", b"\0\xff"],
    datetime.date: [datetime.date.min, datetime.date.max],
    datetime.datetime: [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=UTC)],  # noqa: DTZ001  # both sorts are under test
    datetime.time: [datetime.time.min, datetime.time(23, 59, 59, 999_999, fold=1)],
    datetime.timedelta: [datetime.timedelta(microseconds=-1), datetime.timedelta(0)],
    uuid.UUID: [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    UserId: [1],
    AdminId: [2],
    Literal[1, 2]: [2],
    Literal["a"]: ["a"],
    Literal[b"x"]: [b"x"],
    Literal[True]: [True],
    Literal[Word.A]: [Word.A],
    Point: [Point(1, 2), Point(2, 1)],
    Label: [Label("a"), Label("a", "b")],
    FrozenSlotsByHand: [FrozenSlotsByHand(1, "a")],
    IntContent: [IntContent(1)],
    tuple[int, str]: [(1, "a"), (1, "")],
    tuple[str, ...]: [(), ("a",)],
    Optional[str]: [None, ""],  # noqa: UP045  # the old spelling is under test too
    int | str | None: [None, 1, "1"],
    Union[bool, int]: [2],  # noqa: UP007
    datetime.date | datetime.datetime: [datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=UTC)],
    Annotated[int, "a", 1]: [1],
    Annotated[Annotated[int, 1] | None, "a"]: [None, 1],
}
"""Every type that may be hashed, with some of its values."""


@modes
@pytest.mark.parametrize("hint", KEYS, ids=str)
def test_every_type_of_key_arrives_exactly_in_every_container(mode: SerializationMode, hint: Any) -> None:
    keys = KEYS[hint]
    _carry(mode, dict[hint, hint], dict(zip(keys, keys, strict=True)))
    _carry(mode, set[hint], set(keys))
    _carry(mode, frozenset[hint], frozenset(keys))
    _carry(mode, list[hint], keys * 2)
    _carry(mode, tuple[hint, ...], tuple(keys))
    _carry(mode, tuple[hint, str, hint], (keys[0], "", keys[-1]))
    _carry(mode, dict[str, dict[str, list[hint]]], {"a": {"b": keys}, "": {}})
    _carry(mode, hint | None, None)
    for key in keys:
        _carry(mode, hint, key)
        _carry(mode, hint | None, key)


@modes
@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (decimal.Decimal, decimal.Decimal("-1.50")),
        (list[decimal.Decimal], [decimal.Decimal("1E+3"), decimal.Decimal(1000)]),
        (tuple[()], ()),
        (list[tuple[()]], [(), ()]),
        (Final[Annotated[int, 1]], 1),
        (Annotated[Final[int], 1], 1),
        (Literal[2**63 - 1, -(2**63)], -(2**63)),
        (Literal[Literal[1], 2, None], None),  # noqa: RUF041  # that is the point
        ("int | None", 1),
        (list["int"], [1]),
        (float | int, 1),
        (list[list[list[list[str | None]]]], [[[["", None]], []], []]),
    ],
)
def test_other_hints_are_read_for_what_they_mean(mode: SerializationMode, hint: Any, value: Any) -> None:
    _carry(mode, hint, value)


_ALIASES = """
import dataclasses

type Ids = list[int]
type Table = dict[str, Ids | None]
type Json = int | str | list[Json]
type Pair[T] = tuple[T, T]

@dataclasses.dataclass
class Good:
    ids: Ids
    twice: tuple[Ids, Ids]
    table: Table

@dataclasses.dataclass
class Recursive:
    field: list[Json]

@dataclasses.dataclass
class Parametrised:
    field: Pair[int]

@dataclasses.dataclass
class Box[T]:
    content: T
"""


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with ``type`` statements, which Python 3.11 cannot even compile."""
    if sys.version_info < (3, 12):
        pytest.skip("the type statement came with Python 3.12")
    module = types.ModuleType("aliases")
    monkeypatch.setitem(sys.modules, "aliases", module)
    exec(_ALIASES, vars(module))
    return module


@modes
def test_a_type_alias_is_what_it_stands_for(mode: SerializationMode, aliases: Any) -> None:
    value = aliases.Good([1], ([2], []), {"a": [3], "b": None})
    assert identical(round_trip(make_codec(mode, tags_of(aliases.Good)), value), value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Recursive", r"^Recursive\.field cannot be sent: the type alias Json contains itself; make it a dataclass"),
        ("Parametrised", r"^Parametrised\.field cannot be sent: Pair\[int\] is not supported; a type alias cannot be sent with type arguments: write out"),
        ("Box", r"^Box\.content cannot be sent: T is not supported"),
    ],
)
def test_a_type_alias_or_parameter_without_a_fixed_meaning_is_refused(aliases: Any, name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tags_of(getattr(aliases, name))
