"""A reader with another version of a class reads what it knows; what has changed is refused by name, ahead of any row."""

from __future__ import annotations

import datetime
import enum
import json
import struct
import time
import tracemalloc
import uuid
from dataclasses import MISSING, field, make_dataclass
from itertools import islice, permutations
from typing import Any, Literal, Optional, Union, cast, get_origin

import pytest

from aster.codec import make_codec, materialize
from aster.codec.row import RowCodec
from aster.codec.row.codec import MAX_REMEMBERED
from aster.codec.row.schema import MAX_SCHEMA_BYTES, MAX_TYPE_DEPTH, RowSchema, decode_schema
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.models import Label, Point
from tests.codec.row.rows import parts

_NO_DEFAULT: Any = MISSING


def _version(name: str = "One", **fields: Any) -> type[Any]:
    """A dataclass; a field is a type, or a type and a default."""
    specs = [(each, *_hint_and_field(given)) for each, given in fields.items()]
    return make_dataclass(name, specs, kw_only=True)


def _hint_and_field(given: Any) -> tuple[Any, Any]:
    hint, default = cast("tuple[Any, Any]", given) if isinstance(given, tuple) else (given, _NO_DEFAULT)
    if default is _NO_DEFAULT:
        return hint, field()
    return hint, field(default_factory=default) if callable(default) else field(default=default)


def _codec(cls: type, *others: type, tag: str = "tests/One") -> RowCodec:
    codec = make_codec(SerializationMode.ROW, {cls: tag, Point: "tests/Point", Label: "tests/Label", **{each: f"tests/{each.__name__}" for each in others}})
    assert isinstance(codec, RowCodec)
    return codec


def _sent(writer: type[Any], reader: type[Any], /, **values: Any) -> Any:
    """A value of one version as a view of the other."""
    return _codec(reader).decoder(reader)(_codec(writer).encoder(writer)(writer(**values)))


def test_an_added_field_gets_its_default_once_a_view() -> None:
    view = _sent(_version(a=int), _version(a=int, b=(int, 5), c=(list[int], list), d=Optional[int], e=(Label, lambda: Label("made"))), a=1)  # noqa: UP045
    assert (view.a, view.b, view.c, view.d, view.e) == (1, 5, [], None, Label("made"))
    view.c.append(1)
    assert view.c == [1]
    plain = materialize(view)
    assert (plain.c, plain.e) == ([1], Label("made"))
    plain.c.append(2)
    assert view.c == [1]
    assert _sent(_version(a=int), _version(a=int, c=(list[int], list)), a=1).c == []


def test_a_view_makes_only_the_defaults_that_it_is_asked_for() -> None:
    made = list[str]()

    def factory(name: str) -> Any:
        return lambda: made.append(name) or list[int]()

    view = _sent(_version(a=int), _version(a=int, b=(list[int], factory("b")), c=(list[int], factory("c")), d=(list[int], factory("d"))), a=1)
    assert view.a == 1
    assert made == []
    assert view.c is view.c
    assert made == ["c"]
    assert materialize(view) == materialize(view)
    assert repr(view) == repr(view)
    assert made == ["c", "b", "d"]


def test_a_view_with_a_default_that_is_another_one_each_time_equals_itself() -> None:
    old, new = _version(a=int), _version(a=int, id=(uuid.UUID, uuid.uuid4))
    view, other = (_sent(old, new, a=1) for _ in range(2))
    assert view.id == view.id == materialize(view).id == materialize(view).id
    assert repr(view) == repr(view)
    assert view == materialize(view)
    assert view.id != other.id


def test_an_added_field_without_a_default_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match=r"the peer's rows have no One\.b, which has no default: give it one here, or send it there"):
        _sent(_version(a=int), _version(a=int, b=int), a=1)


def test_a_field_that_is_not_known_is_never_looked_at() -> None:
    writer, reader = _version(a=int, b=list[Point], c=str), _version(a=int)
    codec = _codec(writer)
    head, row = parts(codec.encoder(writer)(writer(a=1, b=[Point(1, 2)], c="x")))
    read = _codec(reader).decoder(reader)
    assert read(head + row) == reader(a=1)
    spoilt = row.replace(struct.pack("<q", 2), b"\xff" * 8).replace(b"x", b"\xff")
    assert spoilt != row
    assert read(head + spoilt) == reader(a=1)


