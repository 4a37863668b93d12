"""Payloads with the mark of a naive datetime, put by hand into one of an instant."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Mapping

from tests.interop.fixtures import encoded
from tests.interop.models import Instants

WALL_CLOCK = datetime.datetime(2024, 2, 29, 12, 34, 56, 789_123, tzinfo=datetime.UTC)
"""The clock time of each payload, as if it were one in UTC."""


def _marked(mark: int) -> str:
    """The clock time, with so many seconds in its nanoseconds: one marks a naive datetime, two one whose ``fold`` is 1."""
    payload = encoded(Instants(WALL_CLOCK, []))
    seconds, nanoseconds = struct.unpack("<qI", payload[-12:])
    return (payload[:-12] + struct.pack("<qI", seconds - mark, nanoseconds + mark * 10**9)).hex()


NAIVE: Mapping[str, str] = {"naive": _marked(1), "naive in a fold": _marked(2)}
