"""Checks generated once for each dataclass: is this value, all the way down, of exactly the declared types?

A call of every field's check through objects and dictionaries would cost more than Fory itself, so each dataclass gets a function of its own, written as
source and compiled. For ``Order(id: str, lines: list[Line])`` it reads::

    def check_Order(value, depth):
        if type(value) is not Order: return False
        a = value.id
        if type(a) is not str or not (a.isascii() or is_encodable(a)): return False
        b = value.lines
        if type(b) is not list: return False
        for c in b:
            if not check_Line(c, depth + 1): return False
        return True

The functions only say yes or no: a no, which is rare, goes to ``walk.py`` for its message or conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aster.codec.shapes import DictOf, EnumOf, FieldShape, FixedTuple, LiteralOf, Message, Optional, Scalar, Shape, UnionOf, Values, children, runtime_types
from aster.codec.walk import INT64, MAX_NESTING, Direction, is_encodable

__all__ = ["Check", "generate_checks", "recursive_classes"]

Check: TypeAlias = Callable[[Any, int], bool]


def generate_checks(direction: Direction, fields: Mapping[type, tuple[FieldShape, ...]], readers: Mapping[type, type]) -> Mapping[type, Check]:
    """A check for each dataclass: called with a value and 0, it tells whether the value needs neither conversion nor complaint.

    It may also raise, on values whose attributes are missing or misbehave, which counts as a no.

    Args:
        direction: a value about to be sent is also checked for text without a UTF-8 form; one just received gets its class in place of the reader's.
        fields: the fields of each dataclass, all dataclasses that they mention included.
        readers: for classes that Fory makes under a stand-in type, that type.
    """
    numbers = {cls: number for number, cls in enumerate(fields)}
    recursive = recursive_classes(fields)
    namespace: dict[str, Any] = {"is_encodable": is_encodable}
    for cls, own in fields.items():
        writer = _Writer(direction, numbers, readers if direction is Direction.DECODE else {}, namespace)
        source = writer.function(cls, own, recursive=cls in recursive)
        exec(compile(source, f"<aster check of {cls.__qualname__}>", "exec"), namespace)  # the source holds identifiers of ours and ASCII field names only
    return {cls: namespace[f"check_{number}"] for cls, number in numbers.items()}


def recursive_classes(fields: Mapping[type, tuple[FieldShape, ...]]) -> frozenset[type]:
    """The dataclasses that can contain themselves, directly or through others."""
    direct = {cls: frozenset(_messages(field.shape for field in own)) for cls, own in fields.items()}

    def reaches_itself(cls: type) -> bool:
        seen: set[type] = set()
        queue = list(direct[cls])
        while queue:
            other = queue.pop()
            if other not in seen:
                seen.add(other)
                queue.extend(direct[other])
        return cls in seen

    return frozenset(cls for cls in fields if reaches_itself(cls))


def _messages(shapes: Iterable[Shape]) -> Iterable[type]:
    for shape in shapes:
        if isinstance(shape, Message):
            yield shape.cls
        yield from _messages(children(shape))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where generated code stands: the variable that holds the value, its indentation, and whether Fory knows the value's declared type there.

    Where it does not (in unions and mixed tuples), an int stays an int, so one given for a float needs conversion before it is sent.
    """

    variable: str
    indent: str
    declared: bool

    def inside(self, variable: str, *, declared: bool = True) -> _Place:
        return _Place(variable, self.indent + " ", self.declared and declared)


