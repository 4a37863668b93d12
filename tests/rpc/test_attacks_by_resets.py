"""A client that begins calls and tears them down at once: how many handlers that can start, and how many can run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from aster._protocol.events import ResetCode
from aster.decorators import bidi_stream
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import Witness, until
from tests.rpc.raw import RawStream, header_of, raw_client

pytestmark = pytest.mark.anyio

_CHAT = header_of("chat")
_LIMIT = 5
_ROUNDS = 10


class Slow(Echo):
    """Its handler takes a while to unwind, shielded, and knows how many of it there were at the same time."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.most = 0

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        with self.witness.watch():
            self.most = max(self.most, self.witness.running)
            try:
                async for item in items:
                    yield item
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(50):
                        await anyio.lowlevel.checkpoint()


async def test_calls_that_are_reset_right_after_their_header_run_no_more_handlers_than_may_run(running: Running, transport: Transport) -> None:
    slow = Slow()
    async with running(slow, max_concurrent_calls=_LIMIT) as (server, client), raw_client(server.address, transport) as raw:
        echo, opened = await client.client(Echo), 0
        for _ in range(_ROUNDS):
            began, sinks = slow.witness.began, list[RawStream]()
            while raw.connection.stream_credit and len(sinks) < 3 * _LIMIT:
                sinks.append(RawStream())
                stream = raw.connection.open_stream(sinks[-1])
                stream.write(_CHAT)
                await raw.connection.wait_acknowledged()
                stream.reset(ResetCode.CANCELLED)
            opened += len(sinks)
            assert await echo.nothing(Nothing()) == Nothing()
            await until(lambda sinks=sinks: all(sink.ended.is_set() for sink in sinks))
            assert slow.witness.began - began <= len(sinks)
        assert slow.witness.began > 0, "the attack did not reach a handler"
        assert 0 < slow.most <= _LIMIT
        assert slow.witness.running == 0


async def test_calls_that_are_never_torn_down_above_the_limit_begin_no_handler(running: Running, transport: Transport) -> None:
    slow = Slow()
    async with running(slow, max_concurrent_calls=_LIMIT, drain_grace=0) as (server, client), raw_client(server.address, transport) as raw:
        sinks = [RawStream() for _ in range(3 * _LIMIT)]
        for sink in sinks:
            raw.connection.open_stream(sink).write(_CHAT)
        # Refusals are sent at once, and may arrive before the tasks of the calls that were taken have had their first turn.
        await until(lambda: sum(sink.ended.is_set() for sink in sinks) == 2 * _LIMIT and slow.witness.began >= _LIMIT)
        assert await (await client.client(Echo)).nothing(Nothing()) == Nothing()
        assert slow.witness.began == slow.most == _LIMIT
