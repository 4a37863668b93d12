"""Received rows as dataclasses whose attributes are read from the bytes, each time anew.

A view is an instance of a subclass made for its dataclass, which neither the class's constructor nor its ``__post_init__`` has seen. It becomes a plain
instance by ``materialize``.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar, cast

from aster.codec.lazy import MATERIALIZE, materialize
from aster.codec.making import Making
from aster.codec.row.cells import Cell, ReadRegion
from aster.codec.row.refusals import unchangeable
from aster.codec.stand_ins import stand_in
from aster.codec.tags import short_name
from aster.codec.walk import Mismatch
from aster.errors import DecodeError

__all__ = ["ROW", "UNREADABLE", "Origin", "RowReader", "copied", "view_class", "view_setter"]

T = TypeVar("T")

ROW = "__aster_row__"
"""The attribute of a view that has the buffer, the region, and who reads it."""

_MADE = "__aster_made__"
"""The attribute that has the defaults which the view has made."""

_COMPARISONS = ("__ne__", "__lt__", "__le__", "__gt__", "__ge__")

UNREADABLE = (Mismatch, RecursionError)
"""What comes of reading bytes that are no value, or one that is nested too deeply for what is left of the stack; ``Origin.refused`` has words for both."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a view comes from, for the errors that come out of it.

    Attributes:
        cls: the dataclass.
        field: the field of it that a list or dict is in, with a dot before; empty for the dataclass itself.
        is_request: whether it is what a handler was sent.
    """

    cls: type[Any]
    field: str
    is_request: bool

    def refused(self, exc: Mismatch | RecursionError) -> DecodeError:
        """What the user sees of bytes that are no value, or one that is nested too deeply for what is left of the stack."""
        name = short_name(self.cls)
        if isinstance(exc, RecursionError):
            exc = Mismatch(ValueError, "is nested too deeply to be read whole from here")
        error = DecodeError(f"the peer sent something that is not a {name}: {exc.describe(name + self.field)}")
        error.is_request, error.of_row = self.is_request, True
        return error


class RowReader(Protocol):
    """What knows the rows of one dataclass.

    Attributes:
        origin: the class.
        fields: for each field of the class, in the order of definition, what reads it, given the row.
        lacking: how many fields the peer does not send.
        slots: by name, the place of a field in a row, how far its slot is from the beginning, and what it holds; what the peer does not send is absent.
    """

    origin: Origin
    fields: tuple[ReadRegion, ...]
    lacking: int
    slots: Mapping[str, tuple[int, int, Cell]]

    def read(self, buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
        """A view or a plain instance."""
        ...


def view_setter(view: type) -> Callable[[object, tuple[bytes, int, int, RowReader]], None]:
    """What makes an empty instance of a view class the view of a row: a buffer with a region that was accepted, and who reads it."""
    return view.__dict__[ROW].__set__


def view_class(cls: type[Any]) -> type[Any]:
    """The class of the views of a dataclass."""

    def __new__(_view_class: type, /, *args: Any, **kwargs: Any) -> Any:
        # For dataclasses.replace and its like: what is made from a view is a value of its own.
        if not (args or kwargs):
            return _empty(cls)
        return cls(*map(materialize, args), **{name: materialize(value) for name, value in kwargs.items()})

    def __setattr__(self: object, name: str, value: object) -> NoReturn:
        raise AttributeError(unchangeable(f"set {name!r}", short_name(cls)))

    def __delattr__(self: object, name: str) -> NoReturn:
        raise AttributeError(unchangeable(f"delete {name!r}", short_name(cls)))

    namespace: dict[str, Any] = {
        "__slots__": (ROW, _MADE),
        "__doc__": cls.__doc__,
        "__new__": __new__,
        "__setattr__": __setattr__,
        "__delattr__": __delattr__,
        "__eq__": _equals,
        "__hash__": cls.__hash__ if cls.__hash__ in (None, object.__hash__) else _hash_of,
        "__repr__": _repr_of,
        "__reduce_ex__": _reduce,
        MATERIALIZE: _materialize,
    }
    if cls.__dictoffset__:
        namespace["__dict__"] = property(_dict_of)
    if getattr(cls, "__getattr__", None) is None:
        namespace["__getattr__"] = _no_field
    for name in _COMPARISONS:
        if getattr(cls, name) is not getattr(object, name):
            namespace[name] = _comparison(name)
    for place, field in enumerate(dataclasses.fields(cls)):
        namespace[field.name] = _field(place, field.name, is_made=field.default_factory is not dataclasses.MISSING)
    return stand_in(cls, namespace)


def _empty(cls: type[Any]) -> Any:
    """What ``type(view)()`` gives, and ``__new__`` to those who then fill it in."""
    try:
        return cls()
    except TypeError:
        return object.__new__(cls)


def _dict_of(self: Any) -> dict[str, Any]:
    """The instance's own dict, in which cached properties are kept, with the fields in it for those who look for them there."""
    cls = self.__aster_row__[3].origin.cls
    own: dict[str, Any] = _found(cls, "__dict__").__get__(self)
    for field in dataclasses.fields(cls):
        if field.name not in own:
            own[field.name] = getattr(self, field.name)
    return own


