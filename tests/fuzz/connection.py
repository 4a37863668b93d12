"""A whole server behind a transport in memory: hostile bytes, resets, stops and ends on its control stream and on calls."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.from_thread import start_blocking_portal

import aster
from aster._protocol.events import Hello, Setting, Trailer, TrailerOrigin
from aster._protocol.frames import (
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_call,
    decode_call_end,
    decode_session_end,
    decode_trailer,
    encode_call,
    encode_cancel,
    encode_hello,
    encode_session,
    encode_session_end,
    frame_limits,
)
from aster._reactor import Reactor, open_reactor
from aster.codec import make_codec
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.transports.memory import MemoryTransport
from aster.trust import Address, Identity
from aster.types import RpcPattern, SerializationMode
from tests.fuzz import grammar
from tests.fuzz.script import Script, chunk, entry
from tests.fuzz.target import Run, Target
from tests.rpc.echo import Item
from tests.rpc.raw import CLIENT_SETTINGS, RawOwner, RawStream, target_of

__all__ = ["CONNECTION", "CONNECTION_ON_TRIO"]

_STREAMS = 5
_ROUNDS = 12
"""Rounds of the loop that a pause lets pass: more than a call takes from its header to its trailer."""
_PATIENCE = 2_000
"""Rounds after which what must end has not ended: a thousand times as many as it takes, and no matter of speed."""


@service("Fuzz")
class Patient:
    """Handlers for any requests: what fails is never their own doing."""

    @rpc
    async def same(self, item: Item) -> Item:
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)

    @client_stream
    async def last(self, items: AsyncIterator[Item]) -> Item:
        last = Item()
        async for last in items:  # noqa: B007  # the last one is what it is for
            pass
        return last

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item


@service("FuzzRoom", scoped="stream")
class Room:
    """The same in a session. Counts its instances, and those whose hook has run."""

    made = closed = 0

    def __init__(self, peer: str) -> None:
        Room.made += 1
        self.items = 0

    @rpc
    async def same(self, item: Item) -> Item:
        self.items += 1
        return item

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item

    async def on_session_close(self) -> None:
        Room.closed += 1


_ROOM_METHODS: Mapping[str, RpcPattern] = {name: info.pattern for name, info in service_info(Room).methods.items()}
_METHODS: Mapping[str, RpcPattern] = {name: info.pattern for name, info in service_info(Patient).methods.items()}
_ENCODE = {mode: make_codec(mode, {Item: "tests.rpc/Item"}).encoder(Item) for mode in (SerializationMode.XLANG, SerializationMode.NATIVE)}


class _World:
    """A server, and raw clients of it one after the other."""

    def __init__(self, server: aster.AsterServer, transport: MemoryTransport, reactor: Reactor) -> None:
        self._address = Address.parse(server.address)
        self._hosting: Any = getattr(server, "_hosting")  # noqa: B009  # looked into, not used
        self._transport = transport
        self._reactor = reactor
        self._identity = Identity.generate()

    async def run(self, data: bytes) -> str:
        """One connection from its beginning to its end."""
        owner = RawOwner(_no_streams)
        connection = await self._transport.connect(self._address, identity=self._identity, handler=owner, reactor=self._reactor, options=ConnectionOptions())
        peer = _Peer(connection)
        script = Script(data)
        if script.byte() % 8:  # or most programs would come to nothing at their hello, which has a target of its own
            await peer.greet()
        for step in script.steps():
            if owner.lost.is_set():
                break
            await peer.act(step, script)
        await _rounds(_ROUNDS)
        refused = owner.lost.is_set()
        outcomes = peer.outcomes(refused)
        connection.close()
        await owner.lost.wait()
        await self._wait_until_over()
        if refused:
            return "connection refused"
        return outcomes[-1] if outcomes else "greeted" if peer.greeted else "silent"

    async def _wait_until_over(self) -> None:
        for _ in range(_PATIENCE):
            if not self._hosting.connections:
                assert Room.made == Room.closed, "an instance of a session was not closed once"
                return
            await anyio.lowlevel.checkpoint()
        raise AssertionError("the connection is lost, and a handler or the connection itself still lives")


def _no_streams(stream: Stream) -> StreamSink:
    raise AssertionError("servers open no streams")


async def _rounds(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class _Peer:
    """A client of one connection that does what it is told."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._streams: list[tuple[Stream, RawStream]] = []

    def _stream(self, index: int) -> Stream:
        """Of that number; all lower ones are opened as well."""
        while len(self._streams) <= index:
            sink = RawStream()
            self._streams.append((self._connection.open_stream(sink), sink))
        return self._streams[index][0]

    async def greet(self) -> None:
        """Say hello, and let the server answer."""
        self._stream(0).write(encode_hello(Hello((1,), CLIENT_SETTINGS)))
        await _rounds(2)

    async def act(self, step: int, script: Script) -> None:
        """One step of the program."""
        await _ACTIONS[_STEPS[step % len(_STEPS)]](self, script)

    async def write(self, script: Script) -> None:
        self._stream(script.byte() % _STREAMS).write(script.chunk())

    async def finish(self, script: Script) -> None:
        self._stream(script.byte() % _STREAMS).finish()

    async def reset(self, script: Script) -> None:
        self._stream(script.byte() % _STREAMS).reset(script.byte())

    async def stop(self, script: Script) -> None:
        self._stream(script.byte() % _STREAMS).stop(script.byte())

    async def pause(self, script: Script) -> None:
        await _rounds(1 + script.byte() % _ROUNDS)

    @property
    def greeted(self) -> bool:
        """Whether the server's hello came."""
        return bool(self._streams) and bool(self._streams[0][1].received)

    def outcomes(self, lost: bool) -> list[str]:
        """Of each call that was opened, as far as it has one. What the server sent must be in order, whatever it was sent."""
        return [_outcome_of(sink, lost) for _, sink in self._streams[1:]]


