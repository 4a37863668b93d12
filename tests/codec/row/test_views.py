"""A received row reads as its dataclass: attributes by name, lists and dicts as such, equal to what was sent, and real once it is asked to be."""

from __future__ import annotations

import abc
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aster.codec import auto_tag, buffer_of, make_codec, materialize
from aster.codec.walk import MAX_NESTING
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import decoded, nested
from tests.codec.models import CODECS, MESSAGES, MODES, Checked, CheckedMany, Label, Point, Tree
from tests.codec.row.rows import codec_of, view_of, walked
from tests.codec.schemas import schemas, values_in
from tests.codec.values import identical, values_of

ROW = SerializationMode.ROW


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass
class Order:
    number: int
    lines: list[Line] = field(default_factory=list[Line])
    notes: dict[str, Line] = field(default_factory=dict[str, Line])
    pair: tuple[int, Line] = (0, Line("none"))
    path: tuple[str, ...] = ()
    blob: bytes = b""
    either: Line | int | None = None

    def total(self) -> int:
        return sum(line.count for line in self.lines)

    @functools.cached_property
    def doubled(self) -> int:
        return 2 * self.number


ORDER = Order(7, [Line("a", 1), Line("b", 2), Line("c", 3)], {"x": Line("n", 9)}, (4, Line("p")), ("s", "t"), b"0123456789", Line("e"))


# Any value


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_every_value_is_read_piece_by_piece_as_it_was_sent(cls: type) -> None:
    @given(value=values_of(cls))
    def check(value: Any) -> None:
        view = view_of(value, CODECS[ROW])  # pyright: ignore[reportArgumentType]
        assert isinstance(view, cls)
        assert identical(walked(view), value)
        assert identical(materialize(view), value)

    check()


