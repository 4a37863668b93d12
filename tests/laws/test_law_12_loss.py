"""Law 12, loss: when a connection is lost every pending call fails once, UNAVAILABLE, no later than the idle timeout and a keepalive interval."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aster.errors import RpcError, StatusCode
from aster.testing import Link
from tests.laws.actor import Part, Step, message
from tests.laws.world import PATTERNS, SEEDS, World, exercises
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio

_CALLS = st.lists(st.tuples(st.sampled_from(PATTERNS), st.integers(0, 3)), min_size=1, max_size=6)
"""The pattern of each, and how many responses came before it was lost."""


_UNDER_WAY = 0.05
"""Seconds: what was under way when the network was cut still arrives, and is a sign of life."""


class _Pending:
    """Calls that hang in their handlers, and how each of them ended, and when."""

    def __init__(self, world: World, calls: list[tuple[str, int]]) -> None:
        self.outcomes = list[list[tuple[object, float]]]()
        self._world = world
        self._calls = calls
        self._plans = [world.plan(*[Step("send", 10)] * sends, Step("hang")) for _, sends in calls]
        self.runs = [world.run(plan) for plan in self._plans]

    async def begin(self, group: anyio.abc.TaskGroup) -> None:
        """Return when all of them hang."""
        for number in range(len(self._calls)):
            self.outcomes.append([])
            group.start_soon(self._call, number)
        await until(lambda: all(run.where == "hang" for run in self.runs))

    async def _call(self, number: int) -> None:
        pattern, _ = self._calls[number]
        try:
            await self._world.call(pattern, self._plans[number], lambda: iter([Part(1)]))
            outcome: object = "success"
        except RpcError as exc:
            outcome = exc.code
        self.outcomes[number].append((outcome, anyio.current_time()))

    def assert_lost_once(self) -> float:
        """When the last one ended."""
        assert [[outcome for outcome, _ in outcomes] for outcomes in self.outcomes] == [[StatusCode.UNAVAILABLE]] * len(self._calls)
        return max(time for outcomes in self.outcomes for _, time in outcomes)


@pytest.mark.costly
@exercises("the server's end", "the client's end", "several calls")
@given(seed=SEEDS, calls=_CALLS, end=st.sampled_from(["the server's end", "the client's end"]))
async def test_a_connection_that_is_closed_fails_each_of_its_calls_once(world: World, seed: int, calls: list[tuple[str, int]], end: str) -> None:
    async with world.fresh(seed=seed) as fresh:
        pending, closed_at = _Pending(fresh, calls), 0.0
        async with anyio.create_task_group() as group:
            await pending.begin(group)
            closed_at = anyio.current_time()
            if fresh.network is not None:
                # A loss that goes unheard of is noticed later: that is the next test.
                fresh.network.link = Link()
            (fresh.server_end if end == "the server's end" else fresh.client_end).close()
        ended_at = pending.assert_lost_once()
        if world.setting.virtual:
            assert ended_at - closed_at <= fresh.a_few_round_trips
        await until(lambda: all(run.finals == run.cancelled == 1 for run in pending.runs))
        # The stub goes on.
        assert await fresh.call("unary", fresh.plan(Step("send", 5))) == [message(0, 5)]
        world.count(end)
        world.counts["several calls"] += len(calls) > 1


@pytest.mark.costly
@pytest.mark.simulated
@exercises("cut", "healed")
@given(seed=SEEDS, calls=_CALLS, idle=st.floats(1.0, 60.0), keepalive=st.floats(0.2, 30.0), before=st.floats(0.0, 100.0))
@example(seed=1, calls=[("talk", 2)], idle=30.0, keepalive=10.0, before=1_000.0)
async def test_a_network_that_is_cut_fails_each_call_once_within_the_idle_timeout_and_a_keepalive_interval(
    world: World, seed: int, calls: list[tuple[str, int]], idle: float, keepalive: float, before: float
) -> None:
    options = {"idle_timeout": idle, "keepalive_interval": keepalive}
    async with world.fresh(seed=seed, client=options, **options) as fresh:
        assert fresh.network is not None
        pending, cut_at = _Pending(fresh, calls), 0.0
        async with anyio.create_task_group() as group:
            await pending.begin(group)
            await anyio.sleep(before)
            assert pending.outcomes == [[]] * len(calls), "silence alone is no loss, however long"
            cut_at = anyio.current_time()
            fresh.network.partition()
        world.count("cut")
        assert pending.assert_lost_once() - cut_at <= idle + keepalive + _UNDER_WAY
        await until(lambda: all(run.finals == run.cancelled == 1 for run in pending.runs))
        assert max(run.unwound_at or 0.0 for run in pending.runs) - cut_at <= idle + keepalive + _UNDER_WAY
        fresh.network.heal()
        world.count("healed")
        assert await fresh.call("unary", fresh.plan(Step("send", 5))) == [message(0, 5)]


@pytest.mark.costly
@pytest.mark.simulated
@exercises("bridged")
@given(seed=SEEDS, calls=_CALLS, idle=st.floats(4.0, 60.0), share=st.floats(0.0, 0.4))
async def test_a_short_cut_is_bridged_and_no_call_notices(world: World, seed: int, calls: list[tuple[str, int]], idle: float, share: float) -> None:
    """What was sent meanwhile is sent again; a keepalive asks often enough."""
    options = {"idle_timeout": idle}
    async with world.fresh(seed=seed, client=options, **options) as fresh:
        assert fresh.network is not None
        outcomes = Counter[str]()

        async def call(pattern: str, sends: int) -> None:
            # It ends in the middle of the cut, so that its outcome has to be sent again.
            plan = fresh.plan(Step("drain"), Step("wait", seconds=0.1 + idle * share / 2), *[Step("send", 10)] * sends)
            await fresh.call(pattern, plan, lambda: iter([Part(1)]))
            outcomes["success"] += 1

        async with anyio.create_task_group() as group:
            for each in calls:
                group.start_soon(call, *each)
            await anyio.sleep(0.1)
            with fresh.network.partitioned():
                await anyio.sleep(idle * share)
        assert outcomes == {"success": len(calls)}
        world.count("bridged")
