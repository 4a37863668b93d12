"""Whether two versions of a service understand each other: what the one writes, the other must read as the same data.

The codec is the truth here, and these rules were found by trying it; ``tests/contract`` tries them on random services. It refuses some changes for all
values, since Fory compares the definitions of two types, and others for some values only, such as ``None``. It also takes some values for what they are
not: of a union, say, another default may arrive. Such changes count as differences too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from aster._contract.form import Contract, EnumType, FieldType, Form, MethodType, Struct
from aster.types import SerializationMode

__all__ = ["MAX_DIFFERENCES", "contract_differences", "summary"]

MAX_DIFFERENCES = 10
"""Differences that a message names: the first few say what happened, and a text of hundreds is read by nobody."""

_LONGEST_LINE = 500
"""Characters of one of them: three names of the usual length, with room. A peer's names may be longer."""

_CONVERTED = frozenset({("bool", "int"), ("bool", "float"), ("bool", "str"), ("bool", "decimal"), ("int", "str"), ("int", "decimal")})
"""What Fory converts, where it is a whole field, whatever the value. Not int to float: above 2**53 that loses digits, and is refused."""

_SELF_DESCRIBING = frozenset({"union", "uuid", "time"})
"""What brings its own type on the wire, as dataclasses and mixed tuples do. A field of another type has it in the definition of its class alone."""


def contract_differences(client: Contract, server: Contract) -> list[str]:
    """What keeps a client from calling a server, as sentences; nothing when all that the client has fits. What only the server has does not matter."""
    if client.scope != server.scope:
        return [f"the service has the scope {client.scope!r} at the client and {server.scope!r} at the server"]
    return [*_method_differences(client, server), *_type_differences(client, server)]


def summary(differences: list[str]) -> str:
    """The differences one a line, the first ``MAX_DIFFERENCES`` of them. What is in them may be a peer's words."""
    lines = [f"\n- {_printable(difference)}" for difference in differences[:MAX_DIFFERENCES]]
    left = len(differences) - MAX_DIFFERENCES
    return "".join(lines) + (f"\n- and {left} more" if left > 0 else "")


def _printable(text: str) -> str:
    cut = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def _method_differences(client: Contract, server: Contract) -> Iterator[str]:
    for name, method in sorted(client.methods.items()):
        other = server.methods.get(name)
        if other is None:
            yield f"{name}: the server has no such method"
        elif other.pattern is not method.pattern:
            yield f"{name}: it is {method.pattern.name} at the client and {other.pattern.name} at the server"
        elif not set(method.modes) & set(other.modes):
            yield f"{name}: the client has the modes {_names(method)}, and the server {_names(other)}"


