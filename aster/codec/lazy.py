"""Values that are read from a received message piece by piece, and how the rest of Aster turns them into plain ones without knowing what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

__all__ = ["MATERIALIZE", "is_exactly", "materialize", "plain"]

T = TypeVar("T")

MATERIALIZE = "__aster_materialize__"
"""The method of such values that gives the plain one."""


def materialize(value: T) -> T:
    """A plain copy of a received row, or of a list or dict in one: all of it is read, and belongs to the caller. Any other value comes back as it is; of a
    tuple or list, such as a slice, the items are made plain.

    The copy of a dataclass is an instance of the class itself, whose ``__post_init__`` has run. Its time and memory are bounded by the size of the row: the
    smaller the values, the more it takes, up to twenty times the bytes of the row for sets and lists of single bytes (measured).

    Raises:
        DecodeError: the peer sent what is no value of the declared type, or ``__post_init__`` refuses it.
    """
    if type(value) is tuple or type(value) is list:
        return cast("T", _items_of(cast("Sequence[Any]", value)))
    return plain(value)


def plain(value: T) -> T:
    """The plain value of one that is read lazily; any other as it is, whatever is inside."""
    method: Any = getattr(type(value), MATERIALIZE, None)
    return value if method is None else method(value)


def _items_of(items: Sequence[Any]) -> Sequence[Any]:
    made = [materialize(item) for item in items]
    if all(mine is its for mine, its in zip(made, items, strict=True)):
        return items
    return tuple(made) if type(items) is tuple else made


def is_exactly(value: object, cls: type) -> bool:
    """Whether a value is of exactly a class, or is a received row of it."""
    kind = type(value)
    return kind is cls or (kind.__base__ is cls and MATERIALIZE in vars(kind))
