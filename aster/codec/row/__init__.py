"""ROW: messages whose fields are read without decoding the rest, in Apache Fory's row format."""

from __future__ import annotations

from aster.codec.row.buffers import buffer_of, check_filled, kept_by
from aster.codec.row.codec import RowCodec, RowDecoder, RowEncoder
from aster.codec.row.containers import RowList, RowMap, RowSet

__all__ = ["RowCodec", "RowDecoder", "RowEncoder", "RowList", "RowMap", "RowSet", "buffer_of", "check_filled", "kept_by"]
