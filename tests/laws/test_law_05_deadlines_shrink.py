"""Law 5, deadlines shrink: a call has the least of its timeout, the scopes around it and the server's cap; it travels, binds the handler, and never grows."""

from __future__ import annotations

import math

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster.decorators import rpc, service
from aster.errors import RpcError, StatusCode
from tests.laws.actor import Part, Plan, Step
from tests.laws.world import PATTERNS, SEEDS, World, exercises

pytestmark = pytest.mark.anyio

_PATTERN = st.sampled_from(PATTERNS)
_SHORT = st.one_of(st.floats(0.001, 0.1), st.floats(0.001, 1.0))
"""Seconds. Over QUIC, where they pass in real time, divided by ten."""
_LONG = st.one_of(st.none(), st.floats(5.0, 60.0))


_ROUNDING = 1e-6
"""Seconds: what travels is whole microseconds, and the clocks' numbers are binary fractions."""


def _least(*limits: float | None) -> float:
    return min(limit if limit is not None else math.inf for limit in limits)


@exercises("unlimited", "limited by the timeout", "limited by the scope")
@given(pattern=_PATTERN, timeout=_LONG, scope=_LONG)
async def test_a_handler_has_the_least_of_all_limits(world: World, pattern: str, timeout: float | None, scope: float | None) -> None:
    plan = world.plan(Step("send", 1))
    timed = aster.with_options(world.actor, timeout=timeout)
    with anyio.fail_after(scope):
        await world.call(pattern, plan, actor=timed)
    assert world.run(plan).remaining <= _least(timeout, scope) + _ROUNDING
    assert (world.run(plan).remaining == math.inf) == (timeout is scope is None)
    if timeout is scope is None:
        world.count("unlimited")
    else:
        world.count("limited by the timeout" if _least(timeout) < _least(scope) else "limited by the scope")


@exercises("by the timeout", "by the scope", "the handler was interrupted")
@given(pattern=_PATTERN, least=_SHORT, other=st.one_of(st.none(), st.floats(0.1, 60.0)), by_timeout=st.booleans(), sends=st.integers(0, 3))
@example(pattern="stream", least=1.0, other=None, by_timeout=True, sends=3)
@example(pattern="unary", least=1.0, other=None, by_timeout=False, sends=0)
async def test_an_expired_timeout_is_deadline_exceeded_and_an_expired_scope_is_native(
    world: World, pattern: str, least: float, other: float | None, by_timeout: bool, sends: int
) -> None:
    least = least if world.setting.virtual else least / 10
    other = None if other is None else least + other
    timeout, scope = (least, other) if by_timeout else (other, least)
    plan = world.plan(*[Step("send", 1)] * sends, Step("hang"))
    timed = aster.with_options(world.actor, timeout=timeout)
    began = anyio.current_time()
    outcome: object = None
    try:
        with anyio.fail_after(scope):
            await world.call(pattern, plan, lambda: iter([Part(1)]), actor=timed)
    except RpcError as exc:
        outcome = exc.code
    except TimeoutError as exc:
        outcome = type(exc)
    took = anyio.current_time() - began
    assert outcome == (StatusCode.DEADLINE_EXCEEDED if by_timeout else TimeoutError)
    assert took >= least - 1e-3
    if world.setting.virtual:
        assert took == pytest.approx(least, abs=2e-3)
    world.count("by the timeout" if by_timeout else "by the scope")
    await world.quiet()
    run = world.run(plan)
    assert run.began == run.finals == run.cancelled <= 1
    if run.cancelled:
        world.count("the handler was interrupted")


_TIMEOUTS = st.lists(st.one_of(st.just(0.05), st.floats(0.001, 0.1)), min_size=2, max_size=12)