def _type_differences(client: Contract, server: Contract) -> Iterator[str]:
    """Differences of types, each with all the methods that it concerns."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    readings: dict[tuple[str, SerializationMode], _Reading] = {}
    for mode in SerializationMode:
        readings["request", mode] = _Reading(client, server, mode, "client", "server")
        readings["response", mode] = _Reading(server, client, mode, "server", "client")
    for name, method in sorted(client.methods.items()):
        for role, mode, sent, read in _messages(method, server.methods.get(name)):
            for difference in readings[role, mode].differences(sent, read):
                found.setdefault((role, difference), {})[name] = None
    for (role, difference), methods in found.items():
        yield f"{_listed(list(methods))} ({role}): {difference}"


def _messages(client: MethodType, server: MethodType | None) -> Iterator[tuple[str, SerializationMode, str, str]]:
    if server is None or server.pattern is not client.pattern:
        return
    for mode in client.modes:
        if mode in server.modes:
            yield "request", mode, client.request, server.request
            yield "response", mode, server.response, client.response


def _names(method: MethodType) -> str:
    return " and ".join(mode.name for mode in method.modes)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more methods"


@dataclass(frozen=True, slots=True)
class _Found:
    """What is to be said of a type by itself, and which types are to be looked at because of it."""

    differences: list[str]
    reached: dict[str, None]


class _Difference(Exception):
    """Some value would not arrive; an empty text stands for: the types differ."""


class _Reading:
    """One side's types as the other one reads them, in one mode.

    Types that mention each other, or themselves, make no circle: each is looked at once, and tells which others are to be looked at.
    """

    def __init__(self, writer: Contract, reader: Contract, mode: SerializationMode, writer_name: str, reader_name: str) -> None:
        self._writer = writer
        self._reader = reader
        self._native = mode is SerializationMode.NATIVE
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
        """A type that the reader does not know stands in a field that it does not know: Fory must find the end of it."""
        for field in struct.fields.values():
            yield from self._said(f"field {field.name!r} of {struct.name}", lambda field=field: self._skip(field.form))

    def _fields(self, writes: Struct, reads: object) -> Iterator[str]:
        if not isinstance(reads, Struct):
            yield f"{writes.name} is a dataclass at {self._sends}, and an Enum at {self._reads}"
            return
        taken: dict[str, str] = {}
        for field in writes.fields.values():
            where = f"field {field.name!r} of {writes.name}"
            name = _arrives_as(field.name, reads)
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
        except _Difference as difference:
            yield f"{where}: {difference}"

    def _read_field(self, writes: FieldType, reads: FieldType) -> None:
        try:
            self._declared(writes.form, reads.form, whole=True)
        except _Difference as difference:
            detail = str(difference)
            raise _Difference(detail or f"{self._sends} sends {writes.form}, and {self._reads} reads {reads.form}") from None

    # What is declared on both sides

    def _declared(self, writes: Form, reads: Form, *, whole: bool = False) -> None:
        """A form that Fory knows from the definition of the field, where it allows hardly any change; ``whole``: not inside a container."""
        writes, reads = self._without_none(writes, reads)
        if reads.kind == "union":
            if not (self._brings_its_type(writes) or (whole and not self._has_enum(writes))):
                raise _Difference
            self._dynamic(writes, reads)
            return
        writes = self._without_literal(writes, reads)
        match writes.kind, reads.kind:
            case ("list" | "tuple", "list" | "tuple") | ("set", "set") | ("dict", "dict"):
                for inner, other in zip(writes.inside, reads.inside, strict=True):
                    self._declared(inner, other)
            case "items", "items" | "list" | "tuple":
                self._declared_items(writes, reads)
            case "type", "type":
                self._named(writes, reads)
            case "literal", "literal":
                pass
            case sent, read if sent == read and not writes.inside:
                pass
            case pair if whole and pair in _CONVERTED:
                pass
            case _:
                raise _Difference

    def _declared_items(self, writes: Form, reads: Form) -> None:
        """A tuple of fixed length. If all its items are of one type, it is the list of that type; else each item brings its own."""
        others = self._items_of(reads, len(writes.inside))
        alike = _are_alike(writes.inside)
        if not writes.inside and reads.kind != "items":
            raise _Difference
        if reads.kind == "items" and alike is not _are_alike(reads.inside):
            raise _Difference
        for inner, other in zip(writes.inside, others, strict=True):
            if alike:
                self._declared(inner, other)
            elif reads.kind == "items" or self._brings_its_type(other):
                self._dynamic(inner, other)
            else:
                raise _Difference

    def _items_of(self, reads: Form, number: int) -> tuple[Form, ...]:
        others = reads.inside if reads.kind == "items" else reads.inside * number
        if len(others) != number:
            raise _Difference
        return others

    # What brings its own type

    def _dynamic(self, writes: Form, reads: Form) -> None:
        """A form whose values bring their types, so that each is judged by itself."""
        writes, reads = self._without_none(writes, reads)
        if writes.kind == "union":
            for member in writes.inside:
                self._dynamic(member, reads)
            return
        if reads.kind == "union":
            self._some_member(writes, reads)
            return
        writes = self._without_literal(writes, reads)
        match writes.kind, reads.kind:
            case ("list", "list" | "tuple") | ("tuple", "tuple") | ("set", "set") | ("dict", "dict"):
                for inner, other in zip(writes.inside, reads.inside, strict=True):
                    self._dynamic(inner, other)
            case ("tuple", "list") if not self._native:  # which has tuples, where XLANG has lists only
                self._dynamic(writes.inside[0], reads.inside[0])
            case "items", "items" | "list" | "tuple" if reads.kind != "list" or not self._native:
                for inner, other in zip(writes.inside, self._items_of(reads, len(writes.inside)), strict=True):
                    self._dynamic(inner, other)
            case "type", "type":
                self._named(writes, reads)
            case "literal", "literal":
                pass
            case sent, read if sent == read and not writes.inside:
                pass
            case _:
                raise _Difference

    def _some_member(self, writes: Form, reads: Form) -> None:
        """Of a union's members no two look the same, so at most one of them can fit."""
        why = _Difference()
        for member in reads.inside:
            try:
                self._dynamic(writes, member)
            except _Difference as difference:
                why = difference if str(difference) else why
            else:
                return
        raise why

    # Both

    def _without_none(self, writes: Form, reads: Form) -> tuple[Form, Form]:
        if writes.kind == "optional":
            if reads.kind != "optional":
                raise _Difference(f"{self._sends} may send None, and {self._reads} reads {reads}")
            writes = writes.inside[0]
        return writes, reads.inside[0] if reads.kind == "optional" else reads

    def _without_literal(self, writes: Form, reads: Form) -> Form:
        """What is sent, if it can be any of its type. If both are literals, they are compared here."""
        if writes.kind == "literal" and reads.kind == "literal":
            self._literals(writes, reads)
            return writes
        return writes.inside[0] if writes.kind == "literal" else writes

    def _literals(self, writes: Form, reads: Form) -> None:
        base, other = writes.inside[0], reads.inside[0]
        if base != other:
            raise _Difference
        names = {} if base.kind != "type" else self._members(base.name)
        unknown = [value for value in writes.values if names.get(str(value), value) not in reads.values]
        if unknown:
            raise _Difference(f"{self._sends} may send {unknown[0]!r}, and {self._reads} reads {reads}")

    def _named(self, writes: Form, reads: Form) -> None:
        if writes.name != reads.name:
            raise _Difference
        if isinstance(self._writer.types[writes.name], EnumType):
            self._members(writes.name)
        else:
            self._reached[writes.name] = None

    def _members(self, name: str) -> dict[str, str]:
        """How the members of an Enum are called at the reader."""
        writes, reads = self._writer.types[name], self._reader.types[name]
        if not isinstance(writes, EnumType) or not isinstance(reads, EnumType):
            raise _Difference(f"{name} is an Enum at one end, and a dataclass at the other")
        sent, known = self._numbered(writes), self._numbered(reads)
        names: dict[str, str] = {}
        for number, member in sent.items():
            other = known.get(number)
            if other is None:
                raise _Difference(f"{self._sends} may send {name}.{member} (number {number}), which {self._reads} does not know")
            # A member may get another name. But one whose name the other end has for another number was moved.
            if other != member and (other in sent.values() or member in known.values()):
                raise _Difference(f"{name}.{member} of {self._sends} arrives as {name}.{other} at {self._reads}: both have the number {number}")
            names[member] = other
        return names

    def _numbered(self, type_: EnumType) -> dict[int, str]:
        return {place if self._native else number: name for place, (name, number) in enumerate(type_.members)}

    def _is_enum(self, form: Form) -> bool:
        return form.kind == "type" and isinstance(self._writer.types.get(form.name), EnumType)

    def _has_enum(self, form: Form) -> bool:
        return self._is_enum(form) or any(map(self._has_enum, form.inside))

    def _brings_its_type(self, form: Form) -> bool:
        types = self._writer.types
        return form.kind in _SELF_DESCRIBING or (form.kind == "type" and not isinstance(types.get(form.name), EnumType))

    # What is passed over

    def _skip(self, form: Form, *, hashed: bool = False, declared: bool = True) -> None:
        """A field that the reader does not have. Fory reads it all the same, by the definition that came with it."""
        if self._is_enum(form):
            known = isinstance(self._reader.types.get(form.name), EnumType)
            if hashed if declared else not known:
                raise _Difference(f"{self._reads} has no such field, and cannot pass over the Enum {form.name} in it")
            if not declared:
                self._members(form.name)
            return
        if form.kind == "type":
            self._reached[form.name] = None
            return
        if hashed and declared and form.kind in ("tuple", "items"):
            raise _Difference(f"{self._reads} has no such field, and cannot pass over the tuples that are keys in it")
        declared = declared and form.kind != "union" and not (form.kind == "items" and not _are_alike(form.inside))
        for place, inner in enumerate(form.inside):
            self._skip(inner, hashed=hashed or form.kind == "set" or (form.kind == "dict" and place == 0), declared=declared)


def _arrives_as(name: str, reads: Struct) -> str | None:
    """The field that Fory takes a field for: a name that is none here may be one in the spelling of other languages."""
    if name in reads.fields:
        return name
    first, *others = name.split("_")
    camel = first + "".join(other.capitalize() for other in others)
    return camel if camel in reads.fields else None


def _are_alike(forms: Iterable[Form]) -> bool:
    """Whether the items of a tuple are of one type in Fory's eyes, which then is that of a list."""
    return len({_seen_by_fory(form) for form in forms}) == 1


def _seen_by_fory(form: Form) -> Form:
    if form.kind in _SELF_DESCRIBING or (form.kind == "items" and not form.inside):
        return Form("any")
    if form.kind == "literal":
        return _seen_by_fory(form.inside[0])
    return Form(form.kind, tuple(map(_seen_by_fory, form.inside)), form.name)
