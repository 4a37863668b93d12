"""Payloads in ROW: rows that are read piece by piece and whole, each in bounded time and memory, and never beyond their ends."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any, cast

from aster.codec import buffer_of, materialize
from aster.codec.making import Making
from aster.codec.row import RowDecoder, RowList, RowMap
from aster.codec.row.binding import StructReader
from aster.codec.row.schema import decode_schema
from aster.codec.walk import Mismatch
from aster.errors import DecodeError
from tests.codec.row.rows import spoilt
from tests.fuzz.row_grammar import bare_schema_of, head_of, row_of, schema_of
from tests.fuzz.row_memory import Most, Reading, memory_of
from tests.fuzz.row_models import CODEC, HEADS, ROOTS, Anything, Bulk, Keyed, Sparse, message_of
from tests.fuzz.row_reading import SECONDS_OF_DEFAULT, alike, is_exactly, most_seconds, read_all, roomy_stack, timed
from tests.fuzz.script import Script
from tests.fuzz.target import Run, Target

__all__ = ["ROW", "payload"]

_LOOKED_AT = 4
"""One of so many inputs is read with its memory looked at too, which makes it some three times as slow; and of those with a schema of their own, each."""

_LARGE = 16_384


_WHOLE_ONLY = ("is nested more than 50 deep", "is nested too deeply", "has too many fields that its peer does not send", "is above high")
"""What only a value that is whole can be, the last of which is its class's own word."""


# Inputs


def payload(root: type[Any], chance: random.Random) -> bytes:
    """A message that is a row of a class, or nearly so; with a schema of its own or that of the class."""
    head = HEADS[root]
    kind = chance.randrange(20)
    if kind < 9:
        message = message_of(root, chance)
        return message if chance.random() < 0.2 else head + spoilt(message[len(head) :], chance)
    if kind < 15:
        return head + row_of(decode_schema(head[8:]), chance)
    if kind == 15:  # of another class
        other = chance.choice(ROOTS)
        return message_of(other, chance) if chance.random() < 0.5 else head + message_of(other, chance)[len(HEADS[other]) :]
    if kind == 16:
        data, bare = bare_schema_of(head[8:])
        return head_of(data, chance) + row_of(bare, chance, is_large=chance.random() < 0.3)
    data, said = schema_of(head[8:], chance)
    if said is not None:
        return head_of(data, chance) + row_of(said, chance)
    return head_of(data, chance) + message_of(root, chance)[len(head) :]


def _make(chance: random.Random) -> bytes:
    # The larger ones among the classes hold more than the others.
    root = chance.choice(ROOTS) if chance.random() < 0.7 else chance.choice((Anything, Bulk, Bulk, Bulk, Keyed, Sparse))
    data, head = payload(root, chance), HEADS[root]
    has_own = not data.startswith(head) or chance.random() < 0.05
    # What mutations do to the first bytes is to be done to the row, and only seldom to a schema, which is JSON and then nothing any more.
    return bytes((ROOTS.index(root), has_own)) + (data if has_own else data[len(head) :])


# What is looked at


@dataclass
class _Worst:
    """Of a process, since its run tells nothing but a word an input."""

    lazily: float = 0.0
    whole: float = 0.0
    memory: Most = field(default_factory=Most)

    def told(self) -> str:
        return (
            f"the slowest reading took {self.lazily * 1000:.0f} ms of processor time piece by piece, and {self.whole * 1000:.0f} ms whole; "
            f"memory: at most {self.memory.known_schema:.2f} of what is allowed, with a new schema {self.memory.new_schema:.2f}"
        )


_worst = _Worst()


def _read(decoder: RowDecoder, message: bytes, how: Callable[[Any], Any]) -> Any:
    """What is read, or the text of the error."""
    try:
        return how(decoder(message))
    except DecodeError as exc:
        return str(exc)


