"""Rows are those of Apache Fory's row format: its writer writes the same bytes, its reader reads ours, and ours reads its."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from typing import Any, Dict, List, Optional, cast, get_type_hints  # noqa: UP035  # the spellings that Fory reads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.codec import make_codec, materialize
from aster.types import SerializationMode
from tests.codec.row.rows import parts
from tests.codec.values import floats, integers, texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # says at its import that the format may change
    fory: Any = importlib.import_module("pyfory.format")

# Faults of Fory's: it misses a module of its own at the first use of a type, and its maps raise an AttributeError when they are freed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:enum class CTypeId not importable:UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Inner:
    zeta: int
    alpha: str


_UTC_SECONDS = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)).map(  # noqa: DTZ001  # bounds of a clock
    lambda value: value.replace(microsecond=0)  # Fory's writer goes through a float, which loses microseconds
)
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: integers,
    float: floats.filter(lambda value: value == value),  # NaN equals nothing
    bool: st.booleans(),
    str: texts,
    bytes: st.binary(min_size=1, max_size=20),  # of b"" Fory's writer raises IndexError
    datetime.date: st.dates(),
    datetime.datetime: _UTC_SECONDS,
    Inner: st.builds(Inner, integers, texts),
}
_HINTS = st.recursive(
    st.sampled_from(list(_SCALARS)),
    lambda inner: st.one_of(
        inner.map(lambda hint: List[hint]),  # noqa: UP006
        inner.filter(lambda hint: getattr(hint, "__origin__", None) is not Optional).map(lambda hint: Optional[hint]),  # noqa: UP045
        st.tuples(st.sampled_from([int, str]), inner).map(lambda pair: Dict[pair[0], pair[1]]),  # noqa: UP006
    ),
    max_leaves=2,
)


def _is_read_by_fory(hint: Any, containers: int = 0) -> bool:
    """Of dataclasses in containers in containers its reader raises an AttributeError."""
    if hint is Inner:
        return containers < 2
    inside = containers + (getattr(hint, "__origin__", None) in (list, dict))
    return all(_is_read_by_fory(arg, inside) for arg in getattr(hint, "__args__", ()))


def _value_of(hint: Any) -> st.SearchStrategy[Any]:
    args: Any = getattr(hint, "__args__", ())
    match getattr(hint, "__origin__", None):
        case None:
            return _SCALARS[hint]
        case origin if origin is list:
            return st.lists(_value_of(args[0]), max_size=4)
        case origin if origin is dict:
            return st.dictionaries(_value_of(args[0]), _value_of(args[1]), max_size=4)
        case _:
            return st.none() | _value_of(args[0])


@st.composite
def _messages(draw: Any) -> Any:
    hints = draw(st.lists(_HINTS, min_size=1, max_size=6))
    names = draw(st.permutations(["b", "a", "c_d", "Z", "x1", "longer_name"]))[: len(hints)]
    cls = make_dataclass("Drawn", list(zip(names, hints, strict=True)), namespace={"__module__": __name__})
    globals()["Drawn"] = cls  # where Fory looks for it
    return cls(**{name: draw(_value_of(hint)) for name, hint in zip(names, hints, strict=True)})


def _fields(value: Any, like: Any) -> Any:
    """What Fory's reader gave, in the classes of ours: it makes classes of its own for what it reads."""
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        return type(like)(**{field.name: _fields(getattr(value, field.name), getattr(like, field.name)) for field in dataclasses.fields(like)})
    if isinstance(like, list):
        return [_fields(mine, its) for mine, its in zip(value, cast("list[Any]", like), strict=True)]
    if isinstance(like, dict):
        return {key: _fields(value[key], its) for key, its in cast("dict[Any, Any]", like).items()}
    if isinstance(like, datetime.datetime):  # it reads instants as this machine's clock shows them
        return value.astimezone(datetime.UTC)
    return value


@pytest.fixture(autouse=True)
def _forget_classes() -> Iterator[None]:
    yield
    globals().pop("Drawn", None)


@given(value=_messages())
def test_rows_are_the_same_bytes_and_are_read_by_either_reader(value: Any) -> None:
    cls = cast("type[Any]", type(value))
    codec = make_codec(SerializationMode.ROW, {cls: "tests/Drawn", Inner: "tests/Inner"})
    head, row = parts(codec.encoder(cls)(value))
    schema = fory.infer_schema(cls)
    encoder = fory.create_row_encoder(schema)
    theirs = encoder.to_row(value).to_bytes()
    assert len(row) == len(theirs)
    assert row == theirs or "None" in repr(value)  # it leaves whatever memory held in the slots of nulls
    if all(_is_read_by_fory(hint) for hint in get_type_hints(cls).values()):
        assert _fields(encoder.from_row(fory.RowData(schema, row)), value) == value
    assert materialize(codec.decoder(cls)(head + theirs)) == value