@exercises("together", "one after the other", "a handler was interrupted")
@given(pattern=_PATTERN, timeouts=_TIMEOUTS)
@example(pattern="talk", timeouts=[0.05] * 100)
async def test_many_calls_that_time_out_together_all_fail_on_time_and_leave_nothing(world: World, pattern: str, timeouts: list[float]) -> None:
    late, plans = list[float](), [world.plan(Step("hang")) for _ in timeouts]

    async def call(number: int) -> None:
        began = anyio.current_time()
        with pytest.raises(RpcError) as failure:
            await world.call(pattern, plans[number], lambda: iter([Part(1)]), actor=aster.with_options(world.actor, timeout=timeouts[number]))
        assert failure.value.code is StatusCode.DEADLINE_EXCEEDED
        late.append(anyio.current_time() - began - timeouts[number])

    async with anyio.create_task_group() as group:
        for number in range(len(timeouts)):
            group.start_soon(call, number)
    assert len(late) == len(timeouts)
    assert min(late) >= -1e-3
    if world.setting.virtual:
        assert max(late) <= 2e-3
    await world.quiet()
    runs = [world.run(plan) for plan in plans]
    assert all(run.began == run.finals == run.cancelled <= 1 for run in runs)
    world.counts["a handler was interrupted"] += any(run.cancelled for run in runs)
    world.count("together" if len(set(timeouts)) < len(timeouts) else "one after the other")


@pytest.mark.costly
@exercises("by the cap", "by the timeout")
@given(seed=SEEDS, pattern=_PATTERN, cap=st.floats(0.05, 0.2), timeout=st.one_of(st.none(), st.floats(0.05, 1.0)))
@example(seed=0, pattern="unary", cap=0.125, timeout=0.125)
@example(seed=1, pattern="unary", cap=0.05, timeout=None)
@example(seed=1, pattern="talk", cap=0.2, timeout=0.1)
async def test_the_servers_cap_limits_every_call(world: World, seed: int, pattern: str, cap: float, timeout: float | None) -> None:
    async with world.fresh(seed=seed, max_deadline=cap) as fresh:
        plan = fresh.plan(Step("hang"))
        with pytest.raises(RpcError) as failure:
            await fresh.call(pattern, plan, actor=aster.with_options(fresh.actor, timeout=timeout))
        assert failure.value.code is StatusCode.DEADLINE_EXCEEDED
        if fresh.run(plan).began:
            assert fresh.run(plan).remaining <= _least(cap, timeout) + _ROUNDING
            world.count("by the cap" if cap < _least(timeout) else "by the timeout")
        else:  # the request was lost, and is over before it was sent again
            assert fresh.disturbances["lost"]
        await fresh.quiet()
        assert fresh.run(plan).cancelled == fresh.run(plan).began


@service("Hop")
class _Hop:
    """Calls the next one, and tells how much time each had."""

    def __init__(self) -> None:
        self.remaining = list[float]()
        self.next: _Hop | None = None

    @rpc
    async def go(self, plan: Plan) -> Part:
        self.remaining.append(aster.current_call().deadline - anyio.current_time())
        await anyio.sleep(plan.steps[0].seconds)
        if self.next is None:
            return Part()
        return await self.next.go(plan)


@pytest.mark.costly
@exercises("reached the third hop")
@given(seed=SEEDS, timeout=st.floats(1.0, 60.0), wait=st.floats(0.0, 0.02))
async def test_over_three_hops_a_deadline_only_shrinks(world: World, seed: int, timeout: float, wait: float) -> None:
    hops = [_Hop() for _ in range(3)]
    transport = world.setting.make_transport(seed)
    async with (
        aster.serve([hops[0]], transport=transport) as first,
        aster.serve([hops[1]], transport=transport) as second,
        aster.serve([hops[2]], transport=transport) as third,
        aster.connect(first.address, transport=transport) as to_first,
        aster.connect(second.address, transport=transport) as to_second,
        aster.connect(third.address, transport=transport) as to_third,
    ):
        hops[0].next, hops[1].next = await to_second.client(_Hop), await to_third.client(_Hop)
        await aster.with_options(await to_first.client(_Hop), timeout=timeout).go(Plan(0, [Step("wait", seconds=wait)]))
    (one,), (two,), (three,) = (hop.remaining for hop in hops)
    assert timeout >= one - _ROUNDING
    assert one - wait >= two - _ROUNDING
    assert two - wait >= three - _ROUNDING
    world.count("reached the third hop")