def _found(cls: type[Any], name: str) -> Any:
    """What stands under a name in a class or its bases, as it stands there."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _field(place: int, name: str, *, is_made: bool) -> property:
    """``is_made``: whether a factory makes its default."""

    def read(self: Any) -> Any:
        buffer, start, stop, reader = self.__aster_row__
        try:
            if is_made and name not in reader.slots:
                return _default(self, place, name, reader)
            return reader.fields[place](buffer, start, stop, None)
        except UNREADABLE as exc:
            raise reader.origin.refused(exc) from None

    read.__name__ = name
    return property(read)


def _default(self: Any, place: int, name: str, reader: RowReader) -> Any:
    """A default that a factory makes: made once a view, and kept. Else one that has an id by default, say, would not equal itself."""
    slot = vars(cast("type[Any]", type(self)))[_MADE]
    with _keeping:  # so that two threads that ask at once get the same
        try:
            kept = cast("dict[str, Any]", slot.__get__(self))
        except AttributeError:
            kept = dict[str, Any]()
            slot.__set__(self, kept)
    if name not in kept:
        kept.setdefault(name, reader.fields[place](b"", 0, 0, None))
    return kept[name]


_keeping = threading.Lock()


def _defaults(self: Any, reader: RowReader) -> Mapping[str, Any]:
    """Those of all the fields that have one which a factory makes."""
    fields = dataclasses.fields(reader.origin.cls)
    return {field.name: getattr(self, field.name) for field in fields if field.default_factory is not dataclasses.MISSING and field.name not in reader.slots}


def _materialize(self: Any, making: Making | None = None) -> Any:
    buffer, start, stop, reader = self.__aster_row__
    making = making or Making()
    making.add(buffer, stop - start)
    making.kept = _defaults(self, reader) if reader.lacking else {}
    try:
        return reader.read(buffer, start, stop, making)
    except UNREADABLE as exc:
        raise reader.origin.refused(exc) from None


def _equals(self: Any, other: object) -> Any:
    if self is other:
        return True
    return _materialize(self) == materialize(other)


def _hash_of(self: Any) -> int:
    return hash(_materialize(self))


def _comparison(name: str) -> Callable[[Any, object], Any]:
    def compare(self: Any, other: object) -> Any:
        return getattr(_materialize(self), name)(materialize(other))

    return compare


def _repr_of(self: Any) -> str:
    try:
        return repr(_materialize(self))
    except DecodeError as exc:  # debuggers and logs are to show the rest of what they show
        return f"<unreadable {short_name(self.__aster_row__[3].origin.cls)}: {exc}>"


def _reduce(self: Any, _protocol: object) -> Any:
    return copied, (_materialize(self),)


def copied(value: T) -> T:
    """What is called to copy or unpickle a view."""
    return value


def _no_field(self: Any, name: str) -> NoReturn:
    described = _found(cast("type[Any]", type(self)), name)
    if hasattr(described, "__get__"):  # a property whose own AttributeError has led here: once more, to show that one
        described.__get__(self, type(self))
    cls = self.__aster_row__[3].origin.cls
    hint = "; what __post_init__ adds is in the copy that aster.materialize(...) makes" if hasattr(cls, "__post_init__") and not name.startswith("__") else ""
    raise AttributeError(f"{short_name(cls)!r} object has no attribute {name!r}: it is a view of a received row, which has the fields of its class{hint}")
