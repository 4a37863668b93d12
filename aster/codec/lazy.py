"""Values that are read from a received message piece by piece, and how the rest of Aster turns them into plain ones without knowing what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from aster.codec.making import Making

__all__ = ["MATERIALIZE", "is_exactly", "is_lazy", "materialize", "plain"]

T = TypeVar("T")

MATERIALIZE = "__aster_materialize__"
"""The method of such values that gives the plain one."""


def materialize(value: T) -> T:
    """A plain copy of a received row, or of a list, dict or set in one: all of it is read, and belongs to the caller. Of a list, tuple or dict of your own,
    such as a slice, the items are made plain. Any other value comes back as it is, a dataclass of your own too, whatever its fields hold.

    The copy of a dataclass is an instance of the class itself, whose ``__post_init__`` has run. Its time and memory are bounded by the size of the row: the
    smaller the values, the more it takes, up to twenty times the bytes of the row for sets and lists of single bytes (measured).

    Raises:
        DecodeError: the peer sent what is no value of the declared type, or ``__post_init__`` refuses it.
    """
    return _plain_within(value, Making())


def is_lazy(value: object) -> bool:
    """Whether a value is read lazily."""
    return hasattr(type(value), MATERIALIZE)


def plain(value: T, making: Making | None = None) -> T:
    """The plain value of one that is read lazily; any other as it is, whatever is inside. ``making``: what it shares with others, if anything."""
    method: Any = getattr(type(value), MATERIALIZE, None)
    return value if method is None else method(value, making or Making())


def _plain_within(value: Any, making: Making) -> Any:
    if type(value) is tuple or type(value) is list:
        return _items_of(cast("Sequence[Any]", value), making)
    if type(value) is dict:
        return _entries_of(cast("dict[Any, Any]", value), making)
    return plain(value, making)


def _items_of(items: Sequence[Any], making: Making) -> Sequence[Any]:
    made = [_plain_within(item, making) for item in items]
    if all(mine is its for mine, its in zip(made, items, strict=True)):
        return items
    return tuple(made) if type(items) is tuple else made


def _entries_of(entries: dict[Any, Any], making: Making) -> dict[Any, Any]:
    keys, values = list(entries), list(entries.values())
    mine, its = _items_of(keys, making), _items_of(values, making)
    return entries if mine is keys and its is values else dict(zip(mine, its, strict=True))


def is_exactly(value: object, cls: type) -> bool:
    """Whether a value is of exactly a class, or is a received row of it."""
    kind = type(value)
    return kind is cls or (kind.__base__ is cls and MATERIALIZE in vars(kind))