def test_fields_may_be_in_another_order() -> None:
    view = _sent(_version(a=int, b=str), _version(b=str, a=int), a=1, b="x")
    assert (view.a, view.b) == (1, "x")


Color = enum.Enum("Color", {"RED": 1, "BLUE": 2})
More = enum.Enum("Color", {"BLUE": 9, "GREEN": 3, "RED": "r"})

_WIDENED: list[tuple[Any, Any, Any]] = [
    (int, Optional[int], 5),  # noqa: UP045
    (list[int], tuple[int, ...], [1, 2]),
    (tuple[str, ...], list[str], ("a",)),
    (set[int], frozenset[int], {1}),
    (int, Union[int, str], 5),  # noqa: UP007
    (Union[int, str], Union[str, bytes, int], "x"),  # noqa: UP007
    (Union[int, str], Optional[Union[str, bytes, int]], 7),  # noqa: UP007, UP045
    (Optional[int], Union[str, int, None], None),  # noqa: UP007, UP045
    (Literal["a", "b"], str, "b"),
    (Literal["a"], Literal["a", "b"], "a"),
    (list[int], list[Optional[int]], [1]),  # noqa: UP045
    (dict[str, int], dict[str, Union[int, str]], {"a": 1}),  # noqa: UP007
    (tuple[int, int], tuple[int, Union[int, str]], (1, 2)),  # noqa: UP007
    (tuple[int, str], tuple[Optional[int], str], (1, "a")),  # noqa: UP045
    (tuple[int, int], tuple[int, Literal[1, 2]], (1, 2)),
    (tuple[Literal[1], Literal[1, 2]], tuple[int, int], (1, 2)),
    (Point, Optional[Point], Point(1, 2)),  # noqa: UP045
    (Point, Union[Label, Point], Point(1, 2)),  # noqa: UP007
]


@pytest.mark.parametrize(("old", "new", "value"), _WIDENED)
def test_a_type_with_more_values_reads_those_of_the_narrower_one(old: Any, new: Any, value: Any) -> None:
    view = _sent(_version(f=old), _version(f=new), f=value)
    expected: Any = tuple(value) if new == tuple[int, ...] else list(value) if new == list[str] else value
    assert view.f == expected
    assert materialize(view).f == expected


def test_each_item_of_a_tuple_is_judged_by_its_own_type() -> None:
    old, new = _version(f=tuple[int, int]), _version(f=tuple[int, Literal[1]])
    assert _sent(old, new, f=(2, 1)).f == (2, 1)
    with pytest.raises(DecodeError, match=r"One\.f\[1\] must be one of 1, not 2"):
        _ = _sent(old, new, f=(1, 2)).f


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_tuple_of_another_length_than_its_schema_says_is_refused(count: int) -> None:
    one, many = _version(f=tuple[int, int]), _version(f=list[int])
    head, _ = parts(_codec(one).encoder(one)(one(f=(1, 2))))
    _, row = parts(_codec(many).encoder(many)(many(f=list(range(count)))))
    with pytest.raises(DecodeError, match=rf"One\.f has {count} items, and must have 2"):
        _ = _codec(one).decoder(one)(head + row).f


def test_members_of_enums_go_by_their_names() -> None:
    writer, reader = _version(f=Color, g=list[Color]), _version(f=More, g=list[More])
    tags: dict[type, str] = {writer: "tests/One", Color: "tests/Color"}
    data = make_codec(SerializationMode.ROW, tags).encoder(writer)(writer(f=Color.RED, g=[Color.BLUE]))
    other: dict[type, str] = {reader: "tests/One", More: "tests/Color"}
    view = make_codec(SerializationMode.ROW, other).decoder(reader)(data)
    assert (view.f, list(view.g)) == (More.RED, [More.BLUE])


