"""What Fory reads of another version of a type, in XLANG and NATIVE.

The codec is the truth here, and these rules were found by trying it; ``tests/contract`` tries them on random services. It refuses some changes for all
values, since Fory compares the definitions of two types, and others for some values only, such as ``None``. It also takes some values for what they are
not: of a union, say, another default may arrive. Such changes count as differences too.
"""

from __future__ import annotations

from collections.abc import Iterable

from aster._contract.form import Contract, EnumType, Form, Struct
from aster._contract.reading import Difference, Reading

__all__ = ["ForyReading"]

_CONVERTED = frozenset({("bool", "int"), ("bool", "float"), ("bool", "str"), ("bool", "decimal"), ("int", "str"), ("int", "decimal")})
"""What Fory converts, where it is a whole field, whatever the value. Not int to float: above 2**53 that loses digits, and is refused."""

_SELF_DESCRIBING = frozenset({"union", "uuid", "time"})
"""What brings its own type on the wire, as dataclasses and mixed tuples do. A field of another type has it in the definition of its class alone."""


class ForyReading(Reading):
    """Types as Fory reads them. ``native``: in its Python format rather than the one for all languages."""

    def __init__(self, writer: Contract, reader: Contract, writer_name: str, reader_name: str, *, native: bool) -> None:
        super().__init__(writer, reader, writer_name, reader_name)
        self._native = native

    def _read(self, writes: Form, reads: Form) -> None:
        self._declared(writes, reads, whole=True)

    def _arrives_as(self, name: str, reads: Struct) -> str | None:
        """A name that is none at the reader may be one in the spelling of other languages."""
        if name in reads.fields:
            return name
        first, *others = name.split("_")
        camel = first + "".join(other.capitalize() for other in others)
        return camel if camel in reads.fields else None

    # What is declared on both sides

    def _declared(self, writes: Form, reads: Form, *, whole: bool = False) -> None:
        """A form that Fory knows from the definition of the field, where it allows hardly any change; ``whole``: not inside a container."""
        writes, reads = self._without_none(writes, reads)
        if reads.kind == "union":
            if not (self._brings_its_type(writes) or (whole and not self._has_enum(writes))):
                raise Difference
            self._dynamic(writes, reads)
            return
        writes = self._without_literal(writes, reads)
        match writes.kind, reads.kind:
            case ("list" | "tuple", "list" | "tuple") | ("set", "set") | ("dict", "dict"):
                for inner, other in zip(writes.inside, reads.inside, strict=True):
                    self._declared(inner, other)
            case "items", "items" | "list" | "tuple":
                self._declared_items(writes, reads)
            case pair if whole and pair in _CONVERTED:
                pass
            case _:
                self._alike(writes, reads)

    def _declared_items(self, writes: Form, reads: Form) -> None:
        """A tuple of fixed length. If all its items are of one type, it is the list of that type; else each item brings its own."""
        others = self._items_of(reads, len(writes.inside))
        alike = _are_alike(writes.inside)
        if not writes.inside and reads.kind != "items":
            raise Difference
        if reads.kind == "items" and alike is not _are_alike(reads.inside):
            raise Difference
        for inner, other in zip(writes.inside, others, strict=True):
            if alike:
                self._declared(inner, other)
            elif reads.kind == "items" or self._brings_its_type(other):
                self._dynamic(inner, other)
            else:
                raise Difference

    def _items_of(self, reads: Form, number: int) -> tuple[Form, ...]:
        others = reads.inside if reads.kind == "items" else reads.inside * number
        if len(others) != number:
            raise Difference
        return others

    # What brings its own type

    def _dynamic(self, writes: Form, reads: Form) -> None:
        """A form whose values bring their types, so that each is judged by itself."""
        writes, reads = self._without_none(writes, reads)
        if self._by_members(writes, reads, self._dynamic):
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
            case _:
                self._alike(writes, reads)

    def _members(self, name: str) -> dict[str, str]:
        """How the members of an Enum are called at the reader."""
        writes, reads = self._enums(name)
        sent, known = self._numbered(writes), self._numbered(reads)
        names: dict[str, str] = {}
        for number, member in sent.items():
            other = known.get(number)
            if other is None:
                raise Difference(f"{self._sends} may send {name}.{member} (number {number}), which {self._reads} does not know")
            # A member may get another name. But one whose name the other end has for another number was moved.
            if other != member and (other in sent.values() or member in known.values()):
                raise Difference(f"{name}.{member} of {self._sends} arrives as {name}.{other} at {self._reads}: both have the number {number}")
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
                raise Difference(f"{self._reads} has no such field, and cannot pass over the Enum {form.name} in it")
            if not declared:
                self._members(form.name)
            return
        if form.kind == "type":
            self._reached[form.name] = None
            return
        if hashed and declared and form.kind in ("tuple", "items"):
            raise Difference(f"{self._reads} has no such field, and cannot pass over the tuples that are keys in it")
        declared = declared and form.kind != "union" and not (form.kind == "items" and not _are_alike(form.inside))
        for place, inner in enumerate(form.inside):
            self._skip(inner, hashed=hashed or form.kind == "set" or (form.kind == "dict" and place == 0), declared=declared)


def _are_alike(forms: Iterable[Form]) -> bool:
    """Whether the items of a tuple are of one type in Fory's eyes, which then is that of a list."""
    return len({_seen_by_fory(form) for form in forms}) == 1


def _seen_by_fory(form: Form) -> Form:
    if form.kind in _SELF_DESCRIBING or (form.kind == "items" and not form.inside):
        return Form("any")
    if form.kind == "literal":
        return _seen_by_fory(form.inside[0])
    return Form(form.kind, tuple(map(_seen_by_fory, form.inside)), form.name)
