"""A thousand calls of all kinds over a network that loses, reorders and breaks for a while, and restarts of the server beneath calls, on virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster.decorators import rpc, server_stream
from aster.testing import Link, SimulatedNetwork, assert_no_orphans, virtual_time_backend
from aster.trust import Identity
from tests.backends import require_backend
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import Witness, until

_CALLS = 1_000
_AT_A_TIME = 20
_BAD = Link(latency=0.02, jitter=0.005, loss=0.1, reordering=0.1)


class Mixed(Echo):
    """Handlers that answer, fail or wait, by the text of the request; each counts as running until it has unwound."""

    def __init__(self) -> None:
        self.witness = Witness()

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            await self._act(item)
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        with self.witness.watch():
            for number in range(item.number):
                yield Item(number)
            await self._act(item)

    async def _act(self, item: Item) -> None:
        if item.text == "wait":
            await anyio.sleep_forever()
        if item.text == "fail":
            raise aster.RpcError(aster.StatusCode.ABORTED, "as it was asked to")
        if item.text == "bug":
            raise ZeroDivisionError


async def _answered(echo: Echo, number: int) -> object:
    return await echo.same(Item(number))


async def _streamed(echo: Echo, number: int) -> object:
    return await numbers_of(echo.count(Item(number % 20)))


async def _uploaded(echo: Echo, number: int) -> object:
    return (await echo.total(Item(part, data=bytes(500)) for part in range(number % 10))).number


async def _conversed(echo: Echo, number: int) -> object:
    return await numbers_of(echo.chat(Item(part) for part in range(number % 10)))


async def _failed(echo: Echo, number: int) -> object:
    return await numbers_of(echo.count(Item(number % 5, "fail")))


async def _broken(echo: Echo, number: int) -> object:
    return await echo.same(Item(number, "bug"))


async def _overdue(echo: Echo, number: int) -> object:
    return await aster.with_options(echo, timeout=10.0).same(Item(number, "wait"))


async def _cancelled(echo: Echo, number: int) -> object:
    with anyio.CancelScope() as scope:
        async for item in echo.count(Item(3, "wait")):
            if item.number == 2:
                scope.cancel()
    return scope.cancelled_caught


async def _left(echo: Echo, number: int) -> object:
    async with echo.count(Item(5, "wait")) as responses:
        return (await anext(responses)).number


_KINDS: list[Callable[[Echo, int], Awaitable[object]]] = [_answered, _streamed, _uploaded, _conversed, _failed, _broken, _overdue, _cancelled, _left]


def _outcomes_on(backend: str, seed: int, calls: int = _CALLS) -> tuple[dict[int, list[tuple[object, ...]]], SimulatedNetwork, Witness]:
    """What became of each call, by its number."""
    network, hosted = SimulatedNetwork(_BAD, seed=seed), Mixed()
    outcomes = {number: list[tuple[object, ...]]() for number in range(calls)}

    async def one(echo: Echo, number: int) -> None:
        kind = _KINDS[number % len(_KINDS)]
        try:
            outcomes[number].append((kind.__name__, await kind(echo, number)))
        except aster.RpcError as exc:
            outcomes[number].append((kind.__name__, exc.code.name, exc.message))

    async def some(echo: Echo, first: int) -> None:
        for number in range(first, calls, _AT_A_TIME):
            await one(echo, number)

    async def break_for_a_while() -> None:
        await anyio.sleep(0.5)
        with network.partitioned():
            await anyio.sleep(2)

    async def main() -> None:
        async with (
            assert_no_orphans(),
            aster.serve([hosted], transport=network) as server,
            aster.connect(server.address, transport=network) as client,
        ):
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                group.start_soon(break_for_a_while)
                for first in range(_AT_A_TIME):
                    group.start_soon(some, echo, first)

    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    return outcomes, network, hosted.witness


@pytest.mark.timeout(120)  # a thousand calls over a lossy network are tens of thousands of packets on each backend: some 10 s without a busy machine
def test_a_thousand_mixed_calls_over_a_bad_network_have_one_outcome_each_the_same_on_both_backends(caplog: pytest.LogCaptureFixture) -> None:
    require_backend("trio")
    on = {backend: _outcomes_on(backend, seed=5) for backend in ("asyncio", "trio")}
    for outcomes, network, witness in on.values():
        assert all(len(each) == 1 for each in outcomes.values())
        assert witness.began == witness.unwound
        statistics = network.statistics
        assert statistics.lost > statistics.sent * 0.08
        assert statistics.reordered > statistics.sent * 0.08
        assert statistics.partitioned
    assert {kind.__name__ for kind in _KINDS} == {kind for outcomes, _, _ in on.values() for ((kind, *_),) in outcomes.values()}
    assert on["asyncio"][0] == on["trio"][0]
    caplog.clear()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_calls_beneath_which_the_server_restarts_end_once_and_nothing_is_left(backend: str, seed: int) -> None:
    require_backend(backend)
    chance, network, identity = random.Random(seed), SimulatedNetwork(Link(latency=0.01, loss=0.05, reordering=0.05), seed=seed), Identity.generate()
    began, ended, codes = Counter[int](), Counter[int](), Counter[aster.StatusCode]()
    hosted = Mixed()

    async def serve_for_a_while(place: list[str], connected: anyio.Event) -> None:
        async with aster.serve(
            [hosted], transport=network, identity=identity, listen="127.0.0.1:4000", drain_grace=chance.choice([0, 0.1]), cleanup_budget=1.0
        ) as server:
            place.append(server.address)
            await connected.wait()
            await anyio.sleep(chance.uniform(0.05, 0.5))
            if chance.random() < 0.5:
                await server.drain(0.05)

    async def call(echo: Echo, number: int) -> None:
        await anyio.sleep(chance.uniform(0, 1))
        began[number] += 1
        kind = chance.choice([kind for kind in _KINDS if kind is not _broken])
        with anyio.move_on_after(chance.choice([0.02, 0.2, 2, 60])):
            try:
                await kind(echo, number)
            except aster.RpcError as exc:
                codes[exc.code] += 1
        ended[number] += 1

    async def main() -> None:
        place, connected, last = list[str](), anyio.Event(), anyio.Event()
        async with assert_no_orphans(), anyio.create_task_group() as servers:

            async def keep_serving() -> None:
                for _ in range(4):
                    await serve_for_a_while(place, connected)
                    await anyio.sleep(chance.uniform(0, 0.2))
                async with aster.serve([hosted], transport=network, identity=identity, listen="127.0.0.1:4000"):
                    last.set()
                    await anyio.sleep_forever()

            servers.start_soon(keep_serving)
            await until(lambda: place)
            async with aster.connect(place[0], transport=network) as client:
                echo = await client.client(Echo)
                connected.set()
                async with anyio.create_task_group() as group:
                    for number in range(30):
                        group.start_soon(call, echo, number)
                await last.wait()
                # The news that the server before was closed may be lost; then it is the idle timeout that tells.
                with suppress(aster.RpcError):
                    await echo.same(Item())
                assert await echo.same(Item(7)) == Item(7)
            servers.cancel_scope.cancel()

    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert began == ended == Counter(range(30))
    assert codes.keys() <= {aster.StatusCode.UNAVAILABLE, aster.StatusCode.ABORTED, aster.StatusCode.DEADLINE_EXCEEDED}
    assert hosted.witness.began == hosted.witness.unwound
