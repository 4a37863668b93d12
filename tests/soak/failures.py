"""Calls that fail, or are made to: each kind is one call, or a few, whose outcome is checked."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import aster
from aster import StatusCode
from aster._protocol.frames import FrameKind, encode_frame, encode_message
from aster.testing import live_connections
from aster.transports.base import Transport
from aster.trust import Address
from aster.types import RpcPattern, SerializationMode
from tests.quic.raw import Forwarder
from tests.rpc.echo import Item, Nothing, Requests
from tests.rpc.raw import END, RawClient, RawStream, header_of, target_of
from tests.soak import sessions
from tests.soak.calls import Stubs
from tests.soak.services import MESSAGE_LIMIT, METADATA_LIMIT, Stranger, Troubled

__all__ = ["FAILURES", "SOON", "FailureKind", "Scene"]

FAILING = [code for code in StatusCode if code is not StatusCode.OK]
_STEPS = 40
"""Checkpoints before a cancellation, at the most: over memory a call has fewer until its handler waits, over QUIC some hit the time that packets take."""

SOON = 0.001
"""Seconds of a deadline that passes, wherever the call is by then."""

_SILENCE = 2.0
"""Seconds of silence after which a connection whose network was cut is lost. On a machine that stands still for as long it is so early, to no harm."""

_IN_FLIGHT = 8
"""Calls on a connection that is lost."""

Call = Callable[[Troubled, Item], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Scene:
    """Who there is to make calls, and to.

    Attributes:
        stubs: of an ordinary client.
        stranger: of one that takes the service for another one.
        hasty: of a server that gives a call no more than ``SOON``.
        raw: a client that breaks rules.
        address: of the ordinary server.
        transport: of all of them.
    """

    stubs: Stubs
    stranger: Stranger
    hasty: Troubled
    raw: RawClient
    address: str
    transport: Transport


Failure = Callable[[Scene, random.Random], Awaitable[None]]


async def _single(troubled: Troubled, item: Item) -> None:
    await troubled.single(item)


async def _stream(troubled: Troubled, item: Item) -> None:
    async for response in troubled.stream(item):
        assert response.number < item.number


async def _collect(troubled: Troubled, item: Item) -> None:
    await troubled.collect([item, item])


async def _talk(troubled: Troubled, item: Item) -> None:
    async with troubled.talk([item, item]) as responses:
        async for response in responses:
            assert response.number < item.number


async def _by_hand(troubled: Troubled, item: Item) -> None:
    async with aster.open_call(troubled.talk) as call:
        await call.send(item)
        async for response in call:
            assert response.number < item.number


_WAYS: tuple[Call, ...] = (_single, _stream, _collect, _talk, _by_hand)


async def _expect(code: StatusCode, call: Awaitable[object]) -> None:
    error: aster.RpcError | None = None
    try:
        await call
    except aster.RpcError as exc:
        error = exc
    assert error is not None, f"the call went well, instead of failing with {code!r}"
    assert error.code is code, f"{error.code!r} instead of {code!r}: {error.message}"


def _handler(text: str, code: StatusCode, ways: tuple[Call, ...] = _WAYS) -> Failure:
    """The handler does something of which a failure comes."""

    async def fail(scene: Scene, chance: random.Random) -> None:
        await _expect(code, chance.choice(ways)(scene.stubs.troubled, Item(chance.randrange(3), text)))

    return fail


async def _code(scene: Scene, chance: random.Random) -> None:
    code = chance.choice(FAILING)
    await _expect(code, chance.choice(_WAYS)(scene.stubs.troubled, Item(int(code), "code")))


async def _cancelled_at_once(scene: Scene, chance: random.Random) -> None:
    await _cancelled(0, chance.choice(_WAYS)(scene.stubs.troubled, Item(1, "wait")))


async def _cancelled_somewhere(scene: Scene, chance: random.Random) -> None:
    await _cancelled(chance.randrange(1, _STEPS), chance.choice(_WAYS)(scene.stubs.troubled, Item(chance.randrange(3), "wait")))


async def _cancelled(steps: int, call: Coroutine[Any, Any, None]) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            if steps:
                group.start_soon(cancel)
            else:
                scope.cancel()
            await call
    assert scope.cancelled_caught


async def _cancelled_after_a_response(scene: Scene, _: random.Random) -> None:
    with anyio.CancelScope() as scope:
        async for _response in scene.stubs.troubled.stream(Item(1, "wait")):
            scope.cancel()
    assert scope.cancelled_caught


async def _left_after_a_response(scene: Scene, _: random.Random) -> None:
    async with scene.stubs.troubled.stream(Item(1, "wait")) as responses:
        await anext(responses)


async def _dropped_after_a_response(scene: Scene, _: random.Random) -> None:
    async for _response in scene.stubs.troubled.stream(Item(1, "wait")):
        break


async def _raised_in_the_block(scene: Scene, _: random.Random) -> None:
    try:
        async with scene.stubs.troubled.talk(Requests(1)):
            raise _Ours
    except _Ours:
        return


class _Ours(Exception):
    """What the caller's own code raises."""


