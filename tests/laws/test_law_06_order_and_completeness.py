"""Law 6, order and completeness: messages arrive in the order in which they were sent, each once, and all of them before the outcome, whatever that is."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aster.errors import RpcError, StatusCode
from tests.laws.actor import Part, Step, message
from tests.laws.world import World, exercises

pytestmark = pytest.mark.anyio

_SIZES = st.lists(st.integers(0, 5_000), max_size=8)
_BEYOND_THE_WINDOW = [70_000] * 5
_WINDOW = 262_144
_DISTURBED = ("lost", "duplicated", "reordered")


def _messages(sizes: list[int]) -> list[Part]:
    return [message(number, size) for number, size in enumerate(sizes)]


@exercises("ended well", "ended by an error", "beyond the window", simulated=_DISTURBED)
@given(pattern=st.sampled_from(["stream", "talk"]), sizes=_SIZES, fails=st.booleans())
@example(pattern="stream", sizes=_BEYOND_THE_WINDOW, fails=True)
@example(pattern="talk", sizes=_BEYOND_THE_WINDOW, fails=False)
async def test_responses_arrive_in_order_once_and_all_before_the_outcome(world: World, pattern: str, sizes: list[int], fails: bool) -> None:
    plan = world.plan(*(Step("send", size) for size in sizes), Step("fail", int(StatusCode.ABORTED)) if fails else Step("return"))
    responses = world.actor.stream(plan) if pattern == "stream" else world.actor.talk([Part(plan=plan)])
    received, outcome = list[Part](), None
    try:
        async for part in responses:
            received.append(part)
    except RpcError as exc:
        outcome = exc.code
    assert received == _messages(sizes)
    assert outcome is (StatusCode.ABORTED if fails else None)
    world.count("ended by an error" if fails else "ended well")
    if sum(sizes) > _WINDOW:
        world.count("beyond the window")


@exercises("some", "beyond the window", simulated=_DISTURBED)
@given(pattern=st.sampled_from(["gather", "talk"]), sizes=_SIZES)
@example(pattern="gather", sizes=_BEYOND_THE_WINDOW)
@example(pattern="talk", sizes=_BEYOND_THE_WINDOW)
async def test_requests_arrive_in_order_once_and_all_before_their_end(world: World, pattern: str, sizes: list[int]) -> None:
    plan = world.plan(Step("drain"), Step("send", 1))
    (answer,) = await world.call(pattern, plan, lambda: iter(_messages(sizes)))
    assert answer == message(0, 1)
    run = world.run(plan)
    assert run.read == list(range(len(sizes)))
    assert run.checksum == zlib.crc32(b"".join(part.data for part in _messages(sizes)))
    world.count("beyond the window" if sum(sizes) > _WINDOW else "some")


@exercises("some", "beyond the window", simulated=_DISTURBED)
@given(requests=_SIZES, responses=_SIZES)
@example(requests=_BEYOND_THE_WINDOW, responses=_BEYOND_THE_WINDOW)
async def test_both_directions_of_a_call_keep_their_order_side_by_side(world: World, requests: list[int], responses: list[int]) -> None:
    plan = world.plan(*(step for size in responses for step in (Step("read", 1), Step("send", size))), Step("drain"))
    assert await world.call("talk", plan, lambda: iter(_messages(requests))) == _messages(responses)
    run = world.run(plan)
    assert run.read == list(range(len(requests)))
    assert run.checksum == zlib.crc32(b"".join(part.data for part in _messages(requests)))
    world.count("beyond the window" if sum(requests) > _WINDOW < sum(responses) else "some")
