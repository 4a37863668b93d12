"""Values that are read from a received message piece by piece, and how the rest of Aster turns them into plain ones without knowing what they are."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["MATERIALIZE", "is_exactly", "materialize"]

T = TypeVar("T")

MATERIALIZE = "__aster_materialize__"
"""The method of such values that gives the plain one."""


def materialize(value: T) -> T:
    """A plain copy of a received row, or of a list or dict in one: all of it is read, and belongs to the caller. Any other value comes back as it is.

    The copy of a dataclass is an instance of the class itself, whose ``__post_init__`` has run. Its time and memory are bounded by the size of the row, of
    which it takes the more the smaller the values are: up to some twelve times as many bytes, for fields of one byte (measured).

    Raises:
        DecodeError: the peer sent what is no value of the declared type, or ``__post_init__`` refuses it.
    """
    method: Any = getattr(type(value), MATERIALIZE, None)
    return value if method is None else method(value)


def is_exactly(value: object, cls: type) -> bool:
    """Whether a value is of exactly a class, or is a received row of it."""
    kind = type(value)
    return kind is cls or (kind.__base__ is cls and MATERIALIZE in vars(kind))