async def _timed_out(scene: Scene, chance: random.Random) -> None:
    impatient = aster.with_options(scene.stubs.troubled, timeout=SOON)
    await _expect(StatusCode.DEADLINE_EXCEEDED, chance.choice(_WAYS)(impatient, Item(chance.randrange(3), "wait")))


async def _timed_out_around(scene: Scene, chance: random.Random) -> None:
    try:
        with anyio.fail_after(SOON):
            await chance.choice(_WAYS)(scene.stubs.troubled, Item(chance.randrange(3), "wait"))
    except TimeoutError:
        return
    raise AssertionError("the scope around the call did not expire")


async def _timed_out_there(scene: Scene, chance: random.Random) -> None:
    await _expect(StatusCode.DEADLINE_EXCEEDED, chance.choice(_WAYS)(scene.hasty, Item(chance.randrange(3), "wait")))


async def _wrong_request(scene: Scene, chance: random.Random) -> None:
    wrong: Any = chance.choice([Nothing(), Item, None, Item(text=b"bytes")])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] (that is the mistake)
    calls = (lambda: scene.stubs.echo.same(wrong), lambda: scene.stubs.echo.total([Item(), wrong]), lambda: _all(scene.stubs.echo.chat([wrong])))
    try:
        await chance.choice(calls)()
    except TypeError:
        return
    raise AssertionError("a request of the wrong type was sent")


async def _all(responses: aster.ResponseStream[Any]) -> list[Any]:
    return [response async for response in responses]


async def _large_request(scene: Scene, chance: random.Random) -> None:
    large, echo = Item(data=bytes(MESSAGE_LIMIT)), scene.stubs.echo
    await _expect(StatusCode.RESOURCE_EXHAUSTED, chance.choice((lambda: echo.same(large), lambda: echo.total([Item(), large])))())


async def _large_metadata(scene: Scene, _: random.Random) -> None:
    echo = aster.with_options(scene.stubs.echo, metadata={"much": "x" * METADATA_LIMIT})
    await _expect(StatusCode.RESOURCE_EXHAUSTED, echo.same(Item()))


async def _unknown_method(scene: Scene, _: random.Random) -> None:
    await _expect(StatusCode.UNIMPLEMENTED, scene.stranger.absent(Nothing()))


async def _wrong_mode(scene: Scene, _: random.Random) -> None:
    stranger = aster.with_options(scene.stranger, serialization=SerializationMode.NATIVE)
    await _expect(StatusCode.UNIMPLEMENTED, stranger.nothing(Nothing()))


async def _wrong_pattern(scene: Scene, _: random.Random) -> None:
    await _expect(StatusCode.FAILED_PRECONDITION, scene.stranger.count(Nothing()))


async def _other_request(scene: Scene, _: random.Random) -> None:
    await _expect(StatusCode.INVALID_ARGUMENT, scene.stranger.same(Nothing()))


async def _other_response(scene: Scene, chance: random.Random) -> None:
    stranger, items = scene.stranger, [Item(1)]
    await _expect(StatusCode.INTERNAL, chance.choice((lambda: stranger.total(items), lambda: _all(stranger.chat(items))))())


