"""The simulated network does what its links say, keeps the transports' contract, and carries whole programs on virtual time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster.testing import Link, SimulatedNetwork, assert_no_orphans, live_connections, virtual_time_backend
from aster.testing.transports import TRANSPORT_CHECKS, TransportCheck
from tests.backends import require_backend
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import error_of

pytestmark = pytest.mark.anyio

_FAIR = Link(latency=0.005, jitter=0.001, loss=0.01, duplication=0.05, reordering=0.05, truncation=0.01)
"""Not so bad that the checks, some of which transfer a megabyte, would lose their patience."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Virtual time on both backends."""
    require_backend(request.param)
    return virtual_time_backend(request.param)


@asynccontextmanager
async def echo_over(network: SimulatedNetwork, **options: Any) -> AsyncGenerator[tuple[Echo, aster.AsterClient]]:
    async with (
        assert_no_orphans(),
        aster.serve([Echo()], transport=network, **options) as server,
        aster.connect(server.address, transport=network, **options) as client,
    ):
        yield await client.client(Echo), client


@pytest.mark.parametrize("link", [Link(), _FAIR], ids=["good", "fair"])
@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_it_keeps_the_contract_of_transports(check: TransportCheck, link: Link) -> None:
    await check(lambda: SimulatedNetwork(link, seed=1))


@given(
    link=st.builds(
        Link,
        latency=st.floats(0, 0.2),
        jitter=st.floats(0, 0.1),
        bandwidth=st.sampled_from([100_000.0, 1e6, float("inf")]),
        loss=st.floats(0, 0.2),
        duplication=st.floats(0, 0.3),
        reordering=st.floats(0, 0.3),
        truncation=st.floats(0, 0.1),
    ),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=20)
async def test_calls_succeed_over_any_link_that_lets_enough_pass(link: Link, seed: int) -> None:
    network = SimulatedNetwork(link, seed=seed)
    async with echo_over(network) as (echo, _):
        assert await numbers_of(echo.count(Item(20))) == list(range(20))
        assert (await echo.total([Item(number, data=bytes(3000)) for number in range(10)])).number == 45


async def test_a_call_takes_the_latency_both_ways() -> None:
    async with echo_over(SimulatedNetwork(Link(latency=0.5), back=Link(latency=0.25))) as (echo, _):
        began = anyio.current_time()
        await echo.same(Item())
        assert anyio.current_time() - began == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("what", ["loss", "duplication", "reordering", "truncation"])
async def test_a_share_of_the_datagrams_meets_its_fate(what: str) -> None:
    counted = {"loss": "lost", "duplication": "duplicated", "reordering": "reordered", "truncation": "truncated"}
    network = SimulatedNetwork(Link(**{what: 0.1}), seed=4)
    async with echo_over(network) as (echo, _):
        for number in range(1000):
            await echo.same(Item(number))
        await anyio.sleep(1)  # for what is under way to arrive
        statistics = dataclasses.replace(network.statistics)
    assert getattr(statistics, counted[what]) == pytest.approx(statistics.sent / 10, rel=0.3)
    assert [getattr(statistics, other) for other in counted.values() if other != counted[what]] == [0, 0, 0]
    assert statistics.delivered + statistics.unreachable == statistics.sent - statistics.lost + statistics.duplicated


async def test_bandwidth_bounds_the_rate_and_a_full_queue_drops() -> None:
    network = SimulatedNetwork(Link(bandwidth=100_000), back=Link())
    async with echo_over(network) as (echo, _):
        began = anyio.current_time()
        await echo.total([Item(data=bytes(50_000)) for _ in range(10)])
        took = anyio.current_time() - began
        assert took >= 5.0
        assert network.statistics.overflowed == 0
        network.link = Link(bandwidth=100_000, queue=5_000)
        await echo.total([Item(data=bytes(50_000)) for _ in range(10)])
        assert network.statistics.overflowed > 0


async def test_a_partition_stops_everything_and_calls_go_on_after_it() -> None:
    network = SimulatedNetwork()
    async with echo_over(network) as (echo, client):
        await echo.same(Item())
        delivered = network.statistics.delivered
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            with network.partitioned():
                group.start_soon(echo.same, Item())
                await anyio.sleep(2)
                assert network.statistics.delivered - delivered <= 2  # an acknowledgement that was under way
                assert network.statistics.partitioned
        assert 2.0 < anyio.current_time() - began < 6.0
        assert len([end for end in live_connections() if end.peer.endpoint_id == client.endpoint_id]) == 1


async def test_a_partition_beyond_the_idle_timeout_loses_the_connection_and_another_one_is_made() -> None:
    network = SimulatedNetwork()
    async with echo_over(network) as (echo, _):
        async with anyio.create_task_group() as group:
            network.partition()
            began = anyio.current_time()
            error = await error_of(echo.same(Item()))
            assert error.code is aster.StatusCode.UNAVAILABLE
            assert anyio.current_time() - began <= 30.0 + 10.0
            network.heal()
            group.cancel_scope.cancel()
        assert await echo.same(Item(1)) == Item(1)


