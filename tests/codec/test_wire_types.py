"""Which types can be sent is decided when they are declared, by class and field name."""

from __future__ import annotations

import abc
import collections
import dataclasses
import decimal
import enum
import fractions
import pathlib
import typing
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, make_dataclass
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import pytest

from aster.codec import make_codec, wire_types
from aster.types import SerializationMode
from tests.codec.models import Choices, Color, Empty, Label, Link, Ping, Point, Pong, TaskRequest, Tree

T = TypeVar("T")


class Dictionary(TypedDict):
    a: int


class Row(NamedTuple):
    a: int


class Plain:
    pass


class Options(enum.Flag):
    A = 1


class Wide(enum.Enum):
    A = 2**40


class Memberless(enum.Enum):
    pass


class IntOptions(enum.IntFlag):
    A = 1


class PairMember(tuple[int, int], enum.Enum):
    A = (1, 2)


@dataclass(frozen=True)
class Base:
    a: int


class BaseMember(Base, enum.Enum):
    A = 1


class HashlessMember(bytearray, enum.Enum):
    A = 1


@dataclass
class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self) -> None: ...


@dataclass
class Failure(Exception):
    a: int = 0


class Undecorated(TaskRequest):
    pass


@dataclass
class Box(Generic[T]):
    content: T


@dataclass(frozen=True)
class FrozenSets:
    parts: frozenset[str]


@dataclass(frozen=True)
class FrozenLists:
    parts: list[str]


@dataclass(frozen=True)
class FrozenUnion:
    parts: int | tuple[str, ...]


@dataclass(frozen=True)
class FrozenTuples:
    parts: tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class FrozenNumbers:
    parts: tuple[int, ...]


@dataclass(frozen=True)
class FrozenNothing:
    nothing: tuple[()]


@dataclass(frozen=True)
class FrozenOuter:
    again: FrozenOuter | None
    request: TaskRequest


class FakeAttrs:
    __attrs_attrs__ = ()


class FakePydantic:
    __pydantic_fields__ = ()


@dataclass
class FakePydanticDataclass:
    __pydantic_fields__: typing.ClassVar[dict[str, Any]] = {}
    a: int = 0


@dataclass
class NewPydanticDataclass:
    __is_pydantic_dataclass__: typing.ClassVar[bool] = True
    a: int = 0


class FakeMsgspec:
    __struct_fields__ = ()


def _unchanged(hint: Any) -> Any:
    return hint


def _in_a_dict(hint: Any) -> Any:
    return dict[str, hint]


