"""What idle sessions cost the calls beside them: nothing. Lines that run are counted, not seconds."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest

import aster
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.echo import Echo, Item
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio

_SESSIONS = 300
_CALLS = 40


class _Lines:
    """How many lines of Python ran, whoever wrote them: a loop over all streams may be anybody's."""

    count = 0

    @contextmanager
    def counting(self) -> Generator[None]:
        def trace(frame: FrameType, event: str, arg: object) -> Any:
            self.count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


async def _lines_of_a_call(client: aster.AsterClient) -> float:
    echo, lines = await client.client(Echo), _Lines()

    async def calls() -> None:
        for number in range(_CALLS):
            await echo.same(Item(number))

    await calls()
    with lines.counting():
        await calls()
    return lines.count / _CALLS


async def test_three_hundred_idle_sessions_cost_the_calls_beside_them_no_step(transport: Transport) -> None:
    async with aster.serve([Lobby().service, Echo()], transport=transport, max_sessions=_SESSIONS) as server, AsyncExitStack() as stack:
        none = await stack.enter_async_context(aster.connect(server.address, transport=transport))
        idle = await stack.enter_async_context(aster.connect(server.address, transport=transport))
        for _ in range(_SESSIONS):
            await stack.enter_async_context(idle.session(Room))
        more = await _lines_of_a_call(idle) - await _lines_of_a_call(none)
    # A loop over the sessions runs a line for each of them at the least. Trio's order of tasks is random, which moves some dozens of two thousand; over QUIC
    # timers and acknowledgements come when they like, some hundreds of eight thousand. But there a loop over the streams would run for each of eight datagrams.
    assert more < (_SESSIONS / 2 if isinstance(transport, MemoryTransport) else 4 * _SESSIONS)
