"""One side's types as the other one reads them: the walk over them, which is one for all modes, and what the rules of the modes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aster._contract.form import Contract, EnumType, FieldType, Form, Struct

__all__ = ["Difference", "Reading"]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is to be said of a type by itself, and which types are to be looked at because of it."""

    differences: list[str]
    reached: dict[str, None]


class Difference(Exception):
    """Some value would not arrive; an empty text stands for: the types differ."""


class Reading(ABC):
    """One side's types as the other one reads them, in some mode.

    Types that mention each other, or themselves, make no circle: each is looked at once, and tells which others are to be looked at.
    """

    def __init__(self, writer: Contract, reader: Contract, writer_name: str, reader_name: str) -> None:
        self._writer = writer
        self._reader = reader
        self._sends, self._reads = f"the {writer_name}", f"the {reader_name}"
        self._of_messages: dict[str, list[str]] = {}
        self._known: dict[str, _Found] = {}
        self._reached: dict[str, None] = {}

    def differences(self, sent: str, read: str) -> list[str]:
        """What is different about a message."""
        if sent != read:
            return [f"{self._sends} sends {sent}, and {self._reads} reads {read}"]
        differences = self._of_messages.get(sent)
        if differences is None:
            differences = self._of_messages[sent] = list(self._of_all_reached(sent))
        return differences

    def _of_all_reached(self, name: str) -> Iterator[str]:
        reached = {name: None}
        queue = [name]
        for each in queue:
            found = self._known.get(each)
            if found is None:
                found = self._known[each] = self._compare(each)
            yield from found.differences
            queue += [other for other in found.reached if other not in reached]
            reached |= found.reached

    def _compare(self, name: str) -> _Found:
        self._reached = {}
        writes, reads = self._writer.types[name], self._reader.types.get(name)
        assert isinstance(writes, Struct)
        differences = list(self._passed_over(writes) if reads is None else self._fields(writes, reads))
        return _Found(differences, self._reached)

    def _passed_over(self, struct: Struct) -> Iterator[str]:
        """A type that the reader does not know stands in a field that it does not know."""
        for field in struct.fields.values():
            yield from self._said(f"field {field.name!r} of {struct.name}", lambda field=field: self._skip(field.form))

    def _fields(self, writes: Struct, reads: object) -> Iterator[str]:
        if not isinstance(reads, Struct):
            yield f"{writes.name} is a dataclass at {self._sends}, and an Enum at {self._reads}"
            return
        taken: dict[str, str] = {}
        for field in writes.fields.values():
            where = f"field {field.name!r} of {writes.name}"
            name = self._arrives_as(field.name, reads)
            if name is None:
                yield from self._said(where, lambda field=field: self._skip(field.form))
            elif name in taken:
                yield f"fields {taken[name]!r} and {field.name!r} of {writes.name} both arrive as {name!r} at {self._reads}"
            else:
                taken[name] = field.name
                yield from self._said(where, lambda field=field, name=name: self._read_field(field, reads.fields[name]))
        for field in reads.fields.values():
            if field.name not in taken and not field.default:
                yield f"field {field.name!r} of {writes.name}: {self._sends} does not send it, and it has no default at {self._reads}"

    def _said(self, where: str, compare: Callable[[], None]) -> Iterator[str]:
        try:
            compare()
        except Difference as difference:
            yield f"{where}: {difference}"

    def _read_field(self, writes: FieldType, reads: FieldType) -> None:
        try:
            self._read(writes.form, reads.form)
        except Difference as difference:
            detail = str(difference)
            raise Difference(detail or f"{self._sends} sends {writes.form}, and {self._reads} reads {reads.form}") from None

    # What a mode has rules for

    @abstractmethod
    def _read(self, writes: Form, reads: Form) -> None:
        """Compare a field that both have.

        Raises:
            Difference: not every value would arrive.
        """

    @abstractmethod
    def _skip(self, form: Form) -> None:
        """Compare a field that the reader does not have.

        Raises:
            Difference: it cannot be passed over.
        """

    @abstractmethod
    def _members(self, name: str) -> dict[str, str]:
        """How the members of an Enum are called at the reader.

        Raises:
            Difference: one is not known there.
        """

    def _arrives_as(self, name: str, reads: Struct) -> str | None:
        """The field that a field is taken for."""
        return name if name in reads.fields else None

    # What their rules have in common

    def _without_none(self, writes: Form, reads: Form) -> tuple[Form, Form]:
        if writes.kind == "optional":
            if reads.kind != "optional":
                raise Difference(f"{self._sends} may send None, and {self._reads} reads {reads}")
            writes = writes.inside[0]
        return writes, reads.inside[0] if reads.kind == "optional" else reads

    def _by_members(self, writes: Form, reads: Form, compare: Callable[[Form, Form], None]) -> bool:
        """Compare unions member by member; false when neither is one.

        Of the reader's members no two look the same, so at most one of them can fit one of the writer's.
        """
        if writes.kind == "union":
            for member in writes.inside:
                compare(member, reads)
            return True
        if reads.kind != "union":
            return False
        why = Difference()
        for member in reads.inside:
            try:
                compare(writes, member)
            except Difference as difference:
                why = difference if str(difference) else why
            else:
                return True
        raise why

    def _without_literal(self, writes: Form, reads: Form) -> Form:
        """What is sent, if it can be any of its type. If both are literals, they are compared here."""
        if writes.kind == "literal" and reads.kind == "literal":
            self._literals(writes, reads)
            return writes
        return writes.inside[0] if writes.kind == "literal" else writes

    def _literals(self, writes: Form, reads: Form) -> None:
        base, other = writes.inside[0], reads.inside[0]
        if base != other:
            raise Difference
        names = {} if base.kind != "type" else self._members(base.name)
        unknown = [value for value in writes.values if names.get(str(value), value) not in reads.values]
        if unknown:
            raise Difference(f"{self._sends} may send {unknown[0]!r}, and {self._reads} reads {reads}")

    def _alike(self, writes: Form, reads: Form) -> None:
        """Compare forms without anything inside."""
        match writes.kind, reads.kind:
            case "type", "type":
                self._named(writes, reads)
            case "literal", "literal":
                pass
            case sent, read if sent == read and not writes.inside and not reads.inside:
                pass
            case _:
                raise Difference

    def _enums(self, name: str) -> tuple[EnumType, EnumType]:
        """An Enum at the writer and at the reader."""
        writes, reads = self._writer.types[name], self._reader.types[name]
        if not isinstance(writes, EnumType) or not isinstance(reads, EnumType):
            raise Difference(f"{name} is an Enum at one end, and a dataclass at the other")
        return writes, reads

    def _named(self, writes: Form, reads: Form) -> None:
        if writes.name != reads.name:
            raise Difference
        if isinstance(self._writer.types[writes.name], EnumType):
            self._members(writes.name)
        else:
            self._reached[writes.name] = None
