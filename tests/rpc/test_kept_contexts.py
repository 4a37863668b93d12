"""Copies of a handler's context outlive its call, in timers that were cancelled and in tasks that a library began in a handler and keeps. They must not keep
the call, nor the connection that it came by."""

from __future__ import annotations

import contextvars
import gc

import anyio
import pytest

import aster
from aster.decorators import rpc
from aster.testing import live_connections
from aster.transports.base import Connection, Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import calls_are_over, until

pytestmark = pytest.mark.anyio


class Keeper(Echo):
    """Keeps the context of each call."""

    def __init__(self) -> None:
        self.kept: list[contextvars.Context] = []

    @rpc
    async def same(self, item: Item) -> Item:
        self.kept.append(contextvars.copy_context())
        return item


_KINDS = {"IncomingCall", "ServerConnection"}


def _there() -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing).__name__ in _KINDS]


async def _call_and_leave(address: str, transport: Transport) -> str:
    """Who called."""
    async with aster.connect(address, transport=transport) as client:
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
        return client.endpoint_id


async def test_a_context_that_outlives_its_call_keeps_neither_the_call_nor_its_connection(transport: Transport) -> None:
    keeper = Keeper()
    before = _there()  # held, since what another test left may go at any time, which would hide what this one leaves
    async with aster.serve([keeper], transport=transport) as server:
        caller = await _call_and_leave(server.address, transport)
        await until(lambda: not _ends_of(caller))
        left: list[str] = []
        for _ in range(50):
            left = [type(thing).__name__ for thing in _there() if not any(thing is other for other in before)]
            if not left:
                break
            await anyio.sleep(0.01)  # the connection's tasks unwind some turns after its end is known
        assert not left
        assert keeper.kept[0].run(aster.current_call).peer.endpoint_id == caller


def _ends_of(endpoint_id: str) -> list[Connection]:
    return [connection for connection in live_connections() if connection.peer.endpoint_id == endpoint_id]


async def test_metadata_cannot_be_sent_once_the_call_is_over(running: Running) -> None:
    keeper = Keeper()
    async with running(keeper) as (_, client):
        await (await client.client(Echo)).same(Item(1))
        await calls_are_over(client)
        context = keeper.kept[0].run(aster.current_call)
        with pytest.raises(RuntimeError, match="cannot be sent any more"):
            context.send_metadata({"late": "yes"})