@given(data=st.data())
def test_a_view_equals_its_value_from_both_sides_and_so_do_its_parts(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    codec = schema.codec(ROW)
    value = data.draw(values_in(schema))
    view = codec.decoder(schema.root)(codec.encoder(schema.root)(value))
    assume("nan" not in repr(value))  # which equals nothing but the very same object
    assert view == value
    assert value == view
    assert (view != value) is False
    for each in dataclasses.fields(value):
        mine, its = getattr(view, each.name), getattr(value, each.name)
        assert mine == its
        assert its == mine
        assert (mine != its) is False


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_view_and_its_parts_are_sent_again_in_any_mode(cls: type[Any], mode: SerializationMode) -> None:
    @given(value=values_of(cls))
    def check(value: Any) -> None:
        view = view_of(value, CODECS[ROW])  # pyright: ignore[reportArgumentType]
        codec = CODECS[mode]
        assert identical(decoded(codec, cls, codec.encoder(cls)(view)), decoded(codec, cls, codec.encoder(cls)(value)))
        with_views = object.__new__(cls)  # an instance whose parts are views
        for each in dataclasses.fields(value):
            object.__setattr__(with_views, each.name, getattr(view, each.name))
        assert identical(decoded(codec, cls, codec.encoder(cls)(with_views)), decoded(codec, cls, codec.encoder(cls)(value)))

    check()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("part", ["parent", "one of a list", "list"])
def test_a_view_may_stand_no_deeper_than_what_it_is_made_into(part: str, mode: SerializationMode) -> None:
    codec = CODECS[mode]

    def around(levels: int, inner: int) -> Tree:
        tree = nested(inner, sideways=True)
        view, several = view_of(tree, CODECS[ROW]), view_of(Tree("several", [tree]), CODECS[ROW])  # pyright: ignore[reportArgumentType]
        mine = {"parent": Tree("mine", parent=view), "one of a list": Tree("mine", [view]), "list": Tree("mine", several.children)}[part]
        for _ in range(levels - 1):
            mine = Tree("node", parent=mine)
        return mine

    for levels in (1, 20, MAX_NESTING):
        assert decoded(codec, Tree, codec.encoder(Tree)(around(levels, MAX_NESTING - levels)))
        with pytest.raises(ValueError, match=f"^Tree[^ ]* is nested more than {MAX_NESTING} deep, or contains itself$"):
            codec.encoder(Tree)(around(levels, MAX_NESTING - levels + 1))


# A dataclass


def test_attributes_methods_and_patterns_work() -> None:
    view = view_of(ORDER)
    assert isinstance(view, Order)
    assert (view.number, view.lines[1].sku, view.notes["x"].count, view.pair[1].sku, view.either) == (7, "b", 9, "p", Line("e"))
    assert (view.total(), view.doubled, view.doubled) == (6, 14, 14)
    match view:
        case Order(number=7, lines=[_, Line(sku=sku), _]):
            assert sku == "b"
        case _:
            pytest.fail("a view is not matched as its class is")


def test_it_looks_like_its_class_and_says_what_it_is_when_it_is_changed() -> None:
    view = view_of(ORDER)
    assert type(view).__name__ == "Order"
    assert repr(view) == repr(ORDER)
    with pytest.raises(AttributeError, match=r"cannot set 'number': this Order is a view of a received row; change the copy that aster.materialize"):
        view.number = 8
    with pytest.raises(AttributeError, match="cannot delete 'number'"):
        del view.number
    with pytest.raises(AttributeError, match="'Order' object has no attribute 'nmber': it is a view of a received row"):
        _ = view.nmber
    assert not hasattr(view, "_private")


def test_what_is_made_from_it_is_plain() -> None:
    view = view_of(ORDER)
    made = [
        dataclasses.replace(view, number=8),
        copy.copy(view),
        copy.deepcopy(view),
        pickle.loads(pickle.dumps(view)),  # our own bytes
        Order(**{each.name: getattr(view, each.name) for each in dataclasses.fields(view)}),
        type(view)(7, []),
    ]
    assert [type(each) for each in made] == [Order] * len(made)
    assert made[0] == dataclasses.replace(ORDER, number=8)
    assert made[1] == made[2] == made[3] == made[4] == ORDER
    assert dataclasses.asdict(materialize(view)) == dataclasses.asdict(ORDER)
    assert [type(each) for each in (copy.copy(view.lines), copy.deepcopy(view.notes))] == [list, dict]


@dataclass(order=True, frozen=True)
class Ranked:
    rank: int
    name: str


@dataclass(eq=False)
class Thing:
    name: str


def test_what_is_made_from_it_is_plain_all_the_way_down() -> None:
    view = view_of(ORDER)
    replaced = dataclasses.replace(view, number=8)
    assert [type(replaced.lines), type(replaced.lines[0]), type(replaced.notes)] == [list, Line, dict]
    assert [type(each) for each in materialize(view.pair)] == [int, Line]
    assert [type(each) for each in materialize(view.lines[1:])] == [Line, Line]


@dataclass
class Cloning:
    """Makes copies of itself by hand, as much code does."""

    number: int = 0
    many: list[int] = field(default_factory=list[int])

    def clone(self) -> Cloning:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Cloning:
        made = type(self).__new__(type(self))
        for name, value in self.__dict__.items():
            setattr(made, name, copy.deepcopy(value, memo))
        return made

    @functools.cached_property
    def counted(self) -> int:
        return len(self.many)


def test_code_that_looks_into_the_dict_of_an_instance_finds_the_fields() -> None:
    view = view_of(Cloning(7, [1, 2]))
    assert vars(view) == {"number": 7, "many": [1, 2]}
    assert view.counted == 2
    assert vars(view)["counted"] == 2  # kept there, as it is in an instance
    for made in (view.clone(), copy.deepcopy(view), type(view)()):
        assert type(made) is Cloning
    assert view.clone() == copy.deepcopy(view) == Cloning(7, [1, 2])
    assert not hasattr(view_of(Slotted("x", [1])), "__dict__")


@dataclass
class Failing:
    number: int = 0

    def __post_init__(self) -> None:
        """What would make it, in a plain one."""

    @property
    def broken(self) -> int:
        return self._made_later  # that it is not there is what is tested  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


def test_an_attribute_that_a_property_misses_is_the_one_that_is_named() -> None:
    with pytest.raises(AttributeError, match=r"no attribute '_made_later'.*what __post_init__ adds"):
        _ = view_of(Failing(1)).broken


def test_comparisons_and_hashes_are_those_of_the_class() -> None:
    low, high = view_of(Ranked(1, "a")), view_of(Ranked(2, "a"))
    assert low < high and low <= Ranked(1, "a") and Ranked(3, "") > high and high >= low  # noqa: PT018  # one order
    assert sorted([high, Ranked(0, "z"), low]) == [Ranked(0, "z"), low, high]
    assert hash(low) == hash(Ranked(1, "a"))
    assert {low, Ranked(1, "a")} == {low}
    with pytest.raises(TypeError, match="unhashable"):
        hash(view_of(ORDER))
    thing = view_of(Thing("a"))
    assert thing == thing and thing != Thing("a") and len({thing, thing}) == 1  # noqa: PT018  # identity
    assert view_of(Line("a")) != view_of(Ranked(1, "a"))
    assert view_of(Line("a")) != "a"


@dataclass(weakref_slot=True, slots=True)
class Slotted:
    name: str = "default"
    more: list[int] = field(default_factory=list[int])


class Registering(type(abc.ABC)):
    made: list[str] = []  # noqa: RUF012  # what it counts

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /) -> Registering:
        cls.made.append(name)
        return super().__new__(cls, name, bases, namespace)


