"""From a dataclass's type hints to shapes, refusing by class and field name what could not make the round trip exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, InitVar, fields
from enum import Enum
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from aster.codec.hints import FieldReader, is_class, objection_to
from aster.codec.keys import check_keys
from aster.codec.shapes import EnumOf, FieldShape, Message, Shape, children
from aster.codec.tags import short_name

__all__ = ["MAX_FIELDS", "default_of", "field_shapes", "wire_types"]

MAX_FIELDS = 128
"""Fields a dataclass may have: what a decoder accepts in a type definition from a peer, so that unknown types cannot fill its memory."""

_known: WeakKeyDictionary[type[Any], tuple[FieldShape, ...]] = WeakKeyDictionary()


def wire_types(roots: Iterable[type], *, localns: Mapping[str, Any] | None = None) -> tuple[type, ...]:
    """Every dataclass and ``Enum`` that the roots reach through their fields: the roots first, then in the order of discovery.

    Type hints are resolved now, so the modules that they name must have been imported wholly.

    Args:
        roots: dataclasses (or ``Enum`` classes).
        localns: names that hints may use besides those of their module, for classes made inside functions.

    Raises:
        TypeError: a root is no such class, or a field's type cannot be sent; names class and field, and says what to do.
    """
    found = dict.fromkeys(roots)
    for root in found:
        _check_root(root)
    queue = list(found)
    for cls in queue:
        for reached in _reached(cls, localns):
            if reached not in found:
                found[reached] = None
                queue.append(reached)
    for cls in queue:
        for field in field_shapes(cls):
            check_keys(cls, field, field_shapes)
    return tuple(found)


def field_shapes(cls: type[Any], localns: Mapping[str, Any] | None = None) -> tuple[FieldShape, ...]:
    """The shape of each field of a dataclass, in the order of definition; none for an ``Enum``.

    Raises:
        TypeError: as ``wire_types`` does.
    """
    if issubclass(cls, Enum):
        return ()
    shapes = _known.get(cls)
    if shapes is None:
        shapes = _known[cls] = _read_fields(cls, localns)
    return shapes


def default_of(field: Field[Any]) -> Callable[[], Any] | None:
    """What makes the default of a field, or ``None`` when it has none."""
    if field.default is not MISSING:
        value = field.default
        return lambda: value
    if field.default_factory is not MISSING:
        return field.default_factory
    return None


def _check_root(root: object) -> None:
    if not is_class(root):
        raise TypeError(f"{root!r} cannot be a message: it is not a class; use a dataclass")
    objection = objection_to(root)
    if objection is not None:
        raise TypeError(f"{short_name(root)} cannot be a message: it {objection}")


def _reached(cls: type, localns: Mapping[str, Any] | None) -> Iterable[type]:
    for field in field_shapes(cls, localns):
        yield from _classes_in(field.shape)


def _classes_in(shape: Shape) -> Iterable[type]:
    if isinstance(shape, EnumOf | Message):
        yield shape.cls
    for child in children(shape):
        yield from _classes_in(child)


def _read_fields(cls: type, localns: Mapping[str, Any] | None) -> tuple[FieldShape, ...]:
    hints = _resolve_hints(cls, localns)
    _refuse_init_vars(cls, hints)
    own = fields(cls)
    if len(own) > MAX_FIELDS:
        raise TypeError(f"{short_name(cls)} has {len(own)} fields and a message may have {MAX_FIELDS}: group some of them in dataclasses of their own")
    return tuple(FieldReader(cls, field.name).read(hints[field.name]) for field in own)


def _resolve_hints(cls: type, localns: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return _evaluate_hints(cls, localns)
    except NameError as exc:
        where = f"at the top level of module {cls.__module__!r}, not in a function and not under TYPE_CHECKING"
        raise TypeError(f"{short_name(cls)}.{_field_with(str(exc.name), cls)} cannot be sent: {exc}; define or import the name {where}") from exc
    except Exception as exc:  # a hint is any expression, and raises what it likes
        raise TypeError(f"the type hints of {short_name(cls)} cannot be resolved: {exc!r}; write hints that typing.get_type_hints() understands") from exc


def _evaluate_hints(cls: type, localns: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        # A class made inside a function: try again with the names that are visible there, its own among them; and with its type parameters, which Python 3.12
        # does not look for by itself.
        parameters = {parameter.__name__: parameter for parameter in getattr(cls, "__type_params__", ())}
        return get_type_hints(cls, localns={**(localns or {}), **parameters, cls.__name__: cls}, include_extras=True)


def _field_with(name: str, cls: type) -> str:
    """The field whose hint mentions a name."""
    return next((field.name for field in fields(cls) if name in str(field.type)), "*")


def _refuse_init_vars(cls: type, hints: Mapping[str, Any]) -> None:
    for name, hint in hints.items():
        if isinstance(hint, InitVar) or hint is InitVar:
            lost = "is an InitVar, which is no part of the value and would be lost"
            raise TypeError(f"{short_name(cls)}.{name} cannot be sent: it {lost}; make it a field, or compute it in a classmethod")