class _Writer:
    """Writes the source of one check, line by line."""

    def __init__(self, direction: Direction, numbers: Mapping[type, int], readers: Mapping[type, type], namespace: dict[str, Any]) -> None:
        self._encoding = direction is Direction.ENCODE
        self._numbers = numbers
        self._readers = readers
        self._namespace = namespace
        self._lines: list[str] = []
        self._variables = 0

    def function(self, cls: type, fields: tuple[FieldShape, ...], *, recursive: bool) -> str:
        reader = self._readers.get(cls, cls)
        self._lines = [f"def check_{self._numbers[cls]}(value, depth):"]
        self._fail_if(" ", f"type(value) is not {self._constant(reader)}")
        if reader is not cls:
            self._lines.append(f" value.__class__ = {self._constant(cls)}")
        if recursive:
            self._fail_if(" ", f"depth > {MAX_NESTING}")
        for field in fields:
            variable = self._variable()
            self._lines.append(f" {variable} = value.{field.name}")
            self._check(field.shape, _Place(variable, " ", declared=True))
        self._lines.append(" return True")
        return "\n".join(self._lines)

    def _check(self, shape: Shape, at: _Place) -> None:
        match shape:
            case Scalar(type_):
                self._scalar(type_, at)
            case EnumOf(cls):
                self._fail_if(at.indent, f"type({at.variable}) is not {self._constant(cls)}")
            case LiteralOf(base, values):
                self._check(base, at)
                self._fail_if(at.indent, f"{at.variable} not in {self._constant(frozenset(values))}")
            case Message(cls):
                self._fail_if(at.indent, f"not check_{self._numbers[cls]}({at.variable}, depth + 1)")
            case Optional(item):
                self._lines.append(f"{at.indent}if {at.variable} is not None:")
                self._check(item, at.inside(at.variable))
            case Values(kind, item):
                self._values(kind, item, at)
            case FixedTuple(items):
                self._fixed_tuple(items, at)
            case DictOf(key, value):
                self._fail_if(at.indent, f"type({at.variable}) is not dict")
                keys, values = self._variable(), self._variable()
                self._lines.append(f"{at.indent}for {keys}, {values} in {at.variable}.items():")
                self._check(key, at.inside(keys))
                self._check(value, at.inside(values))
            case UnionOf(members):
                self._union(members, at)

    def _scalar(self, expected: type, at: _Place) -> None:
        wrong = f"type({at.variable}) is not {self._constant(expected)}"
        if self._encoding and expected is str:
            wrong += f" or not ({at.variable}.isascii() or is_encodable({at.variable}))"
        if self._encoding and expected is float and at.declared:
            wrong += f" and type({at.variable}) is not int"
        if not self._encoding and expected is int:  # Fory sees to it when it writes, but reads unsigned ones as well
            wrong += f" or not {INT64.start} <= {at.variable} < {INT64.stop}"
        self._fail_if(at.indent, wrong)

    def _values(self, kind: str, item: Shape, at: _Place) -> None:
        self._fail_if(at.indent, f"type({at.variable}) is not {kind}")
        element = self._variable()
        self._lines.append(f"{at.indent}for {element} in {at.variable}:")
        self._check(item, at.inside(element))

    def _fixed_tuple(self, items: tuple[Shape, ...], at: _Place) -> None:
        self._fail_if(at.indent, f"type({at.variable}) is not tuple or len({at.variable}) != {len(items)}")
        for index, item in enumerate(items):
            element = self._variable()
            self._lines.append(f"{at.indent}{element} = {at.variable}[{index}]")
            self._check(item, _Place(element, at.indent, declared=False))

    def _union(self, members: tuple[Shape, ...], at: _Place) -> None:
        word = "if"
        for member in members:
            types = ", ".join(self._constant(self._readers.get(type_, type_)) for type_ in runtime_types(member))
            self._lines.append(f"{at.indent}{word} type({at.variable}) in ({types},):")
            self._check(member, at.inside(at.variable, declared=False))
            word = "elif"
        self._lines.append(f"{at.indent}else: return False")

    def _fail_if(self, indent: str, condition: str) -> None:
        self._lines.append(f"{indent}if {condition}: return False")

    def _variable(self) -> str:
        self._variables += 1
        return f"v{self._variables}"

    def _constant(self, value: object) -> str:
        """A name for an object in the generated code's globals."""
        name = f"k{id(value)}"
        self._namespace[name] = value  # which also keeps the object alive, so that the id stays its own
        return name