@pytest.mark.parametrize(
    ("hint", "what", "mend"),
    [
        (Any, "Any does not say what is in it", "name the type"),
        (object, "object does not say what is in it", "name the type"),
        (None, "None alone carries nothing", "Optional"),
        (list, "a bare list", r"list\[int\]"),
        (dict, "a bare dict", r"dict\[str, int\]"),
        (tuple, "a bare tuple", r"tuple\[int, ...\]"),
        (typing.List, "a bare list", r"list\[int\]"),  # noqa: UP006
        (complex, "complex is not supported", r"use tuple\[float, float\]"),
        (bytearray, "bytearray is not supported", "use bytes"),
        (collections.deque, "deque is not supported", r"use list\[...\]"),
        (Sequence[int], r"Sequence\[int\] is not supported", r"use list\[...\]"),
        (Iterable[int], r"Iterable\[int\] is not supported", r"use list\[...\]"),
        (AsyncIterator[int], "is not supported", "or a streaming method"),
        (Mapping[str, int], "is not supported", r"use dict\[..., ...\]"),
        (Callable[[], int], "is not supported", "a field may be str, int"),
        (T, "~T is not supported", "a field may be str, int"),
        (Dictionary, "Dictionary is a TypedDict", "use a dataclass"),
        (Row, "Row is a NamedTuple", "use a dataclass"),
        (Plain, "Plain is neither a dataclass nor an Enum", "decorate it with @dataclass"),
        (Undecorated, "Undecorated inherits from a dataclass but is not one itself", "decorate it with @dataclass too"),
        (FakeAttrs, "FakeAttrs is an attrs class", "decorate it with @dataclasses.dataclass instead"),
        (FakePydantic, "FakePydantic is a pydantic model", "use a standard dataclass"),
        (FakePydanticDataclass, "FakePydanticDataclass is a pydantic model or dataclass", "use a standard dataclass"),
        (NewPydanticDataclass, "NewPydanticDataclass is a pydantic model or dataclass", "use a standard dataclass"),
        (pathlib.Path, "Path is not supported", "send what it stands for as str"),
        (fractions.Fraction, "Fraction is not supported", "send what it stands for as str"),
        (FakeMsgspec, "FakeMsgspec is a msgspec struct", "use a dataclass"),
        (Options, "Options is a Flag", "use an int"),
        (IntOptions, "IntOptions is a Flag", "use an int"),
        (PairMember, "PairMember is an Enum and a container or dataclass in one", "leave out the second base"),
        (BaseMember, "BaseMember is an Enum and a container or dataclass in one", "leave out the second base"),
        (HashlessMember, "HashlessMember is an Enum whose members have no hash", "give it a __hash__"),
        (Wide, "Wide has a value above 4294967295", "use smaller numbers"),
        (Memberless, "Memberless has no members", "give it one"),
        (Abstract, "Abstract has instances that cannot be made", "use a concrete dataclass"),
        (Failure, "Failure has instances that cannot be made", "inherits from no built-in type"),
        (Box[int], r"Box\[int\] is not supported", "make a dataclass for each case"),
        (InitVar[int], "is an InitVar", "make it a field"),
        (Literal[1, "a"], "mixes types", "of one type"),
        (Literal[1, 2**63], "its literal 9223372036854775808 does not fit in 64 bits", "send it as str"),
        (Literal["\ud800"], r"its literal '\\ud800' holds a lone surrogate", "send such data as bytes"),
        (typing.Final, "a bare Final does not say what it is", r"Final\[int\]"),
        (Box, "~T is not supported", "a field may be str, int"),
        (set[tuple[()]], r"tuple\[\(\)\] cannot be an element of a set: Fory reads it as a list", "leave it out"),
        (dict[tuple[int, tuple[()]], int], r"tuple\[\(\)\] cannot be a dict key", "leave it out"),
        (set[FrozenNothing], r"tuple\[\(\)\] cannot be an element of a set", "leave it out"),
        (Literal[None], "carries nothing", "of one type"),
        (set[list[int]], r"list\[int\] is not hashable", "use a tuple"),
        (dict[TaskRequest, int], "TaskRequest is not hashable", "make it a frozen dataclass"),
        (set[decimal.Decimal], "Decimal cannot be an element of a set", "use str or int"),
        (dict[tuple[decimal.Decimal, int], int], "Decimal cannot be a dict key", "use str or int"),
        (set[tuple[int, ...]], "cannot be an element of a set, since a peer could choose values whose hashes collide", "a tuple of fixed length"),
        (set[frozenset[int]], r"frozenset\[int\] cannot be an element of a set", "use a tuple"),
        (dict[tuple[tuple[int, ...], str], int], "cannot be a dict key inside another tuple", "use a frozen dataclass"),
        (dict[tuple[int, str], int] | str, r"tuple\[int, str\] cannot be a dict key inside another tuple or a union", "use a frozen dataclass"),
        (int | set[tuple[int, str]], r"tuple\[int, str\] cannot be an element of a set inside another tuple", "use a frozen dataclass"),
        (tuple[dict[tuple[int, str], int], int], r"tuple\[int, str\] cannot be a dict key inside another tuple", "use a frozen dataclass"),
        (tuple[list[set[tuple[int, str]]], str], "cannot be an element of a set inside another tuple", "use a frozen dataclass"),
        (set[FrozenSets], r"frozenset\[str\] in FrozenSets.parts cannot be an element of a set: Fory reads it as a set", "use a tuple"),
        (dict[FrozenLists, int], r"list\[str\] in FrozenLists.parts is not hashable, so it cannot be a dict key", "use a tuple"),
        (set[FrozenUnion], r"tuple\[str, \.\.\.\] in FrozenUnion.parts cannot be an element of a set inside another", "use a frozen dataclass"),
        (set[FrozenTuples], r"tuple\[str, \.\.\.\] in FrozenTuples.parts cannot be an element of a set inside another", "use a frozen dataclass"),
        (set[FrozenNumbers], r"tuple\[int, \.\.\.\] in FrozenNumbers.parts cannot be an element .* hashes collide", "a tuple of fixed length"),
        (set[tuple[FrozenOuter, int]], r"TaskRequest in FrozenOuter.request is not hashable", "make it a frozen dataclass"),
        (list[Empty], "Empty has no fields", "give Empty a field"),
        (int | list[int] | tuple[int, ...], "look the same on the wire", "wrap each in a dataclass"),
        (set[int] | frozenset[str], "look the same on the wire", "wrap each in a dataclass"),
        (Literal["a"] | str, "look the same on the wire", "keep one of them"),
    ],
)
@pytest.mark.parametrize("wrap", [_unchanged, _in_a_dict], ids=["alone", "inside"])
def test_an_unsupported_field_is_refused_by_class_and_field_with_the_mend(hint: Any, what: str, mend: str, wrap: Callable[[Any], Any]) -> None:
    if isinstance(hint, InitVar):
        wrap = _unchanged  # means something as a field's whole type only
    holder = make_dataclass("Holder", [("good", int), ("field", wrap(hint))])
    with pytest.raises(TypeError, match=rf"^(Holder\.field|Box\.content) cannot be sent: .*{what}.*{mend}"):
        wire_types([holder])
    with pytest.raises(TypeError, match="cannot be sent"):
        make_codec(SerializationMode.XLANG, {holder: "a/Holder"})