_CHANGED: list[tuple[Any, Any, str, str]] = [
    (int, str, "int", "str"),
    (int, float, "int", "float"),
    (bool, int, "bool", "int"),
    (str, bytes, "str", "bytes"),
    (Optional[int], int, r"int \| None", "int"),  # noqa: UP045
    (Union[int, str], int, r"int \| str", "int"),  # noqa: UP007
    (list[int], set[int], r"list\[int\]", r"set\[int\]"),
    (list[int], list[str], r"list\[int\]", r"list\[str\]"),
    (list[int], int, r"list\[int\]", "int"),
    (dict[str, int], dict[int, int], r"dict\[str, int\]", r"dict\[int, int\]"),
    (tuple[int, int], tuple[int, int, int], r"tuple\[int, int\]", r"tuple\[int, int, int\]"),
    (tuple[int, int], tuple[int, ...], r"tuple\[int, int\]", r"tuple\[int, \.\.\.\]"),
    (Point, Label, "tests.Point", "Label"),
    (int, Point, "int", "Point"),
    (Point, int, "tests.Point", "int"),
    (Color, str, r"tests\.codec\.row\.test_evolution\.Color", "str"),
    (str, Color, "str", "Color"),
    (list[Optional[int]], list[int], r"list\[int \| None\]", r"list\[int\]"),  # noqa: UP045
]


@pytest.mark.parametrize(("old", "new", "theirs", "ours"), _CHANGED)
def test_a_changed_type_is_refused_by_the_name_of_its_field(old: Any, new: Any, theirs: str, ours: str) -> None:
    writer, reader = _version(f=old), _version(f=new)
    data = _codec(writer).encoder(writer)(_any_of(writer, old))
    with pytest.raises(DecodeError, match=rf"^the peer's rows have {theirs} for One\.f, which is {ours} here: give both ends one type$"):
        _codec(reader).decoder(reader)(data)


def _any_of(writer: type[Any], hint: Any) -> Any:
    values: dict[Any, Any] = {bool: True, str: "x", Point: Point(1, 2), Color: Color.RED, tuple[int, int]: (1, 2), dict[str, int]: dict[str, int]()}
    return writer(f=list[int]() if get_origin(hint) is list else values.get(hint, 1))


def test_a_changed_type_further_inside_is_refused_by_its_own_field() -> None:
    old, new = _version("Inner", x=int), _version("Inner", x=str)
    writer, reader = _version(f=list[old]), _version(f=list[new])
    data = _codec(writer, old).encoder(writer)(writer(f=[]))
    with pytest.raises(DecodeError, match=r"the peer's rows have int for Inner\.x, which is str here"):
        _codec(reader, new).decoder(reader)(data)


def test_another_class_is_refused_by_its_tag() -> None:
    one = _version(a=int)
    data = _codec(one, tag="tests/Other").encoder(one)(one(a=1))
    with pytest.raises(DecodeError, match=r"the peer sent a row of tests\.Other, not of a One, whose tag is tests\.One"):
        _codec(one).decoder(one)(data)


# Schemas of peers

_GOOD: Any = [["tests.One", [["a", "int"]]]]


def _with_schema(form: Any) -> bytes:
    schema = form if isinstance(form, bytes) else json.dumps(form).encode()
    return len(schema).to_bytes(8, "little") + schema + bytes(16)


def _nested(depth: int) -> Any:
    form: Any = "int"
    for _ in range(depth):
        form = ["list", form]
    return [["tests.One", [["a", "int"], ["z", form]]]]


