"""The memory that readings of rows take, looked at in a process of its own.

Tracing is what makes it so: CPython 3.11 keeps forty bytes of each line that has allocated anything, anew at each beginning of it, which would look like a leak
of what is read.
"""

from __future__ import annotations

import multiprocessing
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from aster.codec import materialize
from aster.codec.row import RowDecoder
from aster.codec.row.schema import MAX_SCHEMA_BYTES
from aster.errors import DecodeError
from tests.fuzz.row_models import CODEC, ROOTS, Bulk, Sparse
from tests.fuzz.row_reading import LONGEST, read_all

__all__ = ["Most", "Reading", "memory_of"]

_MOST_TIMES = 24
"""What messages larger than ``LONGEST`` take at the most of their own size, and those whose values are of few bytes, as in sets of dates: Python's objects
are so large. The others: twice."""

_MOST_BESIDES = 1 << 20
"""Bytes that a reading may take beyond those that are counted by the message's."""

_MOST_FOR_SCHEMA = 160
"""Bytes that binding a new schema may take besides, for each of its own: 5 MB for the longest."""


_PATIENCE = 110
"""Seconds for all readings of a world, which take some four; a little less than those after which the world's own process counts as hung."""


@dataclass(frozen=True)
class Reading:
    """A message, of the class at that place of ``ROOTS``; and whether its schema is its own, which is then bound for it as a part of reading."""

    place: int
    message: bytes
    own: bool

    def allowed(self) -> int:
        """Bytes that it may take."""
        times = _MOST_TIMES if self.own or ROOTS[self.place] in (Bulk, Sparse) or len(self.message) > LONGEST else 2
        schema = min(MAX_SCHEMA_BYTES, int.from_bytes(self.message[:8], "little")) if self.own else 0
        return times * len(self.message) + _MOST_BESIDES + _MOST_FOR_SCHEMA * schema


@dataclass
class Most:
    """The largest part of what is allowed that a reading took; those with a schema of their own apart."""

    known_schema: float = 0.0
    new_schema: float = 0.0

    def add(self, other: Most) -> None:
        """Take over what is larger."""
        self.known_schema = max(self.known_schema, other.known_schema)
        self.new_schema = max(self.new_schema, other.new_schema)


def memory_of(readings: Sequence[Reading]) -> Most:
    """Read all of them with what allocates being traced.

    Raises:
        AssertionError: one takes more than it may, or the process fails, ends, or takes longer than any that is well.
    """
    if not readings:
        return Most()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_look, args=(readings, sender), daemon=True)
    process.start()
    sender.close()
    found: Most | str = f"the process that looks at memory took longer than {_PATIENCE} s"
    try:
        if receiver.poll(_PATIENCE):
            found = receiver.recv()
    except EOFError:
        process.join()
        found = f"the process that looks at memory ended with {process.exitcode}"
    process.kill()
    process.join()
    assert isinstance(found, Most), found
    return found


def _look(readings: Sequence[Reading], sender: Connection) -> None:
    known = {root: CODEC.decoder(root) for root in ROOTS}
    most = Most()
    tracemalloc.start()
    try:
        for reading in readings:
            most.add(_look_at(reading, known))
    except Exception:
        sender.send(traceback.format_exc())
    else:
        sender.send(most)


def _look_at(reading: Reading, known: dict[type[Any], RowDecoder]) -> Most:
    root, allowed, most = ROOTS[reading.place], reading.allowed(), 0.0
    # Where the peer's class has fewer fields, what reads all views keeps the defaults of each: that many no row holds, but its reader asks for.
    ways: Sequence[Callable[[Any], Any]] = (materialize,) if reading.own else (read_all, materialize)
    for how in ways:
        decoder = CODEC.decoder(root) if reading.own else known[root]
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with suppress(DecodeError):
            how(decoder(reading.message))
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak <= allowed, f"took {peak:,} bytes for a message of {len(reading.message):,}, which may take {allowed:,}: {reading.message[:400].hex()}"
        most = max(most, peak / allowed)
    return Most(new_schema=most) if reading.own else Most(known_schema=most)