async def test_a_client_that_is_rebound_keeps_its_connection() -> None:
    network = SimulatedNetwork()
    async with echo_over(network) as (echo, client):
        await echo.same(Item())
        (end,) = (end for end in live_connections() if end.peer.endpoint_id == client.endpoint_id)
        async with anyio.create_task_group() as group:
            group.start_soon(numbers_of, echo.count(Item(3)))
            network.rebind()
        for number in range(3):
            assert await echo.same(Item(number)) == Item(number)
            network.rebind()
        assert network.statistics.rebound == 4
        assert not end.stream_credit  # the server's end, which opens none: it is the same one, and lives
        assert [live for live in live_connections() if live.peer.endpoint_id == client.endpoint_id] == [end]


async def test_what_is_under_way_to_a_client_that_is_rebound_goes_astray_and_the_server_follows_it() -> None:
    network = SimulatedNetwork(Link(latency=0.5))
    async with echo_over(network) as (echo, _):

        async def seconds_of_a_call() -> float:
            began = anyio.current_time()
            assert await echo.same(Item(1)) == Item(1)
            return anyio.current_time() - began

        await anyio.sleep(5)
        assert await seconds_of_a_call() == pytest.approx(1.0, abs=0.01)
        await anyio.sleep(5)
        astray = network.statistics.unreachable

        async def rebind_while_the_answer_is_under_way() -> None:
            await anyio.sleep(0.75)
            network.rebind()

        async with anyio.create_task_group() as group:
            group.start_soon(rebind_while_the_answer_is_under_way)
            assert 1.25 < await seconds_of_a_call() < 10  # it had to be sent again
        assert network.statistics.unreachable > astray
        await anyio.sleep(5)
        astray = network.statistics.unreachable
        assert await seconds_of_a_call() == pytest.approx(1.0, abs=0.01)
        assert network.statistics.unreachable == astray


async def test_a_port_that_the_network_numbers_is_free() -> None:
    network = SimulatedNetwork()
    async with aster.serve([Echo()], transport=network) as first:
        port = first.address.rpartition(":")[2]
    async with AsyncExitStack() as stack:
        for taken in range(int(port) + 1, int(port) + 4):
            await stack.enter_async_context(aster.serve([Echo()], transport=network, listen=f"127.0.0.1:{taken}"))
        server = await stack.enter_async_context(aster.serve([Echo()], transport=network))
        assert int(server.address.rpartition(":")[2]) == int(port) + 4


async def test_where_nobody_listens_a_client_hears_so() -> None:
    network = SimulatedNetwork()
    async with aster.serve([Echo()], transport=network) as server:
        address = server.address
    began = anyio.current_time()
    with pytest.raises(aster.UnreachableError, match="nobody listens there"):
        async with aster.connect(address, transport=network):
            pass
    assert anyio.current_time() - began == pytest.approx(0.02)
    with network.partitioned(), pytest.raises(aster.UnreachableError, match="did not complete a handshake within 10 s"):
        async with aster.connect(address, transport=network):
            pass


async def test_a_port_in_use_is_refused_and_free_again_afterwards() -> None:
    network = SimulatedNetwork()
    async with aster.serve([Echo()], transport=network, listen="127.0.0.1:4000"):
        with pytest.raises(OSError, match="address already in use"):
            async with aster.serve([Echo()], transport=network, listen="127.0.0.1:4000"):
                pass
    async with aster.serve([Echo()], transport=network, listen="localhost:4000") as server:
        assert server.address.endswith("@127.0.0.1:4000")


async def test_a_wildcard_answers_at_every_address() -> None:
    network = SimulatedNetwork()
    async with (
        aster.serve([Echo()], transport=network, listen="0.0.0.0:0", advertise="192.0.2.7") as server,
        aster.connect(server.address, transport=network) as client,
    ):
        assert await (await client.client(Echo)).same(Item(2)) == Item(2)


async def test_a_day_passes_in_seconds() -> None:
    network = SimulatedNetwork(Link(loss=0.05), seed=2)
    async with echo_over(network) as (echo, client):
        began, real = anyio.current_time(), time.monotonic()
        (end,) = (end for end in live_connections() if end.peer.endpoint_id == client.endpoint_id)
        await anyio.sleep(86_400)
        assert await echo.same(Item(1)) == Item(1)
        assert anyio.current_time() - began >= 86_400
        assert end in live_connections()
        assert network.statistics.sent > 2 * 86_400 / 10
        # The timeout of a test is the bound; what is said here is that it is no real day.
        assert time.monotonic() - real < 86_400


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": 1.5}, ValueError, "loss of a Link is a share of all datagrams, from 0 to 1, not 1.5"),
        ({"loss": float("nan")}, ValueError, "loss of a Link is a share"),
        ({"latency": -1}, ValueError, "latency of a Link must not be negative"),
        ({"latency": float("nan")}, ValueError, "latency of a Link must not be negative"),
        ({"bandwidth": 0}, ValueError, "use partition"),
        ({"jitter": "much"}, TypeError, "jitter of a Link must be a number, not 'much'"),
        ({"loss": True}, TypeError, "loss of a Link must be a number, not True"),
    ],
)
def test_a_link_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Link(**options)