_ACTIONS: Mapping[str, Callable[[_Peer, Script], Awaitable[None]]] = {
    "write": _Peer.write,
    "pause": _Peer.pause,
    "finish": _Peer.finish,
    "reset": _Peer.reset,
    "stop": _Peer.stop,
}
_STEPS = tuple(_ACTIONS)

_RESPONSE_LIMITS = frame_limits(1 << 20)


def _outcome_of(sink: RawStream, lost: bool) -> str:
    if bytes(sink.received[:1]) in _OF_SESSIONS:
        return _outcome_of_session(sink, lost)
    trailers: list[Trailer] = []
    for kind, payload in FrameReader(_RESPONSE_LIMITS).feed(bytes(sink.received)):
        assert not trailers, "something followed the trailer"
        if kind == FrameKind.TRAILER:
            trailers.append(decode_trailer(payload, 1 << 20))
    if trailers:
        return trailers[0].status.name
    if sink.reset_code is not None:
        return "reset"
    assert lost or not sink.ended.is_set(), "the server ended a call without an outcome"
    return "call open"


_OF_SESSIONS = {bytes((kind,)) for kind in SESSION_RESPONSE_KINDS}
_SESSION_LIMITS = frame_limits(1 << 20, SESSION_RESPONSE_KINDS)


def _outcome_of_session(sink: RawStream, lost: bool) -> str:
    call, ends = 0, list[Trailer]()
    for kind, payload in FrameReader(_SESSION_LIMITS).feed(bytes(sink.received)):
        assert not ends, "something followed the end of a session"
        if kind == FrameKind.CALL:
            assert decode_call(payload)[0] == call
        elif kind == FrameKind.CALL_END:
            assert decode_call_end(payload) == call
            call += 1
        elif kind == FrameKind.SESSION_END:
            ends.append(decode_session_end(payload, 1 << 20))
    if ends:
        return "session refused" if ends[0].origin is TrailerOrigin.REFUSED else f"session {'failed' if ends[0].status else 'left'}"
    if sink.reset_code is not None:
        return "session reset"
    assert lost or not sink.ended.is_set(), "the server ended a session without SESSION_END"
    return "session with calls" if call else "session open"


def _make(chance: random.Random) -> bytes:
    steps: list[bytes] = []
    if chance.random() < 0.3:
        hello = encode_hello(Hello((1,), {**CLIENT_SETTINGS, Setting.WINDOW: chance.choice((64, 300, 262_144))}))
        steps = [_write(0, hello if chance.random() < 0.7 else grammar.client_hello(chance)), entry("pause", _STEPS) + b"\x03"]
    greets = bytes((not steps,))
    for stream in range(1, chance.choice((2, 2, 2, 3, _STREAMS))):
        steps += (_call_steps if chance.random() < 0.7 else _session_steps)(stream, chance)
    if chance.random() < 0.2:
        steps.insert(chance.randrange(len(steps) + 1), _write(0, grammar.frames(chance)))
    if chance.random() < 0.1:
        chance.shuffle(steps)
    return greets + b"".join(steps)


