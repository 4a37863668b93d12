"""The codec of ROW: a message is eight bytes that tell the size of the schema, the schema, and the row.

By itself a message has its schema with it. In a stream only the first has, and the size is zero in the others.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from aster.codec.checks import Check, generate_checks
from aster.codec.fields import field_shapes
from aster.codec.lazy import plain
from aster.codec.row.binding import Classes, StructReader, bind
from aster.codec.row.schema import MAX_SCHEMA_BYTES, MalformedSchemaError, RowSchema, decode_schema, encode_schema, schema_of
from aster.codec.row.views import view_class
from aster.codec.row.writer import WriteRow, write_functions
from aster.codec.tags import check_known, short_name
from aster.codec.walk import Direction, Mismatch, Walk
from aster.errors import DecodeError
from aster.types import SerializationMode

__all__ = ["MAX_REMEMBERED", "SMALLEST", "RowCodec", "RowDecoder", "RowEncoder", "RowStreamDecoder", "RowStreamEncoder"]

MAX_REMEMBERED = MAX_SCHEMA_BYTES
"""Bytes of schemas of peers that are remembered for each type of message, those that came last: what they are bound to takes up to 160 times as many. Of honest
peers there are as many schemas as versions of the class in use."""

SMALLEST = 1_024
"""Bytes that the smallest schema counts as: it too is bound to all the fields of the class."""

_SIZE = struct.Struct("<Q")
_KNOWN = _SIZE.pack(0)


class RowCodec:
    """Turns messages into rows, and rows into views of them.

    Args:
        types: the dataclasses and Enums, those included that others reach.
        names: what they are called on the wire.

    Raises:
        TypeError: the schema of a message is above the limit.
    """

    mode = SerializationMode.ROW

    def __init__(self, types: tuple[type, ...], names: Mapping[type, str]) -> None:
        fields = {cls: field_shapes(cls) for cls in types if is_dataclass(cls)}
        self._classes = Classes(fields, names, {cls: view_class(cls) for cls in fields})
        self._checks = generate_checks(Direction.ENCODE, fields, {})
        self._walk = Walk(Direction.ENCODE, fields, {})
        self._encoders: dict[type, RowEncoder] = {}

    def encoder(self, cls: type[Any]) -> RowEncoder:
        """See ``Codec``. What it encodes has its schema with it; ``for_stream`` makes one for many."""
        check_known(cls, self._classes.fields)
        encoder = self._encoders.get(cls)
        if encoder is None:
            schema = schema_of(cls, self._classes.fields, self._classes.names)
            by_name = {name: own for own, name in self._classes.names.items()}
            shapes = [{field.name: field.shape for field in self._classes.fields[by_name[own.name]]} for own in schema.structs]
            encoded = encode_schema(schema, cls)
            write = write_functions(schema, shapes)[0]
            encoder = self._encoders[cls] = RowEncoder(cls, self._checks[cls], self._walk, write, _SIZE.pack(len(encoded)) + encoded)
        return encoder

    def decoder(self, cls: type[Any], *, is_request: bool = False) -> RowDecoder:
        """See ``Codec``. It gives a view, whose parts are read, and refused, when they are asked for.

        Args:
            cls: what to decode.
            is_request: whether that is for a handler, whose peer then is to blame for what it cannot read.
        """
        check_known(cls, self._classes.fields)
        return RowDecoder(cls, lambda schema: bind(schema, cls, self._classes, is_request=is_request))


class RowEncoder:
    """Encodes messages of one class, each with its schema."""

    def __init__(self, cls: type[Any], check: Check, walk: Walk, write: WriteRow, prefix: bytes) -> None:
        self._cls = cls
        self._check = check
        self._walk = walk
        self._write = write
        self.prefix = prefix

    def __call__(self, value: Any) -> bytes:
        return self.encode(value, self.prefix)

    def for_stream(self) -> RowStreamEncoder:
        """An encoder for the messages of one stream."""
        return RowStreamEncoder(self)

    def encode(self, value: Any, prefix: bytes) -> bytes:
        """The row of a value behind ``prefix``.

        Raises:
            TypeError, ValueError: see ``Codec.encoder``.
        """
        if type(value) is not self._cls:
            value = plain(value)
        try:
            exact = self._check(value, 0)
        except Exception:  # an attribute that is missing or misbehaves, which the walk then reports
            exact = False
        sent = value if exact else self._walk.to_send(self._cls, value)
        try:
            return self._write(sent, prefix)
        except (struct.error, OverflowError, ValueError) as exc:
            self._walk.to_send(self._cls, value)  # finds what the check leaves to the writer, such as the range of an int, and names the field
            raise ValueError(f"no row can hold this {short_name(self._cls)}: {exc}") from exc


class RowStreamEncoder:
    """Encodes the messages of one stream: with their schema until one of them was sent."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder
        self._prefix = encoder.prefix

    def __call__(self, value: Any) -> bytes:
        return self._encoder.encode(value, self._prefix)

    def sent(self) -> None:
        """A message is on its way, and the schema with it: one that was encoded may yet be cancelled."""
        self._prefix = _KNOWN


