"""Law 8, half-close: the end of requests is an ordinary end in the handler; a handler that returns early ends the call, and the sender stops quietly."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from tests.laws.actor import Part, Plan, Step, message
from tests.laws.world import World, exercises

pytestmark = pytest.mark.anyio

_PATTERN = st.sampled_from(["gather", "talk"])
_SIZES = st.lists(st.integers(0, 2_000), max_size=4)
_LARGE = 100_000
"""Bytes: three of them fill the window."""


def _answers(sizes: list[int]) -> list[Part]:
    return [message(number, size) for number, size in enumerate(sizes)]


@exercises("no requests", "requests")
@given(pattern=_PATTERN, requests=_SIZES, after=_SIZES)
@example(pattern="gather", requests=[], after=[1])
async def test_the_end_of_requests_is_an_ordinary_end_and_the_handler_goes_on(world: World, pattern: str, requests: list[int], after: list[int]) -> None:
    plan = world.plan(Step("drain"), *(Step("send", size) for size in after), Step("wait", seconds=0.001), Step("drain"))
    responses = await world.call(pattern, plan, lambda: (message(number, size) for number, size in enumerate(requests)))
    run = world.run(plan)
    assert (run.read, run.where, run.cancelled) == (list(range(len(requests))), "the end", 0)
    assert responses == ((_answers(after) or [Part(-1)])[-1:] if pattern == "gather" else _answers(after))
    world.count("requests" if requests else "no requests")


class _Requests:
    """Never ends: the plan, then messages of one size; sleeps for ever before the one with the number ``sleeps_before``."""

    def __init__(self, plan: Plan, size: int, sleeps_before: int | None) -> None:
        self.given = 0
        self.closed = 0
        self._plan = plan
        self._size = size
        self._sleeps_before = sleeps_before

    async def endless(self) -> AsyncIterator[Part]:
        try:
            yield Part(plan=self._plan)
            while True:
                if self.given == self._sleeps_before:
                    await anyio.sleep_forever()
                self.given += 1
                yield message(self.given - 1, self._size)
                # Small ones would fill the window each time, in no time at all where time is virtual.
                await anyio.sleep(0 if self._size == _LARGE else 0.002)
        finally:
            self.closed += 1


@exercises("while its iterable slept", "while its iterable went on", "while it waited for credit")
@given(pattern=_PATTERN, reads=st.integers(0, 5), sends=_SIZES, size=st.integers(0, 1_000), sleeps=st.booleans())
@example(pattern="gather", reads=0, sends=[1], size=_LARGE, sleeps=False)
@example(pattern="talk", reads=2, sends=[1], size=_LARGE, sleeps=False)
async def test_a_handler_that_returns_early_ends_the_call_and_stops_the_sender(
    world: World, pattern: str, reads: int, sends: list[int], size: int, sleeps: bool
) -> None:
    # Those that fill the window have the time to.
    wait = [Step("wait", seconds=0.05)] if size == _LARGE else []
    plan = world.plan(Step("read", reads), *wait, *(Step("send", size) for size in sends))
    requests = _Requests(plan, size, reads if sleeps else None)
    if pattern == "gather":
        assert await world.actor.gather(requests.endless()) == (_answers(sends) or [Part(-1)])[-1]
    else:
        assert [part async for part in world.actor.talk(requests.endless())] == _answers(sends)
    assert requests.closed == 1, "when the call is over its iterable is closed, not later"
    await world.quiet()
    run = world.run(plan)
    assert (run.read, run.where, run.finals) == (list(range(reads)), "the end", 1)
    if sleeps:
        world.count("while its iterable slept")
    else:
        world.count("while it waited for credit" if requests.given - reads >= 3 and size == _LARGE else "while its iterable went on")


async def _send_on_and_on(call: aster.InteractiveCall[Part, Part]) -> None:
    for number in itertools.count():
        await call.send(message(number, 100))
        await anyio.sleep(0.002)


@exercises("sent after the handler had returned")
@given(reads=st.integers(0, 3), sends=_SIZES)
async def test_a_caller_that_sends_on_is_told_that_nothing_is_taken_and_still_receives_all(world: World, reads: int, sends: list[int]) -> None:
    plan = world.plan(Step("read", reads), *(Step("send", size) for size in sends))
    async with aster.open_call(world.actor.talk) as call:
        await call.send(Part(plan=plan))
        with pytest.raises(anyio.BrokenResourceError):
            await _send_on_and_on(call)
        world.count("sent after the handler had returned")
        assert [part async for part in call] == _answers(sends)
    assert world.run(plan).read == list(range(reads))


@exercises("answered after the end")
@given(requests=_SIZES, answers=_SIZES)
async def test_a_caller_that_has_ended_its_requests_still_receives(world: World, requests: list[int], answers: list[int]) -> None:
    plan = world.plan(Step("drain"), *(Step("send", size) for size in answers))
    async with aster.open_call(world.actor.talk) as call:
        await call.send(Part(plan=plan))
        for number, size in enumerate(requests):
            await call.send(message(number, size))
        await call.end()
        assert [part async for part in call] == _answers(answers)
    assert world.run(plan).read == list(range(len(requests)))
    if answers:
        world.count("answered after the end")