async def _failing_requests(scene: Scene, chance: random.Random) -> None:
    echo, requests = scene.stubs.echo, Requests(*range(chance.randrange(3)), error=_Ours())
    try:
        await chance.choice((lambda: echo.total(requests), lambda: _all(echo.chat(requests))))()
    except _Ours:
        assert requests.closings == 1
        return
    raise AssertionError("what the requests raised did not come out of the call")


async def _broken_off_by_hand(scene: Scene, chance: random.Random) -> None:
    async with aster.open_call(chance.choice((scene.stubs.echo.chat, scene.stubs.troubled.talk))) as call:
        for _ in range(chance.randrange(3)):
            await call.send(Item(0, "wait"))


# By clients that break rules.


def _raw(frames: bytes, code: StatusCode, method: str = "same", pattern: RpcPattern = RpcPattern.UNARY) -> Failure:
    async def fail(scene: Scene, _: random.Random) -> None:
        trailer = await scene.raw.outcome_of(target_of(method, pattern=pattern), frames)
        assert trailer.status is code, trailer

    return fail


async def _raw_garbage(scene: Scene, chance: random.Random) -> None:
    """A header that is cut short or goes on as garbage, and the end."""
    sink = RawStream()
    stream = scene.raw.connection.open_stream(sink)
    stream.write(header_of("same")[: chance.randrange(8)] + b"\xff" * chance.choice((0, 40)))
    stream.finish()
    await sink.ended.wait()


async def _raw_reset(scene: Scene, chance: random.Random) -> None:
    """A call that is torn down before its header, within it, or right after it."""
    sink = RawStream()
    stream = scene.raw.connection.open_stream(sink)
    stream.write(header_of("same")[: chance.choice((0, 3, 1_000))])
    stream.reset(1)
    await sink.ended.wait()


# Connections that are lost.


async def _server_hangs_up(scene: Scene, _: random.Random) -> None:
    """Without a farewell of Aster's."""
    codes = list[StatusCode]()
    async with aster.connect(scene.address, transport=scene.transport) as client, anyio.create_task_group() as calls:
        await _begin_calls(client, calls, codes)
        (server_end,) = (end for end in live_connections() if end.peer.endpoint_id == client.endpoint_id)
        server_end.close(1, "lost")
    assert codes == [StatusCode.UNAVAILABLE] * _IN_FLIGHT, codes


async def _client_leaves(scene: Scene, _: random.Random) -> None:
    codes = list[StatusCode]()
    async with anyio.create_task_group() as calls, aster.connect(scene.address, transport=scene.transport) as client:
        await _begin_calls(client, calls, codes)
    assert codes == [StatusCode.CANCELLED] * _IN_FLIGHT, codes


async def _network_is_cut(scene: Scene, _: random.Random) -> None:
    """Both ends find out by silence, the server some time after this has ended."""
    codes = list[StatusCode]()
    at = Address.parse(scene.address)
    forwarder = Forwarder((at.host, at.port), largest=65_535)
    network = anyio.CancelScope()

    async def forward() -> None:
        with network:
            await forwarder.run()

    lost_early = False
    async with anyio.create_task_group() as group:
        group.start_soon(forward)
        address = str(Address(at.endpoint_id, at.host, forwarder.port))
        try:
            async with aster.connect(address, transport=scene.transport, idle_timeout=_SILENCE) as client, anyio.create_task_group() as calls:
                await _begin_calls(client, calls, codes)
                network.cancel()
        except* (aster.UnreachableError, aster.RpcError):
            lost_early = True  # a machine that stands still is silent too
        finally:
            network.cancel()
    assert lost_early or codes == [StatusCode.UNAVAILABLE] * _IN_FLIGHT, codes


