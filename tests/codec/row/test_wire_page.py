"""The message on the page of the wire format is what it says, and is taken apart here by hand as the page says."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from aster.codec import make_codec, materialize
from aster.types import SerializationMode

_PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text("utf-8")


@dataclass
class Line:
    sku: str
    price: float


@dataclass
class Order:
    id: str
    count: int | None
    lines: list[Line]


_ORDER = Order("a1", None, [Line("x", 2.5)])


def _payload() -> bytes:
    found = re.search(r'^\| `Order\("a1", None, \[Line\("x", 2.5\)\]\)` \| (.*) \|$', _PAGE, re.MULTILINE)
    assert found
    return bytes.fromhex("".join(re.findall(r"`(\w+)`", found[1])))


def test_the_message_on_the_page_is_what_aster_writes_and_reads() -> None:
    tags: dict[type, str] = {Order: "shop/Order", Line: "shop/Line"}
    codec = make_codec(SerializationMode.ROW, tags)
    assert codec.encoder(Order)(_ORDER) == _payload()
    assert materialize(codec.decoder(Order)(_payload())) == _ORDER


def test_the_message_on_the_page_is_laid_out_as_the_page_says() -> None:
    payload = _payload()
    (size,) = struct.unpack_from("<Q", payload)
    schema, row = payload[8 : 8 + size], payload[8 + size :]
    assert size % 8 == 0
    assert json.loads(schema) == [
        ["shop.Order", [["count", ["optional", "int"]], ["id", "str"], ["lines", ["list", ["struct", 1]]]]],
        ["shop.Line", [["price", "float"], ["sku", "str"]]],
    ]
    assert row[:8] == b"\x01" + bytes(7)  # count, the first field, is null
    assert row[8:16] == bytes(8)
    length, offset = struct.unpack_from("<II", row, 16)
    assert row[offset : offset + length] == b"a1"
    length, offset = struct.unpack_from("<II", row, 24)
    array = row[offset : offset + length]
    assert offset % 8 == 0
    assert offset + length == len(row)
    assert array[:16] == struct.pack("<QQ", 1, 0)
    length, offset = struct.unpack_from("<II", array, 16)
    line = array[offset : offset + length]
    assert struct.unpack_from("<Qd", line) == (0, 2.5)
    length, offset = struct.unpack_from("<II", line, 16)
    assert line[offset:] == b"x" + bytes(7)
    assert length == 1
