"""Law 10, isolation: what goes wrong in a call stays in it, what breaks a connection stays in that, and no neighbour notices."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster._protocol.events import TrailerOrigin
from aster._protocol.frames import FrameKind, encode_credit, encode_frame, encode_message
from aster.decorators import rpc, service
from aster.errors import RpcError, StatusCode
from tests.laws.actor import Actor, Part, Plan, Step, message
from tests.laws.wire import first_part, head_of, numbered
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import unchecked, until
from tests.rpc.raw import END, RawStream, raw, raw_client

pytestmark = pytest.mark.anyio

_LIMIT = 4_194_304
"""Bytes of the largest message, by default."""

_NEIGHBOURS = st.lists(st.tuples(st.sampled_from(PATTERNS), st.integers(0, 3_000)), min_size=1, max_size=2)

_TROUBLES = ("a bug", "a failure", "an unknown method", "a stalled reader", "a hanging handler")
_LARGE_ONES = ("a request that is too large", "a response that is too large")
"""Which cost a tenth of a second each, and so are not drawn."""


@service("Actor")
class _Wider(Actor):
    """What a client of another version believes the server to have."""

    @rpc
    async def missing(self, plan: Plan) -> Part:
        return Part(plan=plan)


async def _fails_with(code: StatusCode, call: Awaitable[object]) -> None:
    with pytest.raises(RpcError) as failure:
        await call
    assert failure.value.code is code


class _Trouble:
    """Calls that fail or wait, beside which others go on."""

    def __init__(self, world: World, stack: AsyncExitStack, group: anyio.abc.TaskGroup) -> None:
        self._world = world
        self._stack = stack
        self._group = group

    async def make(self, what: str, pattern: str) -> None:
        world = self._world
        match what:
            case "a bug":
                await _fails_with(StatusCode.INTERNAL, world.call(pattern, world.plan(Step("bug"))))
            case "a failure":
                await _fails_with(StatusCode.ABORTED, world.call(pattern, world.plan(Step("send", 10), Step("fail", int(StatusCode.ABORTED)))))
            case "a request that is too large":
                await _fails_with(StatusCode.RESOURCE_EXHAUSTED, world.call("gather", world.plan(Step("drain")), lambda: iter([message(0, _LIMIT + 1)])))
            case "a response that is too large":
                await _fails_with(StatusCode.RESOURCE_EXHAUSTED, world.call(pattern, world.plan(Step("send", _LIMIT + 1))))
            case "an unknown method":
                wider = await unchecked(world.client, _Wider)
                await _fails_with(StatusCode.UNIMPLEMENTED, wider.missing(Plan()))
            case "a stalled reader":
                responses = await self._stack.enter_async_context(world.actor.stream(world.plan(Step("pour", 20_000))))
                assert await anext(responses) == message(0, 20_000)
            case _:
                plan = world.plan(Step("hang"))
                self._group.start_soon(world.call, pattern, plan)
                await until(lambda: world.run(plan).where == "hang")


async def _goes_on(world: World, pattern: str, size: int) -> None:
    """A whole call, in no more time than if it were alone."""
    began = anyio.current_time()
    plan = world.plan(Step("drain"), Step("send", size))
    assert await world.call(pattern, plan, lambda: iter([message(0, size)])) == [message(0, size)]
    if world.setting.virtual:
        assert anyio.current_time() - began <= world.a_few_round_trips


@exercises(*_TROUBLES, *_LARGE_ONES)
@given(troubles=st.lists(st.tuples(st.sampled_from(_TROUBLES), st.sampled_from(PATTERNS)), max_size=3), neighbours=_NEIGHBOURS)
@example(troubles=[(what, pattern) for what in _LARGE_ONES for pattern in ("unary", "talk")], neighbours=[("talk", 100)])
@example(troubles=[(what, "talk") for what in _TROUBLES], neighbours=[("unary", 100)])
async def test_calls_that_fail_or_wait_leave_their_neighbours_alone(world: World, troubles: list[tuple[str, str]], neighbours: list[tuple[str, int]]) -> None:
    plan = world.plan(Step("read", len(troubles)), Step("send", 1), Step("drain"))
    async with AsyncExitStack() as stack, aster.open_call(world.actor.talk) as call, anyio.create_task_group() as group:
        await call.send(Part(plan=plan))
        trouble = _Trouble(world, stack, group)
        for number, (what, pattern) in enumerate(troubles):
            await trouble.make(what, pattern)
            world.count(what)
            # One that was there before, and those that come after.
            await call.send(Part(number))
            for each in neighbours:
                await _goes_on(world, *each)
        assert await call.receive() == message(0, 1)
        await call.end()
        assert [part async for part in call] == []
        group.cancel_scope.cancel()
    assert world.run(plan).read == list(range(len(troubles)))
    await world.quiet()


_CORRUPT = {
    "an unknown kind": b"\x20\x00",
    "a message of more than a chunk": bytes([FrameKind.MESSAGE]) + b"\x80\x00\x40\x01",
    "a part of a size of its own": encode_frame(FrameKind.PART, b"abc"),
    "more credit than is outstanding": encode_credit(1 << 40),
    "an end with a payload": encode_frame(FrameKind.END, b"\x00"),
    "no value": encode_message(b"no value"),
}
"""What no client sends behind a header and a request."""


@exercises(*_CORRUPT)
@given(why=st.sampled_from(sorted(_CORRUPT)), pattern=st.sampled_from(PATTERNS), neighbours=_NEIGHBOURS, turns=st.integers(1, 3))
async def test_a_corrupt_call_fails_alone_on_its_connection(world: World, why: str, pattern: str, neighbours: list[tuple[str, int]], turns: int) -> None:
    streams = pattern in ("gather", "talk")
    neighbour, plan = world.plan(Step("drain"), Step("send", 5)), world.plan(Step("drain"), Step("hang"))
    async with raw_client(world.server.address, world.transport) as peer:
        beside = RawStream()
        stream = peer.connection.open_stream(beside)
        stream.write(head_of("gather") + first_part("gather", neighbour))
        for turn in range(turns):
            stream.write(numbered(turn, 100))
            sink = RawStream()
            corrupt = peer.connection.open_stream(sink)
            corrupt.write(head_of(pattern))
            if streams:
                corrupt.write(first_part(pattern, plan))
                await until(lambda turn=turn: world.run(plan).began == turn + 1)
            corrupt.write(_CORRUPT[why])
            if not streams and why == "no value":
                corrupt.write(END)
            trailer = await sink.trailer()
            corrupt.finish()
            assert trailer.status in ((StatusCode.INVALID_ARGUMENT,) if why == "no value" else (StatusCode.INTERNAL,))
            assert trailer.origin is not TrailerOrigin.DEADLINE
            for each in neighbours:
                await _goes_on(world, *each)
        stream.write(END)
        assert (await beside.trailer()).status is StatusCode.OK
        stream.finish()
    assert world.run(neighbour).read == list(range(turns))
    run = world.run(plan)
    assert run.began == run.finals == (turns if streams else 0)
    world.count(why)


@pytest.mark.costly
@exercises("on the control stream")
@given(data=st.one_of(st.sampled_from(sorted(_CORRUPT.values())), st.binary(max_size=40).map(lambda tail: b"\x20\x00" + tail)), neighbours=_NEIGHBOURS)
async def test_a_corrupt_connection_fails_alone(world: World, data: bytes, neighbours: list[tuple[str, int]]) -> None:
    plan = world.plan(Step("hang"))
    async with raw(world.server, world.transport) as peer:
        await peer.said_hello()
        peer.call(head_of("gather") + first_part("gather", plan))
        await until(lambda: world.run(plan).where == "hang")
        peer.control.write(data)
        await peer.lost.wait()
    await until(lambda: world.run(plan).finals)
    assert world.run(plan).cancelled == 1
    for each in neighbours:
        await _goes_on(world, *each)
    world.count("on the control stream")
