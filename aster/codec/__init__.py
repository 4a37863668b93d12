"""Wire types and codecs: how dataclasses become bytes and back."""

from __future__ import annotations

from aster.codec.contract import Codec
from aster.codec.fields import wire_types
from aster.codec.fory import make_codec
from aster.codec.tags import auto_tag, wire_tag, wire_type

__all__ = ["Codec", "auto_tag", "make_codec", "wire_tag", "wire_type", "wire_types"]
