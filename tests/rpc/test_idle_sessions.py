"""What idle sessions cost the calls beside them: nothing. Lines that run are counted, not seconds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest

import aster
from aster.testing import Link, SimulatedNetwork, virtual_time_backend
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.backends import require_backend
from tests.rpc.echo import Echo, Item
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio

_SESSIONS = 300
_CALLS = 20
_ROUNDS = 10


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


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Virtual time: by the clock of a busy machine, timers and acknowledgements of QUIC are some hundreds of lines more or less."""
    require_backend(request.param)
    return virtual_time_backend(request.param)


@pytest.mark.parametrize("make_transport", [MemoryTransport, lambda: SimulatedNetwork(Link(latency=0.001))], ids=["memory", "simulated"])
async def test_three_hundred_idle_sessions_cost_the_calls_beside_them_no_step(make_transport: Callable[[], Transport]) -> None:
    transport = make_transport()
    async with aster.serve([Lobby().service, Echo()], transport=transport, max_sessions=_SESSIONS) as server, AsyncExitStack() as stack:
        none = await stack.enter_async_context(aster.connect(server.address, transport=transport))
        idle = await stack.enter_async_context(aster.connect(server.address, transport=transport))
        for _ in range(_SESSIONS):
            await stack.enter_async_context(idle.session(Room))
        more = [await _lines_of_a_call(idle) - await _lines_of_a_call(none) for _ in range(_ROUNDS)]
    # What runs all the time is not seen until it has begun anew, which on trio takes some rounds; and the order of its tasks is random: some hundred
    # lines of ten thousand. A loop over the sessions, or over their streams for each of a call's eight datagrams, runs a line for each of them at the least.
    assert statistics.median(more[_ROUNDS // 2 :]) < _SESSIONS / 2
