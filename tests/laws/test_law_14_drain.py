"""Law 14, drain: a server that is left refuses new calls, lets running ones end within the grace, cancels the rest, and waits for what shields itself."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster.errors import RpcError, StatusCode
from aster.testing import Link, SimulatedNetwork
from tests.laws.actor import Actor, Part, Plan, Run, Step, message
from tests.laws.world import PATTERNS, SEEDS, World, exercises
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio

_BUDGET = 0.5
_UNHEARD = _BUDGET
"""Seconds that a server waits besides for a client that is gone, when the packet that said so was lost: it cannot know that its last words were heard."""

_MARGIN = 0.1
"""Seconds on either side of a limit in which the one may come before the other, or after it."""

_CONNECT_TIMEOUT = 10.0
"""Seconds that new calls wait for another server; the client's default."""


@dataclass
class _Handled:
    """A handler that works for some time, and lingers after that, shielded; times in seconds."""

    pattern: str
    works: float
    lingers: float
    run: Run = field(default_factory=Run)
    outcomes: list[object] = field(default_factory=list[object])
    ended_at: float = 0.0

    def plan(self, key: int) -> Plan:
        return Plan(key, [Step("linger", seconds=self.lingers), Step("wait", seconds=self.works), Step("send", 5)])

    def unwinds_after(self, grace: float) -> float:
        """Seconds after the server's block is left."""
        return min(self.works, grace) + self.lingers


class _Calls:
    """A client's, in tasks of a group that outlives the server's block."""

    def __init__(self, world: World, handled: list[_Handled], seed: int, *, calls_late: bool = False) -> None:
        self.world = world
        self.calls_late = calls_late
        self.handled = handled
        self.hosted = Actor()
        self.transport = world.setting.make_transport(seed)
        self.late = _Handled("unary", 0.0, 0.0)
        self.draining = anyio.Event()

    async def begin(self, group: anyio.abc.TaskGroup, address: str) -> None:
        """Return when all handlers run."""
        group.start_soon(self.run_client, address)
        await until(lambda: all(each.run.began for each in self.handled))

    async def run_client(self, address: str) -> None:
        """All calls, and one more that begins while the server drains, if it is told that."""
        async with aster.connect(address, transport=self.transport, connect_timeout=_CONNECT_TIMEOUT) as client, anyio.create_task_group() as group:
            actor = await client.client(Actor)
            for key, each in enumerate(self.handled):
                self.hosted.runs[key] = each.run
                group.start_soon(self._call, actor, each, key)
            if self.calls_late:
                await self.draining.wait()
                self.hosted.runs[-1] = self.late.run
                await self._call(actor, self.late, -1)

    async def _call(self, actor: Actor, each: _Handled, key: int) -> None:
        try:
            each.outcomes.append(await self.world.call(each.pattern, each.plan(key), lambda: iter([Part(1)]), actor=actor))
        except RpcError as exc:
            each.outcomes.append(exc.code)
        each.ended_at = anyio.current_time()


@contextmanager
def _warnings_of_aster() -> Generator[list[str]]:
    heard = list[str]()

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    handler = Hearing(logging.WARNING)
    logger = logging.getLogger("aster")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


_SUCCESS = [[message(0, 5)]]
_UNAVAILABLE = [StatusCode.UNAVAILABLE]
_SECONDS = st.one_of(st.just(0.0), st.floats(0.0, 3.0))
_HANDLED = st.lists(st.builds(_Handled, st.sampled_from(PATTERNS), _SECONDS, st.one_of(st.just(0.0), _SECONDS)), min_size=1, max_size=4)


def _assert_outcome(each: _Handled, grace: float, *, virtual: bool) -> str:
    """What became of a call that ran when the server was left; where time is real, whichever of the two it is fits its handler."""
    assert each.outcomes in (_SUCCESS, _UNAVAILABLE)
    assert each.run.began == each.run.finals == 1
    if each.outcomes == _SUCCESS:
        assert each.run.where == "the end"
    if virtual and each.works + each.lingers < grace - _MARGIN:
        assert each.outcomes == _SUCCESS
        return "finished within the grace"
    if virtual and each.works > grace + _MARGIN:
        assert (each.outcomes, each.run.cancelled) == (_UNAVAILABLE, 1)
        return "cancelled after the grace"
    return "near the limit"


