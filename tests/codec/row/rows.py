"""What the tests of rows do alike: reading all of a view piece by piece, spoiling rows, and changing them in one place."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from aster.codec import make_codec
from aster.codec.row import RowCodec, RowList, RowMap, RowSet
from aster.codec.row.binding import StructReader
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.models import tags_of
from tests.codec.schemas import Schema

__all__ = ["MANY", "Many", "Node", "array_of_many", "changed_message", "codec_of", "outcome", "parts", "reader_of", "region_at", "spoilt", "view_of", "walked"]


def codec_of(*roots: type) -> RowCodec:
    """A codec of some dataclasses and of what they reach."""
    return cast("RowCodec", make_codec(SerializationMode.ROW, tags_of(*roots)))


def view_of(value: Any, codec: RowCodec | None = None) -> Any:
    """A view of a value's row."""
    cls = cast("type[Any]", type(value))
    codec = codec or codec_of(cls)
    return codec.decoder(cls)(codec.encoder(cls)(value))


def parts(message: bytes) -> tuple[bytes, bytes]:
    """What a message begins with, schema included, and its row."""
    size = 8 + int.from_bytes(message[:8], "little")
    return message[:size], message[size:]


def reader_of(codec: RowCodec, cls: type[Any], head: bytes, row: bytes) -> StructReader:
    """What reads the rows behind ``head``; ``row`` is a good one."""
    return codec.decoder(cls).reader_of(head + row, None)


def walked(value: Any) -> Any:
    """All of a value, read piece by piece as a user does, in plain values."""
    if isinstance(value, RowList):
        items = [walked(item) for item in cast("RowList[Any]", value)]
        return items if value[:0] == [] else tuple(items)
    if isinstance(value, RowMap):
        return {walked(key): walked(item) for key, item in cast("RowMap[Any]", value).items()}
    if isinstance(value, RowSet):
        return set(cast("RowSet[Any]", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        plain = cls if "__aster_row__" not in vars(cls) else cast("type[Any]", cls.__base__)
        made = object.__new__(plain)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, walked(getattr(value, field.name)))
        return made
    if isinstance(value, tuple):
        return tuple(walked(item) for item in cast("tuple[Any, ...]", value))
    return value


def outcome(codec: RowCodec, schema: Schema, message: bytes, *, whole: bool) -> Any:
    """The plain value that a message is, or the text of its DecodeError."""
    try:
        view = codec.decoder(schema.root)(message)
        return view.__aster_materialize__() if whole else walked(view)
    except DecodeError as exc:
        return str(exc)


def spoilt(row: bytes, random_: random.Random) -> bytes:
    """A row in which some numbers are others, as a peer would choose them: sizes and offsets above all."""
    work = bytearray(row)
    for _ in range(random_.choice((1, 1, 2, 3))):
        if len(work) < 8:
            break
        at = 4 * random_.randrange(len(work) // 4)
        others = [0, 1, 7, 8, 16, 24, 32, 2**31 - 1, 2**31, 2**32 - 1, len(work), random_.randrange(2 * len(work)), random_.getrandbits(32)]
        other = 4 * random_.randrange(len(work) // 4)
        match random_.randrange(4):
            case 0:
                work[at : at + 4] = work[other : other + 4]
            case 1:
                work[at : at + 4] = struct.pack("<I", random_.choice(others))
            case 2:
                (old,) = struct.unpack_from("<I", work, at)
                work[at : at + 4] = struct.pack("<I", (old + random_.choice((-16, -8, -1, 1, 8, 16))) % 2**32)
            case _:
                del work[at : at + random_.choice((1, 4, 8))]
    return bytes(work)


# Messages that are changed in one place


@dataclass
class Node:
    text: str = ""
    left: Node | None = None
    right: Node | None = None


@dataclass
class Many:
    texts: list[str] = field(default_factory=list[str])
    nodes: list[Node] = field(default_factory=list[Node])
    lists: list[list[str]] = field(default_factory=list[list[str]])
    table: dict[str, str] = field(default_factory=dict[str, str])
    pair: tuple[str, str] = ("", "")


def changed_message(value: Any, change: Callable[[bytearray], object]) -> tuple[RowCodec, bytes]:
    """A codec, and the message of a value whose row was changed."""
    cls = cast("type[Any]", type(value))
    codec = codec_of(cls)
    head, row = parts(codec.encoder(cls)(value))
    work = bytearray(row)
    change(work)
    return codec, head + bytes(work)


def region_at(row: bytes | bytearray, start: int, slot: int) -> tuple[int, int]:
    """Where the region of a slot begins, and its size."""
    size, offset = struct.unpack_from("<II", row, slot)
    return start + offset, size


_FIELDS = {name: place for place, name in enumerate(sorted(each.name for each in dataclasses.fields(Many)))}


def array_of_many(row: bytearray, name: str) -> tuple[int, int]:
    """Where the array of a field of Many begins, and its slots."""
    start, _ = region_at(row, 0, 8 + 8 * _FIELDS[name])
    return start, start + 16


MANY = Many(["abcdefgh", "b", "c"], [Node("x"), Node("y")], [["p"], ["q"]], {"k": "v", "l": "w"}, ("one", "two"))
