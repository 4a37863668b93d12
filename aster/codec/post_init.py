"""Running ``__post_init__`` on decoded values: Fory fills the fields in without calling it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from aster.codec.shapes import DictOf, FieldShape, FixedTuple, Message, Optional, Shape, UnionOf, Values, children, runtime_types
from aster.errors import DecodeError

__all__ = ["PostInit", "post_inits", "run_post_init"]

PostInit: TypeAlias = Callable[[Any], None]


def post_inits(fields: Mapping[type, tuple[FieldShape, ...]]) -> Mapping[type, PostInit]:
    """For each dataclass that has a ``__post_init__``, or can hold a value that has: a function that calls them all, the inner ones first.

    The order is the one in which the values would have been constructed.
    """
    affected = _affected(fields)
    found: dict[type, PostInit] = {}
    for cls in affected:
        steps = [(field.name, step) for field in fields[cls] if (step := _step(field.shape, affected, found)) is not None]
        found[cls] = _for_message(steps, getattr(cls, "__post_init__", None))
    return found


def run_post_init(value: object, post_init: PostInit, *, is_request: bool = False, of_row: bool = False) -> None:
    """Run one, or all of a value's. Raises DecodeError where a class refuses it, with these attributes."""
    try:
        post_init(value)
    except (TypeError, ValueError, DecodeError) as exc:  # how a class refuses a value; anything else is a bug of its own, and not the peer's fault
        error = DecodeError(str(exc))
        error.is_request, error.of_row = is_request, of_row
        raise error from exc


def _affected(fields: Mapping[type, tuple[FieldShape, ...]]) -> list[type]:
    affected = [cls for cls in fields if hasattr(cls, "__post_init__")]
    grown = True
    while grown:
        more = [cls for cls, own in fields.items() if cls not in affected and any(_mentions(field.shape, affected) for field in own)]
        affected += more
        grown = bool(more)
    return affected


def _mentions(shape: Shape, classes: Iterable[type]) -> bool:
    return (isinstance(shape, Message) and shape.cls in classes) or any(_mentions(child, classes) for child in children(shape))


def _for_message(steps: list[tuple[str, PostInit]], own: PostInit | None) -> PostInit:
    def run(value: Any) -> None:
        for name, step in steps:
            step(getattr(value, name))
        if own is not None:
            own(value)

    return run


def _step(shape: Shape, affected: Iterable[type], found: Mapping[type, PostInit]) -> PostInit | None:
    """What to do with a value of this shape, or ``None`` for nothing. ``found`` is read when the step runs, so that classes may refer to each other."""
    if not _mentions(shape, affected):
        return None
    match shape:
        case Message(cls):
            return lambda value: found[cls](value)  # noqa: PLW0108  # not there yet when classes refer to each other
        case Optional(item):
            inner = _step(item, affected, found)
            return lambda value: None if value is None or inner is None else inner(value)
        case Values(_, item):
            return _for_each(_step(item, affected, found), lambda value: value)
        case DictOf(key, item):
            return _in_turn(
                _for_each(_step(key, affected, found), lambda value: value.keys()), _for_each(_step(item, affected, found), lambda value: value.values())
            )
        case FixedTuple(items):
            return _for_tuple([_step(item, affected, found) for item in items])
        case UnionOf(members):
            return _for_union([(frozenset(runtime_types(member)), step) for member in members if (step := _step(member, affected, found)) is not None])
        case _:
            return None


def _for_each(step: PostInit | None, items: Callable[[Any], Iterable[Any]]) -> PostInit | None:
    if step is None:
        return None

    def run(value: Any) -> None:
        for item in items(value):
            step(item)

    return run


def _in_turn(*steps: PostInit | None) -> PostInit:
    def run(value: Any) -> None:
        for step in steps:
            if step is not None:
                step(value)

    return run


def _for_tuple(steps: list[PostInit | None]) -> PostInit:
    def run(value: Any) -> None:
        for item, step in zip(value, steps, strict=True):
            if step is not None:
                step(item)

    return run


def _for_union(steps: list[tuple[frozenset[type], PostInit]]) -> PostInit:
    def run(value: Any) -> None:
        for types, step in steps:
            if type(value) in types:
                step(value)

    return run