_MALFORMED: list[tuple[Any, str]] = [
    (b"[", "it is not JSON"),
    (b"\xff", "it is not JSON"),
    (b"[" * 30_000, "it is not JSON"),
    ({}, "the structs must be an array, not {}"),
    ([], "it has no structs"),
    ([1], "a struct must be an array, not 1"),
    ([["tests.One"]], "a struct must be a name and what it has, not 1 things"),
    ([["", []]], "'' is no name"),
    ([[1, []]], "1 is no name"),
    ([["x" * 1025, []]], "is no name"),
    ([["tests.One", {}]], "the fields of a struct must be an array"),
    ([["tests.One", ["a"]]], "a field must be an array"),
    ([["tests.One", [["b", "int"], ["a", "int"]]]], "the fields of tests.One are not in the order of their names, each once"),
    ([["tests.One", [["a", "int"], ["a", "int"]]]], "not in the order of their names, each once"),
    ([["tests.One", []], ["tests.One", []]], "two of its structs have one name"),
    ([["tests.One", [["a", "complex"]]]], "a type must be an array"),
    ([["tests.One", [["a", ["list"]]]]], r"\['list'\] is no type"),
    ([["tests.One", [["a", ["list", "int", "int"]]]]], "is no type"),
    ([["tests.One", [["a", ["union", "int"]]]]], "is no type"),
    ([["tests.One", [["a", ["struct", 1]]]]], "is no type"),
    ([["tests.One", [["a", ["union", *(["enum", f"e{number}"] for number in range(129))]]]]], "is no type"),
    ([["tests.One", [["a", ["struct", True]]]]], "is no type"),
    ([["tests.One", [["a", ["struct", -1]]]]], "is no type"),
    ([["tests.One", [["a", ["enum", 5]]]]], "5 is no name"),
    ([["tests.One", [["a", ["optional", ["optional", "int"]]]]]], "a union or a null in it holds another one, or one member twice"),
    ([["tests.One", [["a", ["union", "int", ["optional", "str"]]]]]], "a union or a null in it holds another one, or one member twice"),
    ([["tests.One", [["a", ["union", "int", ["union", "str", "bool"]]]]]], "a union or a null in it holds another one, or one member twice"),
    ([["tests.One", [["a", ["union", "int", "int"]]]]], "a union or a null in it holds another one, or one member twice"),
    (b'{"a":' * 994 + b"1" + b"}" * 994, "must be an array|it is not JSON"),
    (b'{"a":' * 60 + b"1" + b"}" * 60, "must be an array"),
    (_nested(MAX_TYPE_DEPTH + 1), f"it has more than {MAX_TYPE_DEPTH} types inside each other"),
    (b" " * (MAX_SCHEMA_BYTES + 1), f"it takes {MAX_SCHEMA_BYTES + 1} bytes, and the limit is {MAX_SCHEMA_BYTES}"),
]


@pytest.mark.parametrize(("form", "text"), _MALFORMED)
def test_a_malformed_schema_is_a_decode_error(form: Any, text: str) -> None:
    one = _version(a=int)
    with pytest.raises(DecodeError, match=f"the schema that came with a One cannot be read: .*({text})"):
        _codec(one).decoder(one)(_with_schema(form))


@pytest.mark.parametrize(
    "form", [_GOOD, _nested(MAX_TYPE_DEPTH), [["tests.One", [["a", "int"], ["b", ["items"]], ["c", ["union", ["list", "int"], ["list", "str"]]]]]]]
)
def test_a_schema_may_have_what_no_class_of_ours_has(form: Any) -> None:
    one = _version(a=int)
    assert decode_schema(json.dumps(form).encode())
    data = json.dumps(form).encode()
    assert _codec(one).decoder(one)(len(data).to_bytes(8, "little") + data + b"\xfe" + bytes(8 * 4 - 1)).a == 0  # all others are null


def test_a_message_whose_schema_is_too_long_is_refused_when_its_class_is_used() -> None:
    classes = [make_dataclass(f"Long{number}", [(f"field_{'x' * 90}_{place}", int) for place in range(100)]) for number in range(6)]
    root = make_dataclass("Root", [(f"f{number}", cls) for number, cls in enumerate(classes)])
    codec = make_codec(SerializationMode.ROW, {root: "tests/Root", **{cls: f"tests/{cls.__name__}" for cls in classes}})
    with pytest.raises(
        TypeError, match=rf"Root cannot be sent in rows: of its schema, it takes \d+ bytes, and the limit is {MAX_SCHEMA_BYTES}; split the message"
    ):
        codec.encoder(root)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"x" * 1025: int}, "is no name"),
        ({"f": tuple[tuple([int] * 1000)]}, "is no type"),
    ],
)
def test_a_message_whose_schema_no_receiver_would_read_is_refused_when_its_class_is_used(fields: dict[str, Any], text: str) -> None:
    one = make_dataclass("One", list(fields.items()))
    with pytest.raises(TypeError, match=rf"One cannot be sent in rows: of its schema, .*{text}"):
        _codec(one).encoder(one)


def test_names_may_be_longer_than_those_of_types() -> None:
    one = make_dataclass("One", [("x" * 1024, int)])
    assert materialize(_codec(one).decoder(one)(_codec(one).encoder(one)(one(5)))) == one(5)