class _Input:
    """One message, and how it may be read."""

    def __init__(self, root: type[Any], message: bytes, own: bool, known: RowDecoder) -> None:
        self.root = root
        self.message = message
        self._own = own
        self._known = known
        self._lacking: list[int] = []
        self.sum = zlib.crc32(message)

    def decoder(self) -> RowDecoder:
        """One that remembers the schema, or, where it is the message's own, one that has never seen it: to bind it is a part of reading."""
        return CODEC.decoder(self.root) if self._own else self._known

    def check(self) -> str:
        most = most_seconds(len(self.message))
        # With a schema of its own it may have fewer fields than the class, whose defaults are made for each view that is asked for them.
        (lazy, _), seconds = timed(lambda: self._lazily(self.decoder()), lambda: most + SECONDS_OF_DEFAULT * sum(self._lacking))
        _worst.lazily = max(_worst.lazily, seconds)
        whole, seconds = timed(lambda: _read(self.decoder(), self.message, materialize), lambda: most)
        _worst.whole = max(_worst.whole, seconds)
        self._judge(lazy, whole)
        reader = self._reader()
        if reader is None:
            assert isinstance(lazy, str), "there was a value without a schema"
            return "schema refused"
        if len(self.message) < _LARGE or self.sum % 4 == 0:
            self._look_outside(reader, lazy, whole)
        try:
            view = self.decoder()(self.message)
        except DecodeError:
            return "row refused"
        if self.sum % 8 == 0:
            _look_otherwise(view, len(self.message))
        if isinstance(lazy, str):
            return "part refused"
        return "value, refused whole" if isinstance(whole, str) else "value"

    def _lazily(self, decoder: RowDecoder) -> tuple[Any, int]:
        self._lacking = []
        found = _read(decoder, self.message, lambda view: read_all(view, self._lacking))
        return (found, 0) if isinstance(found, str) else found

    def _judge(self, lazy: Any, whole: Any) -> None:
        if isinstance(lazy, str):
            assert isinstance(whole, str), f"there was a value whole, but piece by piece: {lazy}"
            return
        if isinstance(whole, str):
            assert any(reason in whole for reason in _WHOLE_ONLY), f"there was a value piece by piece, but whole: {whole}"
            return
        with roomy_stack():
            assert is_exactly(whole, self.root), "the value is not of its type"
            assert alike(lazy, whole), "the value is another one piece by piece"
        try:
            message = CODEC.encoder(self.root)(whole)
        except ValueError as exc:
            assert ".total does not fit" in str(exc), "what was received cannot be sent"  # noqa: PT017  # the class has made it of what it was sent
            return
        again = materialize(CODEC.decoder(self.root)(message))
        with roomy_stack():
            assert alike(again, whole), "the value is another one when it is sent again"

    def _reader(self) -> StructReader | None:
        """What reads rows of the message's schema, if it has one."""
        head = self.message[: 8 + int.from_bytes(self.message[:8], "little")]
        try:
            return self.decoder().reader_of(head, None)
        except DecodeError:
            return None

    def _look_outside(self, reader: StructReader, lazy: Any, whole: Any) -> None:
        """Whatever is around a row, it is read as if nothing were there: to the same value, or to the same words."""
        row = self.message[8 + int.from_bytes(self.message[:8], "little") :]
        guards = (b"\0" * 4096, b"\xff" * 4096, random.Random(self.sum).randbytes(4096), (row + bytes(8)) * min(8, 1 + 4096 // (len(row) + 8)))
        for guard in (guards[self.sum % 4], guards[(self.sum + 1) % 4]):
            for making, expected in ((None, lazy), (Making(len(row)), whole)):
                found = _guarded(reader, guard + row + guard, len(guard), len(guard) + len(row), making and Making(len(row)))
                with roomy_stack():
                    assert alike(found, expected), f"what is around the row was read: {found!r:.200}, not {expected!r:.200}"


def _guarded(reader: StructReader, buffer: bytes, start: int, stop: int, making: Making | None) -> Any:
    try:
        found = reader.read(buffer, start, stop, making)
        return read_all(found)[0] if making is None else found
    except Mismatch as exc:
        return str(reader.origin.refused(exc))
    except DecodeError as exc:
        return str(exc)


def _look_otherwise(view: Any, size: int) -> None:
    """Read single parts, in the ways in which that is done; the repr of what cannot be read says so. ``size``: of the message."""
    assert isinstance(repr(view), str)
    for each in fields(view):
        with suppress(TypeError, ValueError, DecodeError):
            buffer_of(view, each.name)
        with suppress(TypeError, ValueError, LookupError, StopIteration, DecodeError):
            part: Any = getattr(view, each.name)
            if isinstance(part, RowList):
                items = cast("RowList[Any]", part)
                texts = [item for item in items[:] if isinstance(item, str | bytes)]
                assert sum(map(len, texts)) <= size, f"a slice of a message of {size:,} bytes has {sum(map(len, texts)):,}"
                _ = items[-1:], repr(items[0]) if items else None, items == items, items.count(None)
                buffer_of(items, 0)
            elif isinstance(part, RowMap):
                table = cast("RowMap[Any]", part)
                _ = "key" in table, table.get(0), len(table), table == table
                buffer_of(table, next(iter(table)))


@contextmanager
def _world() -> Generator[Run]:
    known = {root: CODEC.decoder(root) for root in ROOTS}
    looked_at: list[Reading] = []

    def run(data: bytes) -> str:
        script = Script(data)
        root = ROOTS[script.byte() % len(ROOTS)]
        has_own = script.byte() % 2 == 1
        message = script.rest() if has_own else HEADS[root] + script.rest()
        each = _Input(root, message, has_own, known[root])
        if has_own or each.sum % _LOOKED_AT == 0:
            looked_at.append(Reading(ROOTS.index(root), message, has_own))
        return each.check()

    yield run
    _worst.memory.add(memory_of(looked_at))


_BATCH = 4_000
"""Inputs whose memory is looked at together."""

_WORDS = frozenset({"value", "value, refused whole", "part refused", "row refused", "schema refused"})
ROW = Target("row", "payloads, ROW", "row", _make, _world, _WORDS, share=200, cost=2.5, batch=_BATCH, untouched=5, notes=_worst.told)