@pytest.mark.costly
@pytest.mark.virtual_time
@exercises("finished within the grace", "cancelled after the grace", "shielded beyond the budget", "all in time")
@given(seed=SEEDS, handled=_HANDLED, grace=_SECONDS)
@example(seed=1, handled=[_Handled("unary", 0.5, 0.0), _Handled("talk", 2.0, 0.0)], grace=1.0)
@example(seed=1, handled=[_Handled("stream", 2.0, 3.0)], grace=1.0)
async def test_leaving_a_server_lets_calls_end_within_the_grace_and_cancels_the_rest(world: World, seed: int, handled: list[_Handled], grace: float) -> None:
    handled = [_Handled(each.pattern, each.works, each.lingers) for each in handled]
    calls = _Calls(world, handled, seed, calls_late=True)
    left_at = took = 0.0
    with _warnings_of_aster() as warned:
        async with anyio.create_task_group() as group:
            async with aster.serve([calls.hosted], transport=calls.transport, drain_grace=grace, cleanup_budget=_BUDGET) as server:
                await calls.begin(group, server.address)
                left_at = anyio.current_time()
                calls.draining.set()
            took = anyio.current_time() - left_at
    for each in handled:
        world.count(_assert_outcome(each, grace, virtual=True))
        # Whoever shields himself longer keeps his peer waiting no longer than that.
        assert each.ended_at - left_at <= min(each.unwinds_after(grace), grace + _BUDGET) + world.a_few_round_trips
    unwinds = max(each.unwinds_after(grace) for each in handled)
    assert unwinds - _MARGIN - world.a_few_round_trips <= took <= unwinds + _UNHEARD + world.a_few_round_trips
    assert (calls.late.outcomes, calls.late.run.began) == (_UNAVAILABLE, 0), "new calls begin nowhere"
    overdue = [each for each in handled if each.unwinds_after(grace) > grace + _BUDGET + world.a_few_round_trips]
    if overdue:
        (line,) = warned
        assert "still shield themselves" in line
        assert all(f"Actor.{each.pattern}" in line for each in overdue)
        world.count("shielded beyond the budget")
    elif unwinds < grace + _BUDGET - _MARGIN:
        assert not warned
        world.count("all in time")


@pytest.mark.costly
@exercises("left")
@given(works=st.lists(st.floats(0.0, 0.02), min_size=1, max_size=4), grace=st.floats(0.0, 0.03), pattern=st.sampled_from(PATTERNS))
async def test_each_call_of_a_server_that_is_left_ends_as_its_handler_did(world: World, works: list[float], grace: float, pattern: str) -> None:
    """In real time too: little of it, and nothing depends on which of grace and handler is the faster."""
    handled = [_Handled(pattern, seconds, 0.0) for seconds in works]
    calls = _Calls(world, handled, seed=1)
    async with anyio.create_task_group() as group, aster.serve([calls.hosted], transport=calls.transport, drain_grace=grace) as server:
        group.start_soon(calls.run_client, server.address)
        await until(lambda: all(each.run.began for each in handled))
    for each in handled:
        _assert_outcome(each, grace, virtual=False)
    world.count("left")


@pytest.mark.costly
@exercises("lingered", "nothing lingered")
@given(seed=SEEDS, pattern=st.sampled_from(PATTERNS), lingers=st.one_of(st.just(0.0), st.floats(0.001, 0.05)))
async def test_cancellation_from_outside_skips_the_grace(world: World, seed: int, pattern: str, lingers: float) -> None:
    handled, scope, cancelled_at, took = [_Handled(pattern, 3_600.0, lingers)], anyio.CancelScope(), 0.0, 0.0
    calls = _Calls(world, handled, seed)
    async with anyio.create_task_group() as group:
        with scope:
            async with aster.serve([calls.hosted], transport=calls.transport, drain_grace=3_600.0, cleanup_budget=_BUDGET) as server:
                group.start_soon(calls.run_client, server.address)
                await until(lambda: handled[0].run.where == "wait")
                cancelled_at = anyio.current_time()
                scope.cancel()
        took = anyio.current_time() - cancelled_at
    assert scope.cancelled_caught
    assert handled[0].outcomes == _UNAVAILABLE
    assert handled[0].run.cancelled == 1
    if world.setting.virtual:
        assert took <= lingers + _UNHEARD + world.a_few_round_trips
    world.count("lingered" if lingers else "nothing lingered")


@pytest.mark.costly
@pytest.mark.simulated
@exercises("answered")
@given(seed=SEEDS, works=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5), pattern=st.sampled_from(PATTERNS), loss=st.floats(0.05, 0.3))
async def test_what_was_answered_arrives_before_the_connection_closes(world: World, seed: int, works: list[float], pattern: str, loss: float) -> None:
    """However often it has to be sent."""
    handled = [_Handled(pattern, seconds, 0.0) for seconds in works]
    calls = _Calls(world, handled, seed)
    async with anyio.create_task_group() as group, aster.serve([calls.hosted], transport=calls.transport, cleanup_budget=60.0) as server:
        await calls.begin(group, server.address)
        assert isinstance(calls.transport, SimulatedNetwork)
        calls.transport.link = Link(latency=0.01, loss=loss)
    assert [each.outcomes for each in handled] == [_SUCCESS] * len(handled)
    world.count("answered")