def test_a_schema_that_is_long_to_bind_does_not_take_long_and_leaves_little() -> None:
    """Unions of unions of ours, each of another order: none of them is bound for the second time."""
    scalars = (int, str, float, bool, bytes, uuid.UUID, datetime.date)
    inner: Any = Union[scalars]  # noqa: UP007
    union: Any = Union[(*scalars, list[inner], dict[str, inner])]
    one = _version(f=union, g=union, h=union)
    names = ["bool", "bytes", "date", "float", "int", "str", "uuid"]
    members: Any = [["list", ["union", *order]] for order in islice(permutations(names), 120)]
    data = json.dumps([["tests.One", [[name, ["union", *members]] for name in "fgh"]]], separators=(",", ":")).encode()
    assert 0.7 * MAX_SCHEMA_BYTES < len(data) < MAX_SCHEMA_BYTES
    decode = _codec(one).decoder(one)
    tracemalloc.start()
    began = time.process_time()
    try:
        assert isinstance(decode(len(data).to_bytes(8, "little") + data + bytes(64)), one)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 4 MB, and a twentieth of a second without the tracing; where each member was tried in turn it was a second.
    assert kept < 2**24
    assert time.process_time() - began < 5


def test_a_long_type_of_a_peer_is_not_repeated_in_full() -> None:
    one = _version(a=int)
    with pytest.raises(DecodeError) as caught:
        _codec(one).decoder(one)(_with_schema([["tests.One", [["a", ["items", *["int"] * 999]]]]]))
    assert len(str(caught.value)) < 400


def test_schemas_of_peers_do_not_pile_up() -> None:
    one = _version(a=int)
    decode = _codec(one).decoder(one)
    for number in range(1_500):
        assert decode(_with_schema([["tests.One", [["a", "int"], [f"b{number:04}", "int"]]]]) + bytes(8)).a == 0
    remembered = list(decode._bound)  # pyright: ignore[reportPrivateUsage]
    assert len(remembered) == MAX_REMEMBERED // 1_024
    assert b"b1499" in remembered[-1]


def test_many_small_schemas_leave_little() -> None:
    """Of each all fields of the class are missing, and one that is none of them is there."""
    one = make_dataclass("One", [(f"field{number}", list[int], field(default_factory=list[int])) for number in range(100)])
    decode = _codec(one).decoder(one)
    messages = [_with_schema([["tests.One", [[f"x{number:05}", "int"]]]]) + bytes(8) for number in range(1_000)]
    tracemalloc.start()
    try:
        for message in messages:
            assert decode(message).field7 == []
        kept, _ = tracemalloc.get_traced_memory()
        views = [decode(message) for message in messages]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(views) == 1_000
    # 0.1 MB and 3.4 MB: what gives the defaults is one for all schemas. It was 35 MB, of each view of its own.
    assert kept < 2**19
    assert held < 2**23


def test_a_schema_that_two_threads_bind_at_once_is_counted_once() -> None:
    """Counted twice, one of more than half of what is remembered would drive itself out, and take a part of the room for good."""
    one = _version(a=int)
    decode = _codec(one).decoder(one)
    message = _with_schema([["tests.One", [["a", "int"], *([f"b{number:0999}", "int"] for number in range(20))]]]) + bytes(8 * 20)
    assert MAX_REMEMBERED / 2 < len(message) < MAX_REMEMBERED
    bind = decode._bind  # pyright: ignore[reportPrivateUsage]
    bound: list[RowSchema] = []

    def bind_with_company(schema: RowSchema) -> Any:
        bound.append(schema)
        if len(bound) == 1:
            decode(message)  # as another thread may while this one is at it
        return bind(schema)

    decode._bind = bind_with_company  # pyright: ignore[reportPrivateUsage]
    decode(message)
    decode(message)
    assert len(bound) == 2


def test_a_schema_stands_for_the_rows_behind_it_also_where_the_first_is_spoilt() -> None:
    one = _version(a=int, text=str)
    codec = _codec(one)
    head, row = parts(codec.encoder(one)(one(a=1, text="t")))
    decode = codec.decoder(one).for_stream()
    with pytest.raises(DecodeError, match="takes 8 bytes, fewer than the 24"):
        decode(head + row[:8])
    assert decode(bytes(8) + row) == one(a=1, text="t")


def test_a_message_that_ends_inside_its_schema_is_told_so_also_when_the_schema_is_known() -> None:
    one = _version(a=int)
    codec = _codec(one)
    head, row = parts(codec.encoder(one)(one(a=1)))
    decode = codec.decoder(one)
    decode(head + row)
    for cut in (head[:-1], (2**40).to_bytes(8, "little") + head[8:]):
        with pytest.raises(DecodeError, match="it ends behind its message"):
            decode(cut)