async def _begin_calls(client: aster.AsterClient, group: TaskGroup, codes: list[StatusCode]) -> None:
    """Begin calls that wait at the server; ``codes`` will have what they fail with."""

    async def call(way: Call) -> None:
        try:
            await way(troubled, Item(1, "wait"))
        except aster.RpcError as exc:
            codes.append(exc.code)

    troubled = await client.client(Troubled)
    for number in range(_IN_FLIGHT):
        group.start_soon(call, _WAYS[number % len(_WAYS)])
    async with troubled.stream(Item(1, "wait")) as last:
        await anext(last)  # the others began before it


@dataclass(frozen=True, slots=True)
class FailureKind:
    """A kind of failing call: its name for reports, how often it is drawn against the others, and whether there is such a thing in memory."""

    name: str
    make: Failure
    weight: int = 10
    in_memory: bool = True


def _session(play: Callable[[aster.AsterClient, random.Random], Awaitable[None]]) -> Failure:
    async def make(scene: Scene, chance: random.Random) -> None:
        await play(scene.stubs.client, chance)

    return make


FAILURES = (
    FailureKind("each code", _code, 40),
    FailureKind("a bug", _handler("bug", StatusCode.INTERNAL)),
    FailureKind("an exit", _handler("exit", StatusCode.INTERNAL)),
    FailureKind("a cancellation by hand", _handler("cancellation", StatusCode.INTERNAL)),
    FailureKind("a response of another type", _handler("type", StatusCode.INTERNAL)),
    FailureKind("a response above the limit", _handler("large", StatusCode.RESOURCE_EXHAUSTED)),
    FailureKind("metadata above the client's limit", _handler("metadata", StatusCode.RESOURCE_EXHAUSTED, (_single, _collect))),
    FailureKind("trailers above the client's limit", _handler("trailers", StatusCode.RESOURCE_EXHAUSTED)),
    FailureKind("cancelled before it begins", _cancelled_at_once),
    FailureKind("cancelled somewhere", _cancelled_somewhere, 40),
    FailureKind("cancelled after a response", _cancelled_after_a_response),
    FailureKind("left after a response", _left_after_a_response),
    FailureKind("dropped after a response", _dropped_after_a_response),
    FailureKind("the caller's block raises", _raised_in_the_block),
    FailureKind("broken off by hand", _broken_off_by_hand),
    FailureKind("deadline of the call", _timed_out, 20),
    FailureKind("deadline around the call", _timed_out_around),
    FailureKind("deadline of the server", _timed_out_there),
    FailureKind("a request of another type", _wrong_request),
    FailureKind("a request above the limit", _large_request),
    FailureKind("metadata above the server's limit", _large_metadata),
    FailureKind("requests that raise", _failing_requests),
    FailureKind("an unknown method", _unknown_method),
    FailureKind("a mode that is not allowed", _wrong_mode),
    FailureKind("another pattern", _wrong_pattern),
    FailureKind("a request that cannot be decoded", _other_request),
    FailureKind("a response that cannot be decoded", _other_response),
    FailureKind("raw: no request", _raw(END, StatusCode.INTERNAL)),
    FailureKind("raw: two requests", _raw(encode_message(b"1") * 2 + END, StatusCode.INTERNAL)),
    FailureKind("raw: a request that is none", _raw(encode_message(b"none") + END, StatusCode.INVALID_ARGUMENT)),
    FailureKind("raw: a request above the limit", _raw(encode_message(bytes(MESSAGE_LIMIT + 1)), StatusCode.RESOURCE_EXHAUSTED)),
    FailureKind("raw: a frame of no kind", _raw(encode_frame(FrameKind.TRAILER, b""), StatusCode.INTERNAL)),
    FailureKind("raw: no end of requests", _raw_garbage),
    FailureKind("raw: torn down", _raw_reset),
    FailureKind("a session left in the middle", _session(sessions.left_in_the_middle), 20),
    FailureKind("a session that fails in the background", _session(sessions.crashed)),
    FailureKind("a session whose hook raises", _session(sessions.hook_raised)),
    FailureKind("a session that is refused", _session(sessions.refused)),
    FailureKind("the server hangs up", _server_hangs_up, 2),
    FailureKind("the client leaves", _client_leaves, 2),
    FailureKind("the network is cut", _network_is_cut, 1, in_memory=False),
)