@dataclass(frozen=True)
class PartlyHashed:
    key: str
    notes: list[str] = dataclasses.field(default_factory=list[str], compare=False)


@dataclass(frozen=True)
class HashedByHand:
    notes: list[str]

    def __hash__(self) -> int:
        return hash(tuple(self.notes))


def test_what_a_frozen_dataclass_does_not_hash_may_be_of_any_type() -> None:
    assert wire_types([make_dataclass("Holder", [("field", dict[PartlyHashed, set[HashedByHand]])])])[1:] == (PartlyHashed, HashedByHand)


@dataclass
class Lost:
    first: int
    second: list[Missing]  # pyright: ignore[reportUndefinedVariable]  # noqa: F821  # that is the point


def test_an_unresolvable_name_is_refused_by_class_and_field() -> None:
    with pytest.raises(TypeError, match=r"Lost\.second cannot be sent: name 'Missing' is not defined; define or import the name at the top level of module"):
        wire_types([Lost])


def test_a_hint_that_fails_otherwise_is_refused_by_class() -> None:
    holder = make_dataclass("Holder", [("field", "collections.nothing")], namespace={"__module__": __name__})
    with pytest.raises(TypeError, match="type hints of Holder cannot be resolved"):
        wire_types([holder])


def test_a_class_inside_a_function_may_name_itself_and_the_names_it_is_given() -> None:
    @dataclass
    class Local:
        again: Local | None = None

    @dataclass
    class User:
        local: Local

    assert wire_types([Local]) == (Local,)
    assert wire_types([User], localns={"Local": Local}) == (User, Local)


@pytest.mark.parametrize("root", [Plain, int, 5, Undecorated, Options])
def test_a_root_that_cannot_be_a_message_is_refused(root: Any) -> None:
    with pytest.raises(TypeError, match="cannot be a message: it"):
        wire_types([root])


def test_a_name_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Holder\.größe cannot be sent: its name is not ASCII"):
        wire_types([make_dataclass("Holder", [("größe", int)])])


def test_more_fields_than_a_peer_accepts_are_refused() -> None:
    assert wire_types([make_dataclass("Holder", [(f"f{n}", int) for n in range(128)])])
    with pytest.raises(TypeError, match="Holder has 129 fields and a message may have 128"):
        wire_types([make_dataclass("Holder", [(f"f{n}", int) for n in range(129)])])


def test_a_field_kept_by_a_descriptor_is_refused() -> None:
    @dataclass
    class Holder:
        field: int = 0

    Holder.field = property(lambda _: 5)  # pyright: ignore[reportAttributeAccessIssue]  # what a careless mixin does
    with pytest.raises(TypeError, match=r"Holder\.field cannot be sent: it is kept by a descriptor"):
        wire_types([Holder])


def test_the_roots_come_first_and_the_rest_in_the_order_of_discovery() -> None:
    assert wire_types([Tree, Choices, Tree]) == (Tree, Choices, Point, Label, Color)
    assert wire_types(iter([Ping])) == (Ping, Pong)
    assert wire_types([Link]) == (Link,)
    assert wire_types([Color]) == (Color,)
    assert wire_types([]) == ()


def test_class_variables_are_no_fields() -> None:
    @dataclass
    class Holder:
        kind: typing.ClassVar[Any] = object()
        value: int = 0

    assert wire_types([Holder]) == (Holder,)
    assert [field.name for field in dataclasses.fields(Holder)] == ["value"]
