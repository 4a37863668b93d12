"""Whether what a set or a dict hashes still can be hashed when it arrives: Fory gives back lists for some tuples, and sets for frozensets."""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from aster.codec.shapes import DictOf, FieldShape, FixedTuple, Message, Scalar, Shape, UnionOf, Values, children
from aster.codec.tags import short_name

__all__ = ["check_keys", "has_generated_hash"]

_Fields: TypeAlias = Callable[[type], tuple[FieldShape, ...]]

_SAFELY_HASHED = (Scalar(str), Scalar(bytes))  # Python salts these hashes


def check_keys(cls: type, field: FieldShape, fields_of: _Fields) -> None:
    """Check the dict keys and the elements of sets in a field, those inside other containers included.

    Raises:
        TypeError: one cannot be hashed at its receiver; names class and field, and says what to do.
    """
    _check_containers(field.shape, f"{short_name(cls)}.{field.name}", fields_of, declared=True)


def _check_containers(shape: Shape, where: str, fields_of: _Fields, *, declared: bool) -> None:
    if isinstance(shape, DictOf):
        _Key(where, "a dict key", fields_of).check(shape.key, declared=declared)
    elif isinstance(shape, Values) and shape.kind in ("set", "frozenset"):
        _Key(where, f"an element of a {shape.kind}", fields_of).check(shape.item, declared=declared)
    for child in children(shape):
        _check_containers(child, where, fields_of, declared=declared and not isinstance(shape, UnionOf | FixedTuple))


@dataclass(frozen=True, slots=True)
class _Key:
    """What is hashed in one place.

    Attributes:
        where: class and field that have the container.
        role: what it is there.
        fields_of: the fields of a dataclass.
        inside: the dataclasses around, and the field of the last of them.
    """

    where: str
    role: str
    fields_of: _Fields
    inside: tuple[type, ...] = ()
    field: str = ""

    def check(self, shape: Shape, *, declared: bool) -> None:
        """Check a shape; ``declared`` tells whether Fory knows it there, without which it reads a tuple as a list."""
        match shape:
            case Values("list" | "set", _) | DictOf():
                self._refuse(f"{self._name(shape)} is not hashable, so it cannot be {self.role}", "use a tuple")
            case Values("frozenset", _):
                self._refuse(f"{self._name(shape)} cannot be {self.role}: Fory reads it as a set", "use a tuple")
            case FixedTuple(()):
                self._refuse(f"tuple[()] cannot be {self.role}: Fory reads it as a list", "leave it out, since it is always the same")
            case Values() | FixedTuple() if not declared:
                mend = "use a frozen dataclass"
                self._refuse(f"{self._name(shape)} cannot be {self.role} inside another tuple or a union: Fory reads it as a list", mend)
            case Values("tuple", item) if item not in _SAFELY_HASHED:
                # hash(-1) == hash(-2), so there are 2**n tuples of n ints with one hash: even honest ones could be more than a decoder accepts.
                mend = "use str, or a tuple of fixed length"
                self._refuse(f"{self._name(shape)} cannot be {self.role}, since a peer could choose values whose hashes collide", mend)
            case Scalar(type_) if type_ is decimal.Decimal and not self.inside:
                # Hashes of Decimals collide at will. (In a dataclass they are counted with it.)
                self._refuse(f"Decimal cannot be {self.role}, since a peer could choose values whose hashes collide", "use str or int")
            case Message(cls):
                self._message(cls)
            case _:
                pass
        for child in children(shape):
            self.check(child, declared=declared and not isinstance(shape, UnionOf | Values | FixedTuple))

    def _message(self, cls: type[Any]) -> None:
        if cls.__hash__ is None:
            self._refuse(f"{self._name(Message(cls))} is not hashable, so it cannot be {self.role}", "make it a frozen dataclass")
        if cls in self.inside or not has_generated_hash(cls):
            return
        shapes = {field.name: field.shape for field in self.fields_of(cls)}
        for field in dataclasses.fields(cls):
            if field.compare if field.hash is None else field.hash:
                inner = dataclasses.replace(self, inside=(*self.inside, cls), field=field.name)
                inner.check(shapes[field.name], declared=True)

    def _name(self, shape: Shape) -> str:
        return f"{shape} in {short_name(self.inside[-1])}.{self.field}" if self.inside else str(shape)

    def _refuse(self, what: str, mend: str) -> NoReturn:
        raise TypeError(f"{self.where} cannot be sent: {what}; {mend}")


def has_generated_hash(cls: type[Any]) -> bool:
    """Whether ``@dataclass`` wrote ``__hash__``, over the fields. One that the class's author wrote hashes what it likes."""
    code = getattr(cls.__hash__, "__code__", None)
    return "__hash__" in vars(cls) and code is not None and code.co_filename == "<string>"
