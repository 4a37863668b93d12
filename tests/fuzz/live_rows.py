"""A whole server whose methods are in ROW: hostile rows as requests of calls of each kind, which the handlers read piece by piece, whole, or not at all."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
from anyio.from_thread import start_blocking_portal

import aster
from aster._protocol.events import Trailer
from aster._protocol.frames import FrameKind, FrameReader, decode_trailer, encode_header, encode_header_start, encode_message
from aster.codec import make_codec, materialize
from aster.codec.row import RowCodec
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.errors import DecodeError, StatusCode
from aster.transports.memory import MemoryTransport
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.codec.models import Choices, Containers, Scalars, TaskRequest, Tree, tags_of
from tests.fuzz.row import payload
from tests.fuzz.row_models import HEADS, Anything, Bulk, Keyed, Nest, Spans, Sparse
from tests.fuzz.row_reading import alike, most_seconds, read_all, roomy_stack
from tests.fuzz.script import Script, long_chunk
from tests.fuzz.target import Run, Target
from tests.rpc.raw import END, LIMITS, RawClient, RawStream, raw_client, target_of

__all__ = ["LIVE_ROWS", "LIVE_ROWS_ON_TRIO"]

_PATIENCE = 2_000
"""Rounds of the loop after which a call that has not ended never will; it takes some ten."""

_MOST_BYTES = 240_000
"""Of the requests of one call, which the server takes in without giving credit."""


# The services


@dataclass
class Digest:
    """What a handler has read."""

    messages: int = 0
    text: str = ""


def _service_of(root: type[Any], name: str) -> type[Any]:
    """A service whose requests are of a class."""
    if TYPE_CHECKING:

        class Message: ...

    else:
        Message = root

    @service(name, serialization=SerializationMode.ROW)
    class Reading:
        @rpc
        async def lazily(self, message: Message) -> Message:
            return read_all(message)[0]

        @rpc
        async def whole(self, message: Message) -> Message:
            return materialize(message)

        @rpc
        async def same(self, message: Message) -> Message:
            return message

        @rpc
        async def unread(self, message: Message) -> Digest:
            return Digest(1)

        @server_stream
        async def parts(self, message: Message) -> AsyncIterator[Message]:
            yield message
            yield read_all(message)[0]

        @client_stream
        async def last(self, messages: AsyncIterator[Message]) -> Message:
            read = [read_all(message)[0] async for message in messages]
            return read[-1]

        @bidi_stream
        async def chat(self, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
            async for message in messages:
                yield materialize(message)

    return Reading


_ROOTS: Sequence[type[Any]] = (Scalars, Containers, Choices, Tree, Anything, Bulk, Keyed, Nest, Spans, Sparse)
with warnings.catch_warnings(action="ignore", category=aster.AutoTagWarning):
    _SERVICES = [_service_of(root, f"Fuzz{root.__name__}") for root in _ROOTS]
_PATTERNS: Mapping[str, RpcPattern] = {name: info.pattern for name, info in service_info(_SERVICES[0]).methods.items()}
_METHODS = tuple(_PATTERNS)
_CODEC = cast("RowCodec", make_codec(SerializationMode.ROW, {cls: tag for made in _SERVICES for cls, tag in service_info(made).wire_tags.items()}))
assert all(_CODEC.encoder(root).prefix == HEADS[root] for root in _ROOTS)
_HONEST = TaskRequest("honest", 7)
_HONEST_CODEC = make_codec(SerializationMode.ROW, tags_of(TaskRequest))
_HONEST_MESSAGE = _HONEST_CODEC.encoder(TaskRequest)(_HONEST)


@service("FuzzHonest", serialization=SerializationMode.ROW)
class Honest:
    @rpc
    async def same(self, task: TaskRequest) -> TaskRequest:
        return task


# What is expected


def _read(method: str, message: Any) -> list[Any]:
    """What a handler answers to one message."""
    match method:
        case "lazily" | "last":
            return [read_all(message)[0]]
        case "unread":
            return [Digest(1)]
        case "parts":
            return [materialize(message), read_all(message)[0]]
        case _:
            return [materialize(message)]


def _expected(root: type[Any], method: str, messages: Sequence[bytes]) -> tuple[list[Any], str]:
    """The answers to some messages, and what is wrong with the first that cannot be read, if there is one: found out without a server."""
    decode = _CODEC.decoder(root).for_stream()
    answers: list[Any] = []
    try:
        for message in messages:
            answers += _read(method, decode(message))
    except DecodeError as exc:
        return answers, str(exc)
    return answers, ""


# The world


@dataclass
class _Worst:
    """Of a process."""

    seconds: float = 0.0

    def told(self) -> str:
        return f"the slowest call took {self.seconds * 1000:.0f} ms of processor time, at both ends"


_worst = _Worst()


class _World:
    """A server, and a raw client of it."""

    def __init__(self, client: RawClient) -> None:
        self._client = client

    async def run(self, data: bytes) -> str:
        script = Script(data)
        root = _ROOTS[script.byte() % len(_ROOTS)]
        method = _METHODS[script.byte() % len(_METHODS)]
        count = 1 + script.byte() % 3
        messages = [script.long_chunk() for _ in range(count if _PATTERNS[method].streams_requests else 1)]
        while sum(map(len, messages)) > _MOST_BYTES:
            messages = messages[:-1] or [messages[0][:_MOST_BYTES]]
        began = time.process_time()
        answers, trailer = await self._call(f"Fuzz{root.__name__}", method, messages)
        seconds = time.process_time() - began
        outcome = _judged(root, method, messages, answers, trailer)
        # What the handler makes of a row may be longer than the row: its answer is written, and read at the other end, in this time too.
        most = most_seconds(sum(map(len, messages)) + sum(map(len, answers)))
        if seconds > most / 2:  # of which the least counts, since the machine has other things to do
            for _ in range(4):
                began = time.process_time()
                await self._call(f"Fuzz{root.__name__}", method, messages)
                seconds = min(seconds, time.process_time() - began)
        _worst.seconds = max(_worst.seconds, seconds)
        assert seconds <= most, f"a call took {seconds * 1000:.0f} ms of processor time"
        (answer,), trailer = await self._call("FuzzHonest", "same", [_HONEST_MESSAGE])
        assert trailer.status is StatusCode.OK, "an honest call afterwards failed"
        assert materialize(_HONEST_CODEC.decoder(TaskRequest)(answer)) == _HONEST
        return outcome

    async def _call(self, name: str, method: str, messages: Sequence[bytes]) -> tuple[list[bytes], Trailer]:
        """The answers and the outcome of one call."""
        target = target_of(method, service=name, pattern=_PATTERNS[method], mode=SerializationMode.ROW)
        sink = RawStream()
        stream = self._client.connection.open_stream(sink)
        stream.write(encode_header(encode_header_start(target), None, Metadata()) + b"".join(map(encode_message, messages)) + END)
        for _ in range(_PATIENCE):
            if sink.ended.is_set():
                break
            await anyio.lowlevel.checkpoint()
        assert sink.ended.is_set(), "the call does not end"
        assert sink.reset_code is None, "an outcome is a trailer, never a reset"
        stream.finish()
        *frames, (kind, last) = FrameReader(LIMITS.responses).feed(bytes(sink.received))
        assert kind == FrameKind.TRAILER
        return _messages_of(frames), decode_trailer(last, 1 << 20)


def _messages_of(frames: Sequence[tuple[int, bytes]]) -> list[bytes]:
    messages, begun = list[bytes](), b""
    for kind, data in frames:
        if kind == FrameKind.PART:
            begun += data
        elif kind == FrameKind.MESSAGE:
            messages.append(begun + data)
            begun = b""
    return messages


def _judged(root: type[Any], method: str, messages: Sequence[bytes], answers: Sequence[bytes], trailer: Trailer) -> str:
    """A word for the outcome, if it is the right one."""
    expected, wrong = _expected(root, method, messages)
    status = StatusCode.INVALID_ARGUMENT if wrong else StatusCode.OK
    assert trailer.status is status, f"{method} ended with {trailer.status.name}, not {status.name}: {trailer.message}; expected: {wrong}"
    if wrong:
        assert "cannot be decoded: " in trailer.message, trailer.message
        assert len(answers) <= len(expected)
    elif method == "last":
        expected = expected[-1:]
        assert len(answers) == 1
    else:
        assert len(answers) == len(expected)
    decode = _CODEC.decoder(Digest if method == "unread" else root).for_stream()
    for answer, value in zip(answers, expected, strict=False):
        found, _ = read_all(decode(answer))
        with roomy_stack():
            assert alike(found, value), f"{method} answered {found!r:.200}, not {value!r:.200}"
    return f"{'stream, ' if _PATTERNS[method].streams_requests else ''}{status.name}"


# Inputs


def _make(chance: random.Random) -> bytes:
    root = chance.choice(_ROOTS)
    method = chance.choice(_METHODS)
    count = chance.choice((1, 2, 3))
    messages = [payload(root, chance) for _ in range(count)]
    if chance.random() < 0.7:  # as streams have it: the schema comes once
        messages[1:] = [bytes(8) + message[8 + int.from_bytes(message[:8], "little") :] for message in messages[1:]]
    head = bytes((_ROOTS.index(root), _METHODS.index(method), count - 1))
    return head + b"".join(map(long_chunk, messages))


@asynccontextmanager
async def _served() -> AsyncGenerator[_World]:
    transport = MemoryTransport()
    services = [Honest(), *(made() for made in _SERVICES)]
    async with aster.serve(services, transport=transport, drain_grace=0) as server, raw_client(server.address, transport) as client:
        tasks = len(anyio.get_running_tasks())
        yield _World(client)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert len(anyio.get_running_tasks()) <= tasks, "a task was left running"


def _opener(backend: str) -> Callable[[], Any]:
    @contextmanager
    def world() -> Generator[Run]:
        with start_blocking_portal(backend) as portal, portal.wrap_async_context_manager(_served()) as inside:
            yield lambda data: portal.call(inside.run, data)

    return world


_WORDS = frozenset({"OK", "INVALID_ARGUMENT", "stream, OK", "stream, INVALID_ARGUMENT"})
_BATCH = 2_000
"""Inputs of one server: each of its methods remembers some schemas, and what that takes differs."""

LIVE_ROWS = Target(
    "live rows",
    "rows at a whole server, on asyncio",
    "live-rows",
    _make,
    _opener("asyncio"),
    _WORDS,
    share=60,
    cost=3.0,
    batch=_BATCH,
    untouched=5,
    notes=_worst.told,
)
LIVE_ROWS_ON_TRIO = Target(
    "live rows on trio", "the same on trio", "live-rows", _make, _opener("trio"), _WORDS, share=40, cost=4.0, batch=_BATCH, untouched=5, notes=_worst.told
)
