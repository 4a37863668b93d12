"""The messages of an ``Actor`` as they travel, for peers that keep no rules and for counting bytes."""

from __future__ import annotations

from hypothesis import strategies as st

from aster._protocol.frames import MESSAGE_CHARGE, encode_header, encode_header_start, encode_message
from aster.codec import make_codec
from aster.decorators import service_info
from aster.transports.base import Stream
from aster.types import Metadata, SerializationMode
from tests.laws.actor import Actor, Part, Plan, message
from tests.rpc.raw import manifest_of, target_of

__all__ = ["MANIFEST", "SILENT_ENDS", "begun_within", "charge", "end_silently", "first_part", "head_of", "is_single", "numbered"]

_INFO = service_info(Actor)
_codec = make_codec(SerializationMode.XLANG, _INFO.wire_tags)
_encode_plan, _encode_part = _codec.encoder(Plan), _codec.encoder(Part)

MANIFEST = (manifest_of(Actor),)
"""What a server that serves an ``Actor`` says of itself."""

SILENT_ENDS = st.sampled_from(["finished", "cut", "reset"])
"""The end of a stream, the same in the middle of a frame, or a reset."""


def end_silently(stream: Stream, how: str) -> None:
    """End a stream without saying how its call ended, or that its requests did."""
    if how == "reset":
        stream.reset(9)
    else:
        if how == "cut":
            stream.write(numbered(0, 100)[:50])
        stream.finish()


def is_single(pattern: str) -> bool:
    """Whether a call of this pattern has one request, which is the plan itself."""
    return pattern in ("unary", "stream")


def head_of(pattern: str, timeout: float | None = None, metadata: Metadata | None = None) -> bytes:
    """The header of a call."""
    return encode_header(encode_header_start(target_of(pattern, service="Actor", pattern=_INFO.methods[pattern].pattern)), timeout, metadata or Metadata())


def first_part(pattern: str, plan: Plan) -> bytes:
    """The first request of a call, which brings the plan."""
    return encode_message(_encode_plan(plan) if is_single(pattern) else _encode_part(Part(-1, plan=plan)))


def numbered(number: int, size: int) -> bytes:
    """The message of a number."""
    return encode_message(_encode_part(message(number, size)))


def charge(size: int, number: int = 10_000) -> int:
    """Bytes of credit that a message with so much data takes; one with a small number takes some less."""
    return len(_encode_part(message(number, size))) + MESSAGE_CHARGE


def begun_within(window: int, size: int) -> int:
    """How many messages, from number 0 on, may begin before any is granted back."""
    outstanding, number = 0, 0
    while outstanding < window:
        outstanding += charge(size, number)
        number += 1
    return number
