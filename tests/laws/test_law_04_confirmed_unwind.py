"""Law 4, confirmed unwind: a cancelled call returns at once; the end of the client's block waits, within a budget, until its handler has unwound."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._channel import ROUND_TRIP_ALLOWANCE
from aster.testing import Link
from tests.laws.actor import Part, Step
from tests.laws.world import PATTERNS, SEEDS, World, exercises
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio

_PATTERN = st.sampled_from(PATTERNS)


@exercises("while it lingered", "when it was over at once")
@given(pattern=_PATTERN, linger=st.one_of(st.just(0.0), st.floats(0.02, 0.1)))
async def test_a_cancelled_call_returns_at_once_and_its_handler_unwinds_behind_it(world: World, pattern: str, linger: float) -> None:
    plan = world.plan(Step("linger", seconds=linger), Step("hang"))
    run, cancelled_at, returned_at = world.run(plan), 0.0, 0.0
    async with anyio.create_task_group() as group:
        group.start_soon(world.call, pattern, plan, lambda: iter([Part(1)]))
        await until(lambda: run.where == "hang")
        cancelled_at = anyio.current_time()
        group.cancel_scope.cancel()
    returned_at = anyio.current_time()
    if linger:
        assert run.unwound_at is None, "the caller did not wait for it"
    if world.setting.virtual:
        assert returned_at == cancelled_at
    world.count("while it lingered" if linger else "when it was over at once")
    await world.quiet()
    assert (run.cancelled, run.finals) == (1, 1)


@pytest.mark.costly
@exercises("waited for a handler", "nothing to wait for")
@given(seed=SEEDS, pattern=_PATTERN, lingers=st.lists(st.one_of(st.just(0.0), st.floats(0.005, 0.05)), max_size=4))
async def test_leaving_the_clients_block_waits_until_the_handlers_have_unwound(world: World, seed: int, pattern: str, lingers: list[float]) -> None:
    async with world.fresh(seed=seed) as fresh:
        plans = [fresh.plan(Step("linger", seconds=linger), Step("hang")) for linger in lingers]
        async with anyio.create_task_group() as group:
            for plan in plans:
                group.start_soon(fresh.call, pattern, plan, lambda: iter([Part(1)]))
            await until(lambda: all(fresh.run(plan).where == "hang" for plan in plans))
            group.cancel_scope.cancel()
        await fresh.leave()
        assert all(fresh.run(plan).unwound_at is not None for plan in plans)
        world.count("waited for a handler" if any(lingers) else "nothing to wait for")


@pytest.mark.costly
@pytest.mark.virtual_time  # over QUIC it would take the budget in real time
@exercises("the budget was over", "it unwound within the budget")
@given(seed=SEEDS, pattern=_PATTERN, budget=st.sampled_from([0.5, 1.0, 3.0]), linger=st.floats(0.1, 10.0))
async def test_the_wait_is_no_longer_than_the_servers_budget_and_a_round_trip(world: World, seed: int, pattern: str, budget: float, linger: float) -> None:
    async with world.fresh(seed=seed, cleanup_budget=budget) as fresh:
        plan = fresh.plan(Step("linger", seconds=linger), Step("hang"))
        async with anyio.create_task_group() as group:
            group.start_soon(fresh.call, pattern, plan, lambda: iter([Part(1)]))
            await until(lambda: fresh.run(plan).where == "hang")
            group.cancel_scope.cancel()
        cancelled_at = anyio.current_time()
        await fresh.leave()
        took = anyio.current_time() - cancelled_at
        assert took <= min(linger, budget + ROUND_TRIP_ALLOWANCE) + fresh.a_few_round_trips
        if linger < budget:
            assert fresh.run(plan).unwound_at is not None
            world.count("it unwound within the budget")
        if linger > budget + ROUND_TRIP_ALLOWANCE + fresh.a_few_round_trips:
            assert fresh.run(plan).unwound_at is None
            world.count("the budget was over")
    # The server's block waits for the handler all the same.
    assert fresh.run(plan).unwound_at is not None


@pytest.mark.costly
@exercises("lost")
@given(seed=SEEDS, pattern=_PATTERN, linger=st.floats(0.5, 2.0))
async def test_the_loss_of_the_connection_ends_the_wait(world: World, seed: int, pattern: str, linger: float) -> None:
    async with anyio.create_task_group() as outer, world.fresh(seed=seed) as fresh:
        # Over QUIC the handler lingers in real time, and only as long as it must to be seen.
        plan = fresh.plan(Step("linger", seconds=linger if world.setting.virtual else 0.2), Step("hang"))

        async def lose() -> None:
            await until(lambda: fresh.run(plan).cancelled)
            if fresh.network is not None:
                # A loss that goes unheard of is noticed with the idle timeout, which is law 12.
                fresh.network.link = Link()
            fresh.server_end.close()

        async with anyio.create_task_group() as group:
            group.start_soon(fresh.call, pattern, plan, lambda: iter([Part(1)]))
            await until(lambda: fresh.run(plan).where == "hang")
            group.cancel_scope.cancel()
        outer.start_soon(lose)
        await fresh.leave()
        assert fresh.run(plan).unwound_at is None
        world.count("lost")
