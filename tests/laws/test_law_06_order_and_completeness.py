"""Law 6, order and completeness: messages arrive in the order in which they were sent, each once, and all of them before the outcome, whatever that is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aster.errors import RpcError, StatusCode
from tests.laws.actor import Part, Step
from tests.laws.world import World, exercises

pytestmark = pytest.mark.anyio

_SIZES = st.lists(st.integers(0, 6_000), max_size=10)
_BEYOND_THE_WINDOW = [20_000] * 20


@exercises("ended well", "ended by an error", "beyond the window")
@given(pattern=st.sampled_from(["stream", "talk"]), sizes=_SIZES, fails=st.booleans())
@example(pattern="stream", sizes=_BEYOND_THE_WINDOW, fails=True)
@example(pattern="talk", sizes=_BEYOND_THE_WINDOW, fails=False)
async def test_responses_arrive_in_order_once_and_all_before_the_outcome(world: World, pattern: str, sizes: list[int], fails: bool) -> None:
    plan = world.plan(*(Step("send", size) for size in sizes), Step("fail", int(StatusCode.ABORTED)) if fails else Step("return"))
    responses = world.actor.stream(plan) if pattern == "stream" else world.actor.talk([Part(plan=plan)])
    received = list[tuple[int, int]]()
    outcome: StatusCode | None = None
    try:
        async for part in responses:
            received.append((part.number, len(part.data)))
    except RpcError as exc:
        outcome = exc.code
    assert received == list(enumerate(sizes))
    assert outcome is (StatusCode.ABORTED if fails else None)
    world.count("ended by an error" if fails else "ended well")
    if sum(sizes) > 262_144:
        world.count("beyond the window")


@exercises("some", "beyond the window")
@given(pattern=st.sampled_from(["gather", "talk"]), sizes=_SIZES)
@example(pattern="gather", sizes=_BEYOND_THE_WINDOW)
@example(pattern="talk", sizes=_BEYOND_THE_WINDOW)
async def test_requests_arrive_in_order_once_and_all_before_their_end(world: World, pattern: str, sizes: list[int]) -> None:
    plan = world.plan(Step("drain"), Step("send", 1))
    (answer,) = await world.call(pattern, plan, lambda: (Part(number, bytes(size)) for number, size in enumerate(sizes)))
    assert answer == Part(0, bytes(1))
    assert world.run(plan).read == list(range(len(sizes)))
    world.count("beyond the window" if sum(sizes) > 262_144 else "some")
