"""Wire types and codecs: how dataclasses become bytes and back."""

from __future__ import annotations

from aster.codec.contract import Codec
from aster.codec.fields import wire_types
from aster.codec.fory import make_codec
from aster.codec.lazy import is_exactly, materialize, plain
from aster.codec.row import RowDecoder, RowEncoder, buffer_of
from aster.codec.tags import auto_tag, wire_tag, wire_type

__all__ = [
    "Codec",
    "RowDecoder",
    "RowEncoder",
    "auto_tag",
    "buffer_of",
    "is_exactly",
    "make_codec",
    "materialize",
    "plain",
    "wire_tag",
    "wire_type",
    "wire_types",
]
