"""Refusals by servers that keep no rules, and cancellation in each state of a call that is to be repeated: none hangs, is answered twice or left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
import pytest

import aster
from aster._protocol.events import Header, ResetCode, Setting, Trailer, TrailerOrigin
from aster._protocol.frames import encode_credit, encode_message, encode_trailer
from aster.errors import RpcError, StatusCode
from aster.testing import assert_no_orphans
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.echo import Echo, Item, encode_item, numbers_of
from tests.rpc.probes import CALLS, backend_for, cancelled_at_every_step, error_of, until
from tests.rpc.raw import manifest_of, raw_server

pytestmark = pytest.mark.anyio

_REFUSED = encode_trailer(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.REFUSED, "refused"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> object:
    """Virtual time over memory."""
    return backend_for(request.param, transport)


def _refuse(stream: Stream) -> None:
    stream.write(_REFUSED)
    stream.finish()


def _stop_and_refuse(stream: Stream) -> None:
    stream.stop(ResetCode.NOT_NEEDED)
    _refuse(stream)


def _refuse_and_stop(stream: Stream) -> None:
    _refuse(stream)
    stream.stop(ResetCode.NOT_NEEDED)


def _refuse_twice(stream: Stream) -> None:
    stream.write(_REFUSED + _REFUSED)
    stream.finish()


def _refuse_and_answer(stream: Stream) -> None:
    stream.write(_REFUSED + encode_message(encode_item(Item(99))) + encode_trailer(Trailer()))
    stream.finish()


def _refuse_and_reset(stream: Stream) -> None:
    _refuse(stream)
    stream.reset(1)


_WAYS: dict[str, Callable[[Stream], None]] = {
    "as it should": _refuse,
    "after it stopped the requests": _stop_and_refuse,
    "before it stops the requests": _refuse_and_stop,
    "twice": _refuse_twice,
    "and answers": _refuse_and_answer,
}


def _end(stream: Stream) -> None:
    stream.write(encode_trailer(Trailer()))
    stream.finish()


def _answer(stream: Stream, header: Header) -> None:
    if header.target.pattern.streams_responses:
        stream.write(encode_trailer(Trailer()))
    else:
        stream.write(encode_message(encode_item(Item(7))) + encode_trailer(Trailer()))
    stream.finish()
    stream.stop(ResetCode.NOT_NEEDED)


@pytest.mark.parametrize("pattern", CALLS)
@pytest.mark.parametrize("way", _WAYS)
async def test_however_a_call_is_refused_it_is_repeated_once(transport: Transport, way: str, pattern: str) -> None:
    served = list[int]()

    def answer(stream: Stream, header: Header) -> None:
        served.append(stream.id)
        if len(served) == 1:
            _WAYS[way](stream)
        else:
            _answer(stream, header)

    async with assert_no_orphans(), raw_server((manifest_of(Echo),), transport, answer) as address:
        async with aster.connect(address, transport=transport) as client:
            await CALLS[pattern](await client.client(Echo))
        assert len(served) == 2


async def test_a_refusal_that_overtakes_the_go_away_leads_to_another_connection_at_once(transport: Transport) -> None:
    """Over a network the datagram of the go-away may have been lost: where one call was refused so, the next would be, too. What runs there ends there."""
    streams = list[tuple[Stream, Header]]()

    def answer(stream: Stream, header: Header) -> None:
        streams.append((stream, header))
        if header.target.method == "same":
            (_refuse if len(streams) == 2 else partial(_answer, header=header))(stream)

    async with assert_no_orphans(), raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(CALLS["client stream"], echo)
            await until(lambda: streams)
            assert await echo.same(Item()) == Item(7)
            assert await echo.same(Item()) == Item(7)
            _answer(*streams[0])
        # The first call of another connection has the number of the first call.
        first, refused, *others = [stream.id for stream, _ in streams]
        assert others == [first, refused]


async def test_a_refusal_that_is_reset_is_a_refusal_or_a_failure_but_ends(transport: Transport) -> None:
    served = list[int]()

    def answer(stream: Stream, header: Header) -> None:
        served.append(stream.id)
        if len(served) == 1:
            _refuse_and_reset(stream)
        else:
            _answer(stream, header)

    async with assert_no_orphans(), raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        outcomes = list[object]()
        try:
            outcomes.append(await echo.same(Item()))
        except RpcError as exc:
            # A reset may overtake what was sent before it.
            outcomes.append(exc.code)
        assert outcomes in ([Item(7)], [StatusCode.INTERNAL])


async def test_a_refusal_after_credit_is_not_believed_to_be_safe_for_requests_that_are_gone(transport: Transport) -> None:
    """Credit says that a handler has taken requests; they are not kept any more, and so the call fails."""
    served = list[Stream]()

    def answer(stream: Stream, header: Header) -> None:
        served.append(stream)
        stream.write(encode_credit(70_000))

    async with assert_no_orphans(), raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as call:
            await call.send(Item(data=bytes(70_000)))
            await until(lambda: served)
            for _ in range(3):
                await call.send(Item(data=bytes(70_000)))
            _refuse(served[0])
            assert (await error_of(call.receive())).message == "refused"
        assert len(served) == 1


async def test_a_refusal_without_an_end_of_the_stream_can_be_cancelled(transport: Transport) -> None:
    resets = list[int]()
    streams = list[Stream]()

    def answer(stream: Stream, header: Header) -> None:
        streams.append(stream)
        stream.write(_REFUSED)

    def confirm(code: int) -> None:
        resets.append(code)
        streams[-1].reset(1)

    async with (
        assert_no_orphans(),
        raw_server((manifest_of(Echo),), transport, answer, on_reset=confirm) as address,
        aster.connect(address, transport=transport) as client,
    ):
        echo = await client.client(Echo)
        timed = aster.with_options(echo, timeout=0.05)
        assert (await error_of(timed.same(Item()))).code is StatusCode.DEADLINE_EXCEEDED
        async with anyio.create_task_group() as group:
            group.start_soon(echo.same, Item())
            await until(lambda: len(streams) == 2)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert len(streams) == 2


async def test_a_slow_iterable_goes_on_across_a_repetition(transport: Transport) -> None:
    streams, closed, let_go = list[Stream](), list[str](), anyio.Event()

    async def requests() -> AsyncIterator[Item]:
        try:
            yield Item(1)
            await let_go.wait()
            yield Item(2)
        finally:
            closed.append("closed")

    def answer(stream: Stream, header: Header) -> None:
        streams.append(stream)
        if len(streams) == 1:
            _stop_and_refuse(stream)

    async with assert_no_orphans(), raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:

            async def call() -> None:
                assert await numbers_of(echo.chat(requests())) == []

            group.start_soon(call)
            await until(lambda: len(streams) == 2)
            assert not closed
            let_go.set()
            await until(lambda: closed)
            _end(streams[1])


@pytest.mark.parametrize("pattern", CALLS)
async def test_cancelling_a_call_that_is_repeated_at_every_step_leaves_nothing(transport: Transport, pattern: str) -> None:
    served = list[int]()

    def answer(stream: Stream, header: Header) -> None:
        served.append(stream.id)
        (_answer(stream, header) if len(served) % 2 == 0 else _refuse_and_stop(stream))

    async with raw_server((manifest_of(Echo),), transport, answer) as address:

        async def program() -> None:
            served.clear()
            async with aster.connect(address, transport=transport) as client:
                await CALLS[pattern](await client.client(Echo))

        async def nothing() -> None:
            """Each time is looked at by ``assert_no_orphans``."""

        assert await cancelled_at_every_step(program, nothing, transport, assert_no_orphans) > 5


@pytest.mark.parametrize("pattern", CALLS)
async def test_cancelling_calls_that_are_repeated_in_turn_at_every_step_leaves_nothing(transport: Transport, pattern: str, native: bool) -> None:
    """One call at a time: the first one is refused, and waits for its place on the next connection with the others."""
    served = list[int]()

    def answer(stream: Stream, header: Header) -> None:
        served.append(stream.id)
        (_refuse_and_stop if len(served) == 1 else partial(_answer, header=header))(stream)

    async with raw_server((manifest_of(Echo),), transport, answer, {Setting.CALL_LIMIT: 1}) as address:
        ends = Counter[int]()

        async def program() -> None:
            served.clear()
            async with aster.connect(address, transport=transport) as client, anyio.create_task_group() as group:
                echo = await client.client(Echo)
                for _ in range(3):
                    group.start_soon(CALLS[pattern], echo)
            assert len(served) == 4

        async def nothing() -> None:
            ends[len(served)] += 1

        await cancelled_at_every_step(program, nothing, transport, assert_no_orphans, native=native)
        # Cancellations came before the first attempt; over memory, where none is left out, also among the others.
        assert ends[0] > 1
        assert max(ends) == 4
        assert len(ends) > 2 or not isinstance(transport, MemoryTransport)