class RowDecoder:
    """Decodes messages of one class that have their schemas with them."""

    def __init__(self, cls: type[Any], bind: Callable[[RowSchema], StructReader]) -> None:
        self._cls = cls
        self._bind = bind
        self._bound: OrderedDict[bytes, StructReader] = OrderedDict()
        self._remembered = 0
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> Any:
        return self.read(data, self.reader_of(data, None))

    def for_stream(self) -> RowStreamDecoder:
        """A decoder for the messages of one stream."""
        return RowStreamDecoder(self)

    def reader_of(self, data: bytes, known: StructReader | None) -> StructReader:
        """What reads the row of a message. ``known``: what read that of the message before.

        Raises:
            DecodeError: it has no schema that can be read, or that is of such a class.
        """
        if len(data) < 8:
            raise DecodeError(f"these {len(data)} bytes are not a {short_name(self._cls)}: a row begins with the size of its schema, in 8 bytes")
        (size,) = _SIZE.unpack_from(data)
        if size:
            return self._bound_to(data[8 : 8 + size], is_cut=size > len(data) - 8)
        if known is None:
            raise DecodeError(f"the peer sent a row of a {short_name(self._cls)} ahead of its schema, which the first one must have with it")
        return known

    def read(self, data: bytes, reader: StructReader) -> Any:
        """A view of a message.

        Raises:
            DecodeError: it holds no such row.
        """
        try:
            return reader.read(data, 8 + _SIZE.unpack_from(data)[0], len(data), None)
        except Mismatch as exc:
            raise reader.origin.refused(exc) from None

    def _bound_to(self, schema: bytes, *, is_cut: bool) -> StructReader:
        """What reads the rows of a schema."""
        reader = None if is_cut else self._bound.get(schema)
        if reader is not None:
            return reader
        try:
            if is_cut:
                raise MalformedSchemaError("it ends behind its message")
            reader = self._bind(decode_schema(schema))
        except MalformedSchemaError as exc:
            raise DecodeError(f"the schema that came with a {short_name(self._cls)} cannot be read: {exc}") from exc
        with self._lock:
            if schema not in self._bound:  # else another thread was first
                self._bound[schema] = reader
                self._remembered += _weight(schema)
                while self._remembered > MAX_REMEMBERED:
                    self._remembered -= _weight(self._bound.popitem(last=False)[0])
        return reader


def _weight(schema: bytes) -> int:
    return max(len(schema), SMALLEST)


class RowStreamDecoder:
    """Decodes the messages of one stream, of which the first has the schema with it."""

    def __init__(self, decoder: RowDecoder) -> None:
        self._decoder = decoder
        self._known: StructReader | None = None

    def __call__(self, data: bytes) -> Any:
        self._known = self._decoder.reader_of(data, self._known)  # also where the row is spoilt: those behind it go by the same schema
        return self._decoder.read(data, self._known)