def _write(stream: int, data: bytes) -> bytes:
    return entry("write", _STEPS) + bytes((stream,)) + chunk(data)


def _requests(chance: random.Random, service: str, methods: Mapping[str, RpcPattern]) -> bytes:
    """The client's half of a call, whole more often than not."""
    method = chance.choice(list(methods))
    mode = chance.choice(list(_ENCODE))
    pattern = methods[method] if chance.random() < 0.95 else chance.choice(list(RpcPattern))
    target = target_of(method if chance.random() < 0.95 else grammar.text(chance), service=service, pattern=pattern, mode=mode)
    data = grammar.header(chance, target if chance.random() < 0.95 else None)
    if chance.random() < 0.7:
        return data + grammar.whole_requests(
            chance, pattern, lambda: _ENCODE[mode](Item(chance.choice((0, 1, 40, 2**40)), "text", bytes(chance.choice((0, 9, 40_000)))))
        )
    return data + grammar.requests(chance)


def _session_steps(stream: int, chance: random.Random) -> list[bytes]:
    name = "FuzzRoom" if chance.random() < 0.95 else "Fuzz"
    steps = [_write(stream, encode_session(name, 1)), entry("pause", _STEPS) + b"\x03"]
    for number in range(chance.choice((0, 1, 1, 2, 3))):
        data = _requests(chance, name, _ROOM_METHODS)
        at = chance.randrange(1, len(data))
        steps += [_write(stream, encode_call(number, data[:at])), _write(stream, encode_call(number, data[at:]))]
        if chance.random() < 0.3:
            steps.append(_write(stream, encode_cancel(number, chance.randrange(6))))
        if chance.random() < 0.8:
            steps.append(entry("pause", _STEPS) + b"\x0b")
    last = chance.choice(("nothing", "leave", "rubbish", *_STEPS[2:]))
    if last == "leave":
        steps.append(_write(stream, encode_session_end(Trailer())))
    elif last == "rubbish":
        steps.append(_write(stream, grammar.session_requests(chance)))
    elif last != "nothing":
        steps.append(entry(last, _STEPS) + bytes((stream,)) + (b"\x01" if last in ("reset", "stop") else b""))
    return steps


def _call_steps(stream: int, chance: random.Random) -> list[bytes]:
    data = _requests(chance, "Fuzz", _METHODS)
    at = chance.randrange(len(data) + 1)
    steps = [_write(stream, data)] if chance.random() < 0.7 else [_write(stream, data[:at]), entry("pause", _STEPS) + b"\x01", _write(stream, data[at:])]
    for _ in range(chance.choice((0, 0, 1, 2))):
        name = chance.choice(_STEPS[1:])
        steps.append(entry(name, _STEPS) + bytes((chance.randrange(12) if name == "pause" else stream,)) + (b"\x01" if name in ("reset", "stop") else b""))
    return steps


@asynccontextmanager
async def _server_and_reactor() -> AsyncGenerator[_World]:
    transport = MemoryTransport()
    async with aster.serve([Patient(), Room], transport=transport, drain_grace=0) as server, anyio.create_task_group() as group:
        reactor = open_reactor(group)
        try:
            world = _World(server, transport, reactor)
            tasks = len(anyio.get_running_tasks())
            yield world
            await _rounds(_ROUNDS)
            assert len(anyio.get_running_tasks()) <= tasks, "a task was left running"
        finally:
            reactor.close()


def _opener(backend: str) -> Callable[[], Any]:
    @contextmanager
    def world() -> Generator[Run]:
        # The loop is a thread's, so that inputs can be fed to it by plain calls, on either backend.
        with start_blocking_portal(backend) as portal, portal.wrap_async_context_manager(_server_and_reactor()) as inside:
            yield lambda data: portal.call(inside.run, data)

    return world


_WORDS = frozenset(
    {
        "silent",
        "greeted",
        "connection refused",
        "call open",
        "session open",
        "session with calls",
        "session left",
        "session failed",
        "session refused",
        "session reset",
        "reset",
        "OK",
        "INTERNAL",
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
        "FAILED_PRECONDITION",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    }
)
CONNECTION = Target("connection", "a whole server, on asyncio", "connection", _make, _opener("asyncio"), _WORDS, share=40, cost=1.2)
CONNECTION_ON_TRIO = Target("connection on trio", "the same on trio", "connection", _make, _opener("trio"), _WORDS, share=20, cost=1.7)
