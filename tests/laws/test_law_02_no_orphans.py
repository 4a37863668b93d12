"""Law 2, no orphans: when a block of ``serve``, ``connect`` or a stream is left, however it is left, nothing of it remains, and nothing was warned of."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, contextmanager

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster.testing import assert_no_orphans
from tests.laws.actor import Part, Plan, Step
from tests.laws.world import PATTERNS, SEEDS, Tally, World, cancelled_everywhere, exercises
from tests.rpc.probes import until

# Each example has a loop of its own: what a shared world has there, its timers among them, would look like an orphan.


class _Failed(Exception):
    """What the body of a block raises."""


class _Ended(BaseException):
    """The same for what most programs do not catch, such as the end of the program."""


@contextmanager
def _no_warning() -> Generator[None]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    assert not [str(each.message) for each in heard]


_ENDS = ("return", "raise", "raise a base exception", "cancel", "time runs out", "the server leaves first", "the connection is cut")

_STATES = ("waits", "is half read in its block", "is half read without a block", "is forgotten", "is over", "sends", "is never iterated")
"""In which a call may be when the blocks around it are left."""


class _Calls:
    """Calls in many states, each of them reached when ``make`` returns."""

    def __init__(self, world: World, group: anyio.abc.TaskGroup, stack: AsyncExitStack) -> None:
        self._world = world
        self._group = group
        self._stack = stack
        self._kept = list[object]()

    async def make(self, state: str, pattern: str) -> None:
        match state:
            case "waits":
                plan = self._world.plan(Step("linger", seconds=0.01), Step("hang"))
                self._group.start_soon(self._bear, pattern, plan)
                await until(lambda: self._world.run(plan).where == "hang")
            case "is over":
                await self._world.call(pattern, self._world.plan(Step("send", 10)))
            case "sends":
                plan = self._world.plan(Step("drain"))
                self._group.start_soon(self._send, plan)
                await until(lambda: self._world.run(plan).read)
            case _:
                await self._half_read(state)

    async def _half_read(self, state: str) -> None:
        plan = self._world.plan(Step("send", 10), Step("send", 10), Step("hang"))
        stream = self._world.actor.stream(plan)
        if state == "is never iterated":
            return
        if state == "is half read in its block":
            await self._stack.enter_async_context(stream)
        await anext(stream)
        if state == "is half read without a block":
            self._kept.append(stream)

    async def _bear(self, pattern: str, plan: Plan) -> None:
        with _borne():
            await self._world.call(pattern, plan)

    async def _send(self, plan: Plan) -> None:
        with _borne():
            await self._world.actor.gather(self._with(plan))

    async def _with(self, plan: Plan) -> AsyncIterator[Part]:
        yield Part(plan=plan)
        for number in range(1 << 30):
            yield Part(number)
            await anyio.sleep(0.001)


@contextmanager
def _borne() -> Generator[None]:
    """What calls fail with whose blocks are left beneath them."""
    try:
        yield
    except aster.RpcError as exc:
        if exc.code not in (aster.StatusCode.UNAVAILABLE, aster.StatusCode.CANCELLED):
            raise


@pytest.mark.costly
@exercises(*_ENDS, *_STATES)
@given(seed=SEEDS, end=st.sampled_from(_ENDS), states=st.lists(st.tuples(st.sampled_from(_STATES), st.sampled_from(PATTERNS)), max_size=6))
@example(seed=1, end="return", states=[(state, "talk") for state in _STATES])
@example(seed=1, end="raise", states=[(state, "unary") for state in _STATES])
@example(seed=1, end="raise a base exception", states=[(state, "gather") for state in _STATES])
@example(seed=1, end="cancel", states=[(state, "stream") for state in _STATES])
@example(seed=1, end="time runs out", states=[(state, "talk") for state in _STATES])
@example(seed=1, end="the server leaves first", states=[(state, "talk") for state in _STATES])
@example(seed=1, end="the connection is cut", states=[(state, "talk") for state in _STATES])
def test_nothing_remains_of_blocks_with_calls_in_any_state_however_they_are_left(tally: Tally, seed: int, end: str, states: list[tuple[str, str]]) -> None:
    async def blocks(scope: anyio.CancelScope) -> None:
        async with anyio.create_task_group() as group, tally.fresh(seed=seed, drain_grace=0.05) as fresh, AsyncExitStack() as stack:
            calls = _Calls(fresh, group, stack)
            for state, pattern in states:
                await calls.make(state, pattern)
                tally.count(state)
            match end:
                case "raise":
                    raise _Failed
                case "raise a base exception":
                    raise _Ended
                case "cancel":
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
                case "time runs out":
                    scope.deadline = anyio.current_time() + 0.01
                    await anyio.sleep_forever()
                case "the server leaves first":
                    await fresh.server.drain()
                case "the connection is cut":
                    fresh.server_end.close()
                case _:
                    pass

    async def program() -> None:
        async with assert_no_orphans():
            with anyio.CancelScope() as scope:
                try:
                    await blocks(scope)
                except* (_Failed, _Ended):
                    pass
        tally.count(end)

    with _no_warning():
        tally.setting.run(program)


_STEP = 0.003
"""Seconds between cancellations over the simulated network: a whole program takes hundreds of milliseconds there, and each run of it makes a connection."""


@exercises("cancelled")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_cancelled_at_every_step_of_serving_connecting_and_calling_nothing_remains(tally: Tally, pattern: str) -> None:
    async def program() -> None:
        async with tally.fresh(drain_grace=0) as fresh:
            await fresh.call(pattern, fresh.plan(Step("drain"), Step("send", 10)), lambda: iter([Part(1)]))

    async def sweep() -> None:
        times = await cancelled_everywhere(program, anyio.lowlevel.checkpoint, tally.setting.make_transport(), assert_no_orphans, _STEP)
        assert times > 10
        tally.counts["cancelled"] += times

    with _no_warning():
        tally.setting.run(sweep)