@dataclass
class Watched(metaclass=Registering):
    name: str = "default"

    def __init_subclass__(cls) -> None:
        raise AssertionError("no subclass was asked for")


@dataclass(kw_only=True)
class Older(Line):
    age: int = 3


@dataclass
class Guarded:
    """Does as it likes about attributes, constructors and leftovers."""

    name: str = "default"

    def __new__(cls, *args: Any, **kwargs: Any) -> Guarded:
        del args, kwargs
        return super().__new__(cls)

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError("nothing is set on a view")

    def __init__(self, name: str = "default") -> None:
        object.__setattr__(self, "name", name)

    def __getattr__(self, name: str) -> str:
        return f"no {name}"


@pytest.mark.parametrize("value", [Slotted("x", [1]), Ranked(1, "x"), Watched("x"), Older(sku="x", age=9), Guarded("x"), Label("x"), Tree("x", [Tree("y")])])
def test_classes_of_all_kinds_have_views(value: Any) -> None:
    before = list(Registering.made)
    view = view_of(value)
    assert Registering.made == before
    assert view == value
    assert type(materialize(view)) is type(value)
    name = dataclasses.fields(value)[-1].name
    assert getattr(view, name) == getattr(value, name)
    if isinstance(value, Guarded):
        assert view.other == "no other"


def test_post_init_runs_when_a_view_becomes_plain_and_not_before() -> None:
    good = view_of(Checked(1, 2))
    assert (good.low, good.high) == (1, 2)
    assert materialize(good).total == 3
    bad_value = Checked(1, 2)
    bad_value.low = 5
    bad = view_of(bad_value)
    assert bad.low == 5
    with pytest.raises(DecodeError, match="low 5 is above high 2"):
        materialize(bad)
    assert "unreadable Checked: low 5 is above high 2" in repr(bad)
    many = CheckedMany([Checked(1, 2), bad_value], {})
    with pytest.raises(DecodeError, match="low 5 is above high 2"):
        materialize(view_of(many))


def test_a_class_that_says_itself_what_is_unequal_is_asked() -> None:
    @dataclass
    class Contrary:
        number: int

        def __ne__(self, other: object) -> bool:
            return type(self) is type(other)

    view = view_of(Contrary(1), codec_of(Contrary))
    assert (view != Contrary(1)) is (Contrary(1) != Contrary(1)) is True


@dataclass
class Shape(abc.ABC):  # its metaclass is what is tested
    side: int


@dataclass
class Square(Shape):
    pass


def test_a_metaclass_that_remembers_subclasses_does_not_mix_up_a_class_and_its_views() -> None:
    view = view_of(Shape(1), codec_of(Shape))
    for _ in range(2):
        assert isinstance(view, Shape)
        assert not isinstance(Square(1), type(view))
        assert isinstance(Square(1), Shape)
        assert issubclass(Square, Shape)
        assert issubclass(type(view), Shape)


# Bytes


@dataclass
class Later:
    chosen: Literal[b"a", b"b"]
    later: bytes | None = None
    number: int = 0
    given: bytes = b"g"


