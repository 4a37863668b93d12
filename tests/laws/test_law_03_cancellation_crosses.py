"""Law 3, cancellation crosses: cancelling the scope around a call, wherever it is, cancels its handler at once; its caller sees native cancellation."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.laws.actor import Part, Step, message
from tests.laws.world import PATTERNS, World, exercises

pytestmark = pytest.mark.anyio

_STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("send"), st.integers(0, 3_000)),
        st.builds(Step, st.just("wait"), st.just(0), st.sampled_from([0.0, 0.001, 0.01])),
        st.builds(Step, st.just("read"), st.integers(0, 2)),
        st.builds(Step, st.just("linger"), st.just(0), st.sampled_from([0.001, 0.02])),
    ),
    max_size=6,
)


@exercises("cancelled in a handler", "cancelled before a handler", "ended before its cancellation")
@given(pattern=st.sampled_from(PATTERNS), steps=_STEPS, turns=st.integers(0, 60), after=st.sampled_from([0.0, 0.005, 0.03, 0.2]))
@example(pattern="talk", steps=[], turns=60, after=0.2)
async def test_a_caller_that_is_cancelled_at_any_time_cancels_its_handler(world: World, pattern: str, steps: list[Step], turns: int, after: float) -> None:
    plan = world.plan(*steps, Step("return" if turns == 60 else "hang"))
    raised = list[BaseException]()
    ended, cancelled_at = False, 0.0

    async def caller() -> None:
        nonlocal ended
        try:
            await world.call(pattern, plan, lambda: (Part(number) for number in range(3)))
            ended = True
        except BaseException as exc:
            raised.append(exc)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await anyio.sleep(after)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        cancelled_at = anyio.current_time()
        group.cancel_scope.cancel()
    await world.quiet()
    run = world.run(plan)
    assert run.began == run.finals <= 1
    if ended:
        assert not raised
        world.count("ended before its cancellation")
        return
    assert [isinstance(exc, anyio.get_cancelled_exc_class()) for exc in raised] == [True]
    assert run.cancelled == run.began or run.where == "the end"
    if run.cancelled and world.setting.virtual:
        assert run.unwound_at is not None
        assert run.unwound_at - cancelled_at <= max([step.seconds for step in steps if step.what == "linger"], default=0.0) + world.a_few_round_trips
    world.count("cancelled in a handler" if run.began else "cancelled before a handler")


@exercises("some were received")
@given(pattern=st.sampled_from(["stream", "talk"]), sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=5), reads=st.integers(0, 5))
@example(pattern="stream", sizes=[5, 6], reads=1)
async def test_responses_that_came_before_a_cancellation_were_received(world: World, pattern: str, sizes: list[int], reads: int) -> None:
    plan, received, reads = world.plan(*(Step("send", size) for size in sizes), Step("hang")), list[Part](), min(reads, len(sizes))
    with anyio.CancelScope() as scope:
        async with world.actor.stream(plan) if pattern == "stream" else world.actor.talk([Part(plan=plan)]) as responses:
            while len(received) < reads:
                received.append(await anext(responses))
            scope.cancel()
            if reads == len(sizes):
                await anext(responses)
            else:
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert received == [message(number, size) for number, size in enumerate(sizes[:reads])]
    await world.quiet()
    run = world.run(plan)
    # Without a response it never began, or not for long.
    assert run.began == run.finals == run.cancelled == 1 if reads else run.began == run.finals <= 1
    if reads:
        world.count("some were received")


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_cancelling_at_every_step_of_a_call_leaves_nothing(world: World, pattern: str) -> None:
    # Where time is simulated, turns of the scheduler take none of it.
    pause = Step("wait", seconds=0.002 if world.network is not None else 0.0)
    plans = [world.plan(*[pause] * 10, Step("send", 10), pause, Step("send", 10), Step("drain"), *[pause] * 10)]

    async def program() -> None:
        await world.call(pattern, plans[-1], lambda: iter([Part(1), Part(2)]))

    async def unwound() -> None:
        await world.quiet()
        run = world.run(plans[-1])
        assert run.began == run.finals <= 1
        plans.append(world.plan(*plans[-1].steps))

    times = await world.cancelled_everywhere(program, unwound)
    assert times > 5
    where = {world.run(plan).where for plan in plans if world.run(plan).cancelled}
    assert "wait" in where
