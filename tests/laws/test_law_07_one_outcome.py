"""Law 7, one outcome: the caller of a call and its handler each see exactly one end of it."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.errors import RpcError, StatusCode
from tests.laws.actor import Part, Step, message
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio

_SENDS = st.lists(st.builds(Step, st.just("send"), st.integers(0, 40_000)), max_size=4)
_END = st.sampled_from([Step("return"), Step("fail", int(StatusCode.NOT_FOUND)), Step("fail", int(StatusCode.CANCELLED)), Step("bug"), Step("hang")])


@exercises("succeeded", "failed", "cancelled", "left early")
@given(pattern=st.sampled_from(PATTERNS), sends=_SENDS, end=_END)
async def test_every_call_has_one_outcome_at_each_end(world: World, pattern: str, sends: list[Step], end: Step) -> None:
    plan, outcomes = world.plan(*sends, end), list[object]()

    async def caller() -> None:
        try:
            outcomes.append(await world.call(pattern, plan))
        except RpcError as exc:
            outcomes.append(exc.code)

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        if end.what == "hang":
            await until(lambda: world.run(plan).where == "hang")
            group.cancel_scope.cancel()
    await world.quiet()
    run = world.run(plan)
    assert (run.began, run.finals) == (1, 1)
    if end.what == "hang":
        assert (outcomes, run.cancelled) == ([], 1)
        world.count("cancelled")
    elif end.what == "return":
        expected = [message(number, step.amount) for number, step in enumerate(sends)]
        single = pattern in ("unary", "gather")
        assert outcomes == [(expected or [Part(-1)])[-1:] if single else expected]
        world.count("succeeded")
    else:
        assert outcomes == [StatusCode(end.amount) if end.what == "fail" else StatusCode.INTERNAL]
        world.count("failed")
    assert run.cancelled == (end.what == "hang")
    if run.sent:
        world.count("left early" if end.what == "hang" else "sent")


@exercises("read on")
@given(sends=st.integers(0, 5), steps=st.integers(1, 3))
async def test_a_stream_that_has_ended_stays_so(world: World, sends: int, steps: int) -> None:
    """However often its reader asks again."""
    plan = world.plan(*[Step("send")] * sends, Step("fail", int(StatusCode.DATA_LOSS)))
    responses = world.actor.stream(plan)
    for number in range(sends):
        assert (await anext(responses)).number == number
    for _ in range(steps):
        with pytest.raises(RpcError) as failure:
            await anext(responses)
        assert failure.value.code is StatusCode.DATA_LOSS
        world.count("read on")
    assert world.run(plan).finals == 1