def _later() -> Any:
    """Of a peer that has one of its fields."""
    earlier: Any = dataclasses.make_dataclass("Later", [("chosen", bytes)])
    tags: dict[type, str] = {earlier: auto_tag(Later)}
    return codec_of(Later).decoder(Later)(make_codec(ROW, tags).encoder(earlier)(earlier(b"none of them")))


def test_bytes_are_had_without_a_copy() -> None:
    @dataclass
    class Blobs:
        blob: bytes
        maybe: bytes | None
        none: bytes | None
        many: list[bytes]
        table: dict[str, bytes]
        text: str = ""

    big = bytes(range(256)) * 4096
    message = codec_of(Blobs).encoder(Blobs)(Blobs(big, b"m", None, [b"x", b"", b"yz"], {"k": b"v"}))
    view = codec_of(Blobs).decoder(Blobs)(message)
    found = buffer_of(view, "blob")
    assert found == big
    assert found.readonly
    assert found.obj is message
    assert [bytes(buffer_of(view.many, index)) for index in (0, 1, -1)] == [b"x", b"", b"yz"]
    assert bytes(buffer_of(view.table, "k")) == b"v"
    assert bytes(buffer_of(view, "maybe")) == b"m"
    with pytest.raises(ValueError, match="'none' is None, which has no bytes"):
        buffer_of(view, "none")
    with pytest.raises(TypeError, match="buffer_of is for bytes, and 'text' is declared as str"):
        buffer_of(view, "text")
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        buffer_of(view, "other")
    with pytest.raises(IndexError, match="list index out of range"):
        buffer_of(view.many, 3)
    for key in ("a", slice(1)):
        with pytest.raises(TypeError, match=r"list indices must be integers, not (str|slice)"):
            buffer_of(view.many, key)
    with pytest.raises(TypeError, match="buffer_of takes the name of a field where it is given a row, not 0"):
        buffer_of(view, 0)
    with pytest.raises(KeyError):
        buffer_of(view.table, "z")
    refused = [
        ("chosen", "is for bytes, and 'chosen' is declared as one of b'a', b'b'"),
        ("later", "'later' is None"),
        ("number", "is for bytes, and 'number' is a int"),
    ]
    for name, text in refused:
        with pytest.raises((TypeError, ValueError), match=text):
            buffer_of(_later(), name)
    assert bytes(buffer_of(_later(), "given")) == b"g"
    for plain in (Blobs(b"", None, None, [], {}), [b""], b""):
        with pytest.raises(TypeError, match="buffer_of takes a received row, or a list or dict in one"):
            buffer_of(plain, "blob")


def test_what_is_plain_is_its_own_plain_value() -> None:
    for plain in (ORDER, [1], {"a": 1}, {ORDER.lines[0].sku: [1]}, None, "x"):
        assert materialize(plain) is plain


def test_views_in_containers_of_ones_own_are_made_plain() -> None:
    point = view_of(Point(1, 2))
    for held in ([point], (1, point), {"a": point}, {point: 1}, {"a": [point, {"b": (point,)}]}):
        made = materialize(held)
        assert made == held
        assert set(_classes_in(held)) - set(_classes_in(made)) == {type(point)}


def _classes_in(value: Any) -> Iterator[type]:
    """Of all values in containers."""
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        yield from _classes_in([*entries, *entries.values()])
    elif isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            yield from _classes_in(item)
    else:
        yield type(value)


class Shade(enum.Enum):
    DARK = 1
    BLACK = DARK  # an alias


def test_an_alias_of_an_enum_goes_as_what_it_stands_for() -> None:
    @dataclass
    class Painted:
        shade: Shade

    assert view_of(Painted(Shade.BLACK), codec_of(Painted)).shade is Shade.DARK


@dataclass
class Amount:
    amount: decimal.Decimal
    span: datetime.timedelta


def test_values_go_the_same_way_whatever_the_context_of_decimals_is() -> None:
    amount = Amount(decimal.Decimal("1E+3"), datetime.timedelta(microseconds=-(2**63)))
    with decimal.localcontext() as context:
        context.capitals, context.prec = 0, 1
        for value in (amount, Amount(decimal.Decimal("-123.456"), -amount.span - datetime.timedelta(microseconds=1))):
            found = materialize(view_of(value, codec_of(Amount)))
            assert identical(found, value)
