"""Rows and their schemas, drawn from a ``random.Random`` by someone who knows the layout, and lies in it."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from aster.codec.row.cells import bitmap_bytes
from aster.codec.row.scalars import FIXED
from aster.codec.row.schema import MAX_SCHEMA_BYTES, MalformedSchemaError, RowSchema, RowType, are_alike, decode_schema
from tests.fuzz.mutation import mutated
from tests.fuzz.row_reading import roomy_stack

__all__ = ["bare_schema_of", "head_of", "row_of", "schema_of"]

# Rows

_DEEPEST = 70
"""Structs inside each other: more than a reader takes."""

_MANY = (100, 1_000, 8_000)
_WORDS = (0, 1, 2, 7, 8, 16, 24, 64, 2**31 - 1, 2**31, 2**32 - 1)
_COUNTS = (0, 1, 2, 63, 64, 65, 2**31, 2**32, 2**40, 2**61, 2**63, 2**64 - 1)
_EDGES = (0, 1, -1, 2**31, 2**53 + 1, 2**58, 2**61 - 1, 2**62, 2**62 + 1, 2**63 - 1, -(2**63), -62_135_596_800_000_000, 253_402_300_799_999_999, 2**37 + 1)
_NUMBERS: Mapping[str, Sequence[int | float]] = {
    "bool": (0, 0, 1, 1, 1, 2, 255),
    "float": (0.0, -0.0, 1.5, float("nan"), float("inf"), 5e-324),
    "date": (0, 1, -1, -719_162, -719_163, 2_932_896, 2_932_897, 2**31 - 1, -(2**31)),
    "time": (0, 1, 172_799_999_999, 172_800_000_000, -1, 2**63 - 1),
}
_MEMBERS: Mapping[str, Sequence[bytes]] = {"Color": (b"RED", b"BLUE"), "Level": (b"LOW", b"HIGH"), "Depth": (b"BELOW", b"ABOVE")}
_DATA: Mapping[str, Sequence[bytes]] = {
    "str": (b"", b"a", b"r", b"key", "é\N{GRINNING FACE}".encode(), b"\xff", b"\xed\xa0\x80", b"x" * 70),
    "bytes": (b"", b"\x00", b"bytes" * 9),
    "decimal": (b"0", b"-1.50", b"1E+10000", b"1E-10000", b"9" * 400, b"9" * 10_000, b"1E+99999", b"NaN", b"1_0", b"", b"-0", b"0E+5"),
    "uuid": (bytes(16), b"\xff" * 16, bytes(15)),
    "enum": (b"RED", b"BLUE", b"AZURE", b"LOW", b"HIGH", b"BELOW", b"", b"red", b"X" * 90),
}


def row_of(schema: RowSchema, chance: random.Random, *, is_large: bool = False) -> bytes:
    """A row of a schema: right in all its parts, or with few lies, or with many."""
    with roomy_stack():  # whose types may be nested, too
        return _Writer(schema, chance, is_large).root()


def bare_schema_of(good: bytes) -> tuple[bytes, RowSchema]:
    """The schema of a peer that has none of the fields, but for those of the message itself."""
    form: list[Any] = json.loads(good)
    for struct_ in form[1:]:
        struct_[1] = []
    data = _bytes_of(form)
    return data, decode_schema(data)


class _Writer:
    """Writes rows of one schema. What they hold ends where ``room`` is used up."""

    def __init__(self, schema: RowSchema, chance: random.Random, is_large: bool) -> None:
        self._schema = schema
        self._chance = chance
        self._lies = chance.choice((0, 0, 0.005, 0.02, 0.1))
        self._nulls = chance.choice((0.1, 0.3, 0.9))
        self._deep = chance.random() < 0.1
        self._many = is_large or chance.random() < 0.1
        self._room = chance.choice((300, 300, 300, 1_000, 1_000, 4_000, 20_000))

    def root(self) -> bytes:
        return self._struct(0, 0)

    def _lie(self) -> bool:
        return self._chance.random() < self._lies

    def _struct(self, place: int, depth: int) -> bytes:
        return b"" if depth > _DEEPEST or self._room < -1_000 else self._record([type_ for _, type_ in self._schema.structs[place].fields], depth)

    def _record(self, types: Sequence[RowType], depth: int, only: int | None = None) -> bytes:
        """A row with a field of each type; of a union only one is there."""
        bits, slots, data = 0, list[bytes](), list[bytes]()
        first = bitmap_bytes(len(types))
        end = first + 8 * len(types)
        self._room -= end
        for place, type_ in enumerate(types):
            if self._is_null(type_) if only is None else place != only:
                bits |= 1 << place
                slots.append(self._chance.randbytes(8) if self._lie() else bytes(8))
                continue
            base = _base(type_)
            if base.kind in FIXED:
                slots.append(self._number(base.kind).ljust(8, b"\0"))
                continue
            part = self._part(base, depth)
            slots.append(struct.pack("<II", len(part), end))
            data.append(part.ljust(-(-len(part) // 8) * 8, b"\0"))
            end += len(data[-1])
        variable = [first + 8 * place for place, type_ in enumerate(types) if _base(type_).kind not in FIXED]
        return self._spoilt(b"".join((bits.to_bytes(first, "little"), *slots, *data)), range(first), variable)

    def _is_null(self, type_: RowType) -> bool:
        if type_.kind != "optional":
            return self._lie()
        return self._room <= 0 or (not self._deep and self._chance.random() < self._nulls)

    def _number(self, kind: str) -> bytes:
        known = _NUMBERS.get(kind, _EDGES)
        number = self._chance.choice(known)
        if self._chance.random() < 0.5:
            number = self._chance.random() if kind == "float" else self._chance.randrange(2 if kind == "bool" else self._chance.choice((3, 10_000)))
        self._room -= 8
        return struct.pack(f"<{FIXED[kind].code}", number)

    def _part(self, type_: RowType, depth: int) -> bytes:
        inside = type_.inside
        self._room -= 8
        match type_.kind:
            case "struct":
                part = self._struct(type_.struct, depth + 1)
            case "list" | "tuple" | "set":
                part = self._array(inside[0], self._count(), depth)
            case "items" if are_alike(inside):
                part = self._array(inside[0], len(inside) + self._chance.choice((-1, 1)) * self._lie(), depth)
            case "items":
                part = self._record(inside, depth)
            case "union":
                # A member that is declared optional is not, in a row: its null is what says that it is not there.
                part = self._record([_base(each) for each in inside], depth, only=self._chance.randrange(len(inside)))
            case "dict":
                part = self._map(inside[0], inside[1], depth)
            case "uuid":
                part = self._chance.randbytes(16) if self._chance.random() < 0.7 else self._chance.choice(_DATA["uuid"])
            case "enum" if self._chance.random() < 0.9:
                part = self._chance.choice(_MEMBERS.get(type_.name.rpartition(".")[2], (b"",)))
            case kind:
                part = self._chance.choice(_DATA[kind][:4] if self._chance.random() < 0.7 else _DATA[kind])
        self._room -= 0 if inside else len(part)
        return part[: self._chance.randrange(len(part) + 1)] if self._lie() else part

    def _count(self) -> int:
        if self._room <= 0:
            return 0
        if self._deep:
            return 1
        return self._chance.choice(_MANY) if self._many and self._chance.random() < 0.3 else self._chance.choice((0, 1, 1, 2, 3, 9))

    def _array(self, type_: RowType, count: int, depth: int) -> bytes:
        base, bits = _base(type_), bitmap_bytes(count)
        null = 0
        for place in range(count if count < 100 else 0):
            null |= self._is_null(type_) << place
        head = [self._shown(count), null.to_bytes(bits, "little")]
        if base.kind in FIXED:
            distinct = [self._number(base.kind) for _ in range(min(count, 20))]
            data = b"".join(distinct[place % 20] for place in range(count))
            return self._spoilt(b"".join((*head, data.ljust(-(-len(data) // 8) * 8, b"\0"))), range(8, 8 + bits), ())
        slots, parts, end = list[bytes](), list[bytes](), 8 + bits + 8 * count
        for place in range(count):
            part = b"" if null >> place & 1 or (self._room <= 0 and place > 9) else self._part(base, depth)
            slots.append(struct.pack("<II", len(part), end) if part or not null >> place & 1 else bytes(8))
            parts.append(part.ljust(-(-len(part) // 8) * 8, b"\0"))
            end += len(parts[-1])
        return self._spoilt(b"".join((*head, *slots, *parts)), range(8, 8 + bits), range(8 + bits, 8 + bits + 8 * count, 8))

    def _shown(self, count: int) -> bytes:
        """A count, or what is told instead."""
        if not self._lie():
            return struct.pack("<Q", count)
        return struct.pack("<Q", self._chance.choice((*_COUNTS, count + 1, max(0, count - 1), 2 * count)))

    def _map(self, key: RowType, value: RowType, depth: int) -> bytes:
        count = self._count()
        keys = self._array(key, min(count, 1) if self._chance.random() < 0.2 else count, depth)
        (counted,) = struct.unpack_from("<Q", keys.ljust(8, b"\0"))
        values = self._array(value, counted if counted <= count and not self._lie() else count, depth)
        size = struct.pack("<Q", len(keys)) if not self._lie() else struct.pack("<Q", self._chance.choice((*_COUNTS, len(keys) + 8, len(keys) + len(values))))
        return b"".join((size, keys, values))

    def _spoilt(self, region: bytes, bits: range, slots: Sequence[int]) -> bytes:
        """A region, perhaps with a lie about where something is, or about what is null."""
        if not self._lie():
            return region
        work, chance = bytearray(region), self._chance
        if not slots or chance.random() < 0.2:
            if bits and chance.random() < 0.7:
                work[chance.choice(bits)] ^= 1 << chance.randrange(8)
            else:
                del work[chance.randrange(len(work) + 1) :]
            return bytes(work)
        at, other = chance.choice(slots), chance.choice(slots)
        size, offset = struct.unpack_from("<II", work, at)
        match chance.randrange(8):
            case 0:  # two that are one
                work[at : at + 8] = work[other : other + 8]
            case 1:  # one that holds itself
                size, offset = len(work), 0
            case 2:
                offset = chance.randrange(len(work) + 16)
            case 3:  # out of what it belongs to, by little
                size = len(work) - offset + chance.choice((-8, -1, 0, 1, 8))
            case 4:
                size = chance.choice(_WORDS)
            case 5:
                offset = chance.choice(_WORDS)
            case 6:  # two that are each other
                work[at : at + 8], work[other : other + 8] = work[other : other + 8], work[at : at + 8]
            case _:  # over what follows it
                size += chance.choice((1, 7, 8, 16, 64))
        if bytes(work[at : at + 8]) == region[at : at + 8]:
            struct.pack_into("<II", work, at, size % 2**32, offset % 2**32)
        return bytes(work)


def _base(type_: RowType) -> RowType:
    while type_.kind == "optional":
        type_ = type_.inside[0]
    return type_


# Schemas

_LEAVES = (*FIXED, "str", "bytes", "decimal", "uuid")
_NO_TYPES: Sequence[Any] = ("", "object", [], ["list"], ["list", "int", "int"], ["dict", "int"], ["struct", -1], ["struct", 2**70], ["struct", True], ["union"])
_NO_NAMES: Sequence[Any] = ("", "é", "x" * 300, "a b", 7, None, [], "\0")
_PIECES = (b"[", b'["list",', b"[],", b'{"":0},', b"0,", b"1e9,", b'"",', b'["a",[]],', b"9", b" ", b'[["a",[["a","int"]]],', b'"\\u0041\\ud800",')
_OTHERS: Sequence[Any] = (None, 0, -1, 1e300, True, "", [], {}, {"a": 1}, [[]], [[[]]], "x" * 500)


def head_of(schema: bytes, chance: random.Random) -> bytes:
    """What a message with these bytes as its schema begins with; seldom with a size that is another."""
    if chance.random() < 0.95:
        return struct.pack("<Q", len(schema)) + schema
    return struct.pack("<Q", chance.choice((*_COUNTS, len(schema) - 1, len(schema) + 1, len(schema) + 8)) % 2**64) + schema


def schema_of(good: bytes, chance: random.Random) -> tuple[bytes, RowSchema | None]:
    """The schema of another peer, made of a good one: of another version of the class, of a liar, or no schema at all; and what it says, if anything."""
    form: list[Any] = json.loads(good)
    match chance.randrange(18):
        case 16:
            return _deep(good, chance), None
        case 17:
            _crowd(form, chance)
            data = _bytes_of(form)
        case 0:
            data = mutated(good, [good], chance)
        case 1:
            data = _bomb(chance)
        case 2:
            _fill(form, chance)
            data = _bytes_of(form)
        case _:
            for _ in range(chance.choice((1, 1, 2, 4))):
                with suppress(LookupError, TypeError):  # what was spoilt before may be no field any more
                    _change(form, chance)
            data = _bytes_of(form)
    try:
        with roomy_stack():
            return data, decode_schema(data)
    except MalformedSchemaError:
        return data, None


def _bytes_of(form: Any) -> bytes:
    data = json.dumps(form, separators=(",", ":")).encode()
    return data.ljust(-(-len(data) // 8) * 8)


def _bomb(chance: random.Random) -> bytes:
    """JSON that takes a long time or much memory, and is no schema, in as many bytes as a schema may have, about."""
    piece = chance.choice(_PIECES)
    size = chance.choice((100, 1_000, 1_000, MAX_SCHEMA_BYTES - 16, MAX_SCHEMA_BYTES, MAX_SCHEMA_BYTES + 8))
    data = piece * (size // len(piece))
    if chance.random() < 0.8:
        data = b"[" + data[: size - 4] + b"0]"
    return data


def _deep(good: bytes, chance: random.Random) -> bytes:
    """A schema with JSON in it that is nested about as deeply as JSON can be read."""
    deep = chance.choice((40, 500, *range(800, 1_000, 4))) + chance.randrange(4)
    piece = b'{"":' + b"[" * deep + b"]" * deep + b"}"
    place = chance.choice(("type", "name", "root", "types"))
    if place == "root":
        return piece
    first = json.dumps(json.loads(good)[0][0]).encode()
    if place == "name":
        return b"[[" + piece + b",[]]]"
    lists = 30 if place == "types" else 0
    return b"[[" + first + b',[["f",' + b'["list",' * lists + piece + b"]" * lists + b"]]]]"


def _crowd(form: list[Any], chance: random.Random) -> None:
    """Make a field one of hundreds or thousands of types, each of which a receiver has to find among its own."""
    fields = _fields_of(form, chance)
    if not fields:
        return
    if chance.random() < 0.3:  # no schema, since a union has each of its members once, and no other union
        member: Any = chance.choice((chance.choice(_LEAVES), _type(form, chance, 1)))
        room = chance.choice((500, 3_000, MAX_SCHEMA_BYTES - 3_000)) // (len(json.dumps(member)) + 1)
        chance.choice(fields)[1] = ["union", *[["union", *[member] * min(room, 990)]] * max(1, room // 990)]
        return
    members: list[Any] = list(_LEAVES)
    for _ in range(chance.choice((5, 40, 115))):
        several = ["union", *chance.sample(_LEAVES, chance.choice((2, 3, 5, 9)))]
        members.append([chance.choice(("list", "tuple", "list", "set")), chance.choice((several, several, chance.choice(_LEAVES)))])
    chance.choice(fields)[1] = ["union", *[each for place, each in enumerate(members) if each not in members[:place]]]


def _fill(form: list[Any], chance: random.Random) -> None:
    """Make a schema as large as it may be, about, with what a receiver does not know and passes over."""
    size = chance.choice((2_000, 2_000, 8_000, 30_000, MAX_SCHEMA_BYTES - 200, MAX_SCHEMA_BYTES - 200, MAX_SCHEMA_BYTES + 50))
    room = size - len(_bytes_of(form))
    kind = chance.randrange(4)
    added: list[Any] = []
    while room > 0:
        name = f"z{len(added):04}"
        match kind:
            case 0:
                each: Any = [name, chance.choice(_LEAVES)]
            case 1:
                each = [name, _type(form, chance, 3)]
            case 2:  # structs
                each = [name, [["f", chance.choice(_LEAVES)]] * chance.randrange(2)]
            case _:
                each = [name, [chance.choice(("union", "items")), *[chance.choice(_LEAVES)] * chance.choice((2, 40, 900))]]
        added.append(each)
        room -= len(json.dumps(each, separators=(",", ":"))) + 1
    if kind == 2:
        form += added
    else:
        fields = _fields_of(form, chance)
        fields += added
        fields.sort(key=lambda field: field[0])


def _change(form: list[Any], chance: random.Random) -> None:
    """One change, such as the next version of a class has, or a peer that lies."""
    fields = _fields_of(form, chance)
    field: Any = chance.choice(fields) if fields else ["none", "int"]
    match chance.randrange(15):
        case 0 if fields:
            fields.remove(field)
        case 1 | 2:
            fields.append([chance.choice(("a", "zz", "Name", "children", "field7", "x" * 60)), _type(form, chance, 2)])
            fields.sort(key=lambda each: str(each[0]))
        case 3 | 4:
            field[1] = _type(form, chance, 3)
        case 5:
            field[1] = ["optional", field[1]]
        case 6 if field[1][0] == "optional":
            field[1] = field[1][1]
        case 7:
            _vary(field[1], form, chance)
        case 8:
            field[1] = chance.choice(_NO_TYPES)
        case 9:
            field[0] = chance.choice((*_NO_NAMES, "a", "zz"))
        case 10:
            chance.choice(form)[0] = chance.choice((*_NO_NAMES, "tests.Other", chance.choice(form)[0]))
        case 11:
            more: Any = [f"more{len(form)}", []]
            form.append(chance.choice((more, chance.choice(form), *_OTHERS)))
        case 12:
            for _ in range(chance.choice((3, 31, 32, 33))):
                field[1] = [chance.choice(("list", "optional", "tuple", "set")), field[1]]
        case 13:  # which leaves all of a receiver's to its defaults
            fields.clear()
        case _:
            chance.shuffle(chance.choice((form, fields)))


def _fields_of(form: list[Any], chance: random.Random) -> list[Any]:
    """The fields of a struct; those of the message more often than not. Of what was spoilt before, some that count for nothing."""
    struct_: Any = form[0] if chance.random() < 0.6 else chance.choice(form)
    own: Any = cast("Any", struct_)[1] if isinstance(struct_, list) and len(cast("list[Any]", struct_)) == 2 else []
    return cast("list[Any]", own) if isinstance(own, list) else []


def _vary(type_: Any, form: list[Any], chance: random.Random) -> None:
    """Another kind of the same contents, or the same kind of other contents."""
    if not isinstance(type_, list) or not type_:
        return
    own = cast("list[Any]", type_)
    if own[0] == "struct":
        own[1] = chance.randrange(len(form) + 1)
    elif chance.random() < 0.5:
        own[0] = chance.choice(("list", "tuple", "set", "dict", "optional", "union", "items", "enum", "struct"))
    else:
        own[-1] = _type(form, chance, 1)


def _type(form: list[Any], chance: random.Random, room: int) -> Any:
    """A type."""
    kind = chance.choice(("list", "tuple", "set", "dict", "optional", "union", "items", "struct", "enum")) if room and chance.random() < 0.6 else "leaf"
    match kind:
        case "leaf":
            return chance.choice(_LEAVES)
        case "struct":
            return ["struct", chance.randrange(len(form))]
        case "enum":
            return ["enum", chance.choice(("tests.codec.models.Color", "tests.Other"))]
        case "dict":
            return ["dict", _type(form, chance, room - 1), _type(form, chance, room - 1)]
        case "union" | "items":
            return [kind, *[_type(form, chance, room - 1) for _ in range(chance.choice((2, 2, 3, 70)))]]
        case _:
            return [kind, _type(form, chance, room - 1)]
