"""Law 8, half-close: the end of requests is an ordinary end in the handler; a handler that returns early ends the call, and the sender stops quietly."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
from tests.laws.actor import Part, Step
from tests.laws.world import World, exercises

pytestmark = pytest.mark.anyio

_PATTERN = st.sampled_from(["gather", "talk"])


@exercises("no requests", "requests")
@given(pattern=_PATTERN, requests=st.integers(0, 20), after=st.integers(0, 3))
async def test_the_end_of_requests_is_an_ordinary_end_and_the_handler_goes_on(world: World, pattern: str, requests: int, after: int) -> None:
    plan = world.plan(Step("drain"), *[Step("send")] * after, Step("wait", seconds=0.001), Step("drain"))
    responses = await world.call(pattern, plan, lambda: (Part(number) for number in range(requests)))
    run = world.run(plan)
    assert (run.read, run.where, run.cancelled) == (list(range(requests)), "the end", 0)
    assert len(responses) == (1 if pattern == "gather" else after)
    world.count("requests" if requests else "no requests")


@exercises("while its iterable slept", "while its iterable went on")
@given(pattern=_PATTERN, reads=st.integers(0, 5), sends=st.integers(0, 2), sleeps=st.booleans())
async def test_a_handler_that_returns_early_ends_the_call_and_stops_the_sender(world: World, pattern: str, reads: int, sends: int, sleeps: bool) -> None:
    plan = world.plan(Step("read", reads), *[Step("send")] * sends)
    closed = list[int]()

    async def endless() -> AsyncIterator[Part]:
        number = 0
        try:
            yield Part(plan=plan)
            while True:
                if sleeps and number == reads:
                    await anyio.sleep_forever()
                yield Part(number, bytes(1_000))
                number += 1
                await anyio.lowlevel.checkpoint()
        finally:
            closed.append(number)

    if pattern == "gather":
        assert (await world.actor.gather(endless())).number == sends - 1
    else:
        assert [part.number async for part in world.actor.talk(endless())] == list(range(sends))
    # When the call is over its iterable is closed, not later.
    assert len(closed) == 1
    await world.quiet()
    run = world.run(plan)
    assert (run.read, run.where, run.finals) == (list(range(reads)), "the end", 1)
    world.count("while its iterable slept" if sleeps else "while its iterable went on")


@exercises("answered after the end")
@given(requests=st.integers(0, 5), answers=st.integers(1, 4))
async def test_a_caller_that_has_ended_its_requests_still_receives(world: World, requests: int, answers: int) -> None:
    plan = world.plan(Step("drain"), *[Step("send", 100)] * answers)
    async with aster.open_call(world.actor.talk) as call:
        await call.send(Part(plan=plan))
        for number in range(requests):
            await call.send(Part(number))
        await call.end()
        assert [part.number async for part in call] == list(range(answers))
    assert world.run(plan).read == list(range(requests))
    world.count("answered after the end")
