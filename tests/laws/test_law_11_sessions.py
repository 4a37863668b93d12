"""Law 11, sessions: one instance, calls one at a time, first come first served; the hook runs once, last, and however the session ended."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster import StatusCode
from aster.testing import Link, SimulatedNetwork
from aster.transports.base import Transport
from tests.laws.actor import Part, Plan, Step
from tests.laws.room import House, Room
from tests.laws.world import PATTERNS, SEEDS, Tally, cancelled_everywhere, exercises
from tests.rpc.probes import error_of, server_record, until

pytestmark = pytest.mark.anyio

_UNDER_WAY = 0.05
"""Seconds: what was under way when the network was cut still arrives, and is a sign of life."""

_MOMENT = 0.01
"""Seconds of waits that some settings spend in real time."""

_STEP = 0.003
"""Seconds between cancellations over the simulated network: a whole session takes hundreds of milliseconds there."""


@dataclass
class _Scene:
    """A server of rooms, and a client of it."""

    house: House
    server: aster.AsterServer
    client: aster.AsterClient
    transport: Transport
    leaving: AsyncExitStack


@asynccontextmanager
async def _scene(tally: Tally, seed: int = 1, hooks: list[str] | None = None, **options: Any) -> AsyncGenerator[_Scene]:
    house, transport = House(hooks=list(hooks or [])), tally.setting.make_transport(seed)
    async with aster.serve([functools.partial(Room, house=house)], transport=transport, **options) as server, AsyncExitStack() as leaving:
        client = await leaving.enter_async_context(aster.connect(server.address, transport=transport))
        yield _Scene(house, server, client, transport, leaving)


async def _call(room: Room, pattern: str, plan: Plan) -> list[Part]:
    match pattern:
        case "unary":
            return [await room.unary(plan)]
        case "stream":
            return [part async for part in room.stream(plan)]
        case "gather":
            return [await room.gather(_iterate([Part(-1, plan=plan)]))]
        case _:
            return [part async for part in room.talk(_iterate([Part(-1, plan=plan)]))]


async def _iterate(parts: list[Part]) -> AsyncGenerator[Part]:
    for part in parts:
        yield part


# Programs. Each operation knows what it does to its session, and what its caller must see.

_OPERATIONS = ("call", "fail", "bug", "cancel", "timeout", "leave early", "burst", "linger", "crash")
_ENDS = ("left", "raised", "cancelled", "lost", "drained", "server cancelled")

_programs = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(_OPERATIONS), st.sampled_from(PATTERNS)),
    min_size=1,
    max_size=9,
)


_EVERYTHING = [*((which, operation, PATTERNS[which]) for which in range(3) for operation in _OPERATIONS[:-1]), (2, "crash", "unary"), (2, "call", "stream")]


class _Player:
    """Plays a program on up to three sessions, and keeps a model of each: what it must have served, and whether it is over."""

    def __init__(self, tally: Tally, scene: _Scene) -> None:
        self._tally = tally
        self.scene = scene
        self.rooms: dict[int, Room] = {}
        self.served: dict[int, list[int]] = {}
        self.aborted: set[int] = set()
        self._stacks: dict[int, AsyncExitStack] = {}

    async def play(self, which: int, operation: str, pattern: str) -> None:
        if which not in self.rooms:
            stack = self._stacks[which] = AsyncExitStack()
            self.rooms[which] = await stack.enter_async_context(self.scene.client.session(Room))
            self.served[which] = []
        room = self.rooms[which]
        if which in self.aborted:
            error = await error_of(_call(room, pattern, self.scene.house.plan(Step("send"))))
            assert error.code is StatusCode.ABORTED
            self._tally.count("after a crash")
            return
        self._tally.count(operation)
        await getattr(self, f"_{operation.replace(' ', '_')}")(which, room, pattern)

    def _plan(self, which: int, *steps: Step) -> Plan:
        plan = self.scene.house.plan(*steps)
        self.served[which].append(plan.key)
        return plan

    async def _call(self, which: int, room: Room, pattern: str) -> None:
        parts = await _call(room, pattern, self._plan(which, Step("send", 10), Step("send", 70_000)))
        assert [part.number for part in parts] == ([0, 1] if pattern in ("stream", "talk") else [1])

    async def _fail(self, which: int, room: Room, pattern: str) -> None:
        error = await error_of(_call(room, pattern, self._plan(which, Step("fail", int(StatusCode.NOT_FOUND)))))
        assert error.code is StatusCode.NOT_FOUND

    async def _bug(self, which: int, room: Room, pattern: str) -> None:
        error = await error_of(_call(room, pattern, self._plan(which, Step("bug"))))
        assert error.code is StatusCode.INTERNAL

    async def _cancel(self, which: int, room: Room, pattern: str) -> None:
        plan = self._plan(which, Step("linger", seconds=0.002), Step("hang"))
        async with anyio.create_task_group() as group:
            group.start_soon(_call, room, pattern, plan)
            await until(lambda: self.scene.house.runs[plan.key].where == "hang")
            group.cancel_scope.cancel()

    async def _timeout(self, which: int, room: Room, pattern: str) -> None:
        # Long enough to get there also over a network that loses packets, so that the model knows that the handler began.
        plan = self._plan(which, Step("hang"))
        error = await error_of(_call(aster.with_options(room, timeout=0.05 if self._tally.setting.transport != "simulated" else 5.0), pattern, plan))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        # A loaded machine may not have begun it.
        if not self.scene.house.runs[plan.key].began:
            self.served[which].remove(plan.key)

    async def _leave_early(self, which: int, room: Room, pattern: str) -> None:
        plan = self._plan(which, Step("send", 10), Step("pour", 10))
        async with room.stream(plan) as parts:
            async for _ in parts:
                break

    async def _burst(self, which: int, room: Room, pattern: str) -> None:
        plans = [self._plan(which, Step("send", 10), Step("wait", seconds=0.001)) for _ in range(3)]
        async with anyio.create_task_group() as group:
            for plan in plans:
                group.start_soon(_call, room, pattern, plan)
                await _begun(room, plan)

    async def _linger(self, which: int, room: Room, pattern: str) -> None:
        await room.linger(Plan(7))

    async def _crash(self, which: int, room: Room, pattern: str) -> None:
        error = await error_of(room.crash(self._plan(which, Step("hang"))))
        assert error.code is StatusCode.ABORTED
        if not self.scene.house.runs[self.served[which][-1]].began:
            self.served[which].pop()
        self.aborted.add(which)

    async def leave(self, which: int) -> None:
        """Leave a session's block in the ordinary way."""
        await self._stacks[which].aclose()


async def _begun(room: Room, plan: Plan) -> None:
    """Let a task begin its call: what is first come, and so first served, is for its caller to know."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


@pytest.mark.costly(30)
@exercises(*_OPERATIONS, "after a crash", "a call was running", "return", "wait", "raise")
@pytest.mark.parametrize("end", _ENDS)
@example(seed=1, program=_EVERYTHING, hooks=["return", "wait", "raise"], running=True)
@given(
    seed=SEEDS,
    program=_programs,
    hooks=st.lists(st.sampled_from(["return", "wait", "raise"]), min_size=3, max_size=3),
    running=st.booleans(),
)
async def test_every_instance_serves_its_calls_in_order_and_is_closed_once_after_all_else(
    tally: Tally, seed: int, program: list[tuple[int, str, str]], end: str, hooks: list[str], running: bool
) -> None:
    players: list[_Player] = []
    async with anyio.create_task_group() as around, _scene(tally, seed, hooks, drain_grace=_MOMENT) as scene:
        players.append(player := _Player(tally, scene))
        for which, operation, pattern in program:
            await player.play(which, operation, pattern)
        async with anyio.create_task_group() as group:
            alive = sorted(set(player.rooms) - player.aborted)
            if running and alive:
                by_this_side = end in ("left", "raised", "cancelled")
                await _keep_running(player, scene, group, alive[0], StatusCode.CANCELLED if by_this_side else StatusCode.UNAVAILABLE)
                tally.count("a call was running")
            await _END_OF[end](player, scene, around)
            group.cancel_scope.cancel()
    _check(tally, *players)


def _check(tally: Tally, player: _Player) -> None:
    scene = player.scene
    lives = scene.house.lives
    assert len(lives) == len(player.rooms)
    for which, life in zip(player.rooms, lives, strict=True):
        assert (life.closed, life.faults) == (1, [])
        assert life.ended == ("" if life.hook == "raise" else "returned"), "the hook was interrupted"
        assert (life.running, life.background) == (0, 0)
        assert life.served == player.served[which]
        assert life.peer == scene.client.endpoint_id
        tally.count(life.hook)


async def _keep_running(player: _Player, scene: _Scene, group: Any, which: int, code: StatusCode) -> None:
    """Have a call run that the end of the session ends with ``code``."""
    plan = scene.house.plan(Step("hang"))
    player.served[which].append(plan.key)

    async def call() -> None:
        assert (await error_of(player.rooms[which].unary(plan))).code is code

    group.start_soon(call)
    await until(lambda: scene.house.runs[plan.key].where == "hang")


async def _left(player: _Player, scene: _Scene, around: Any) -> None:
    for position, which in enumerate(player.rooms):
        await player.leave(which)
        assert scene.house.lives[position].closed == 1, "a block that was left has seen the hook run"


async def _raised(player: _Player, scene: _Scene, around: Any) -> None:
    async def fail() -> None:
        async with AsyncExitStack() as stack:
            for which in player.rooms:
                stack.push_async_callback(player.leave, which)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert all(life.closed == 1 for life in scene.house.lives)


async def _cancelled(player: _Player, scene: _Scene, around: Any) -> None:
    with anyio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            for which in player.rooms:
                stack.push_async_callback(player.leave, which)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert all(life.closed == 1 for life in scene.house.lives)


async def _lost(player: _Player, scene: _Scene, around: Any) -> None:
    if isinstance(scene.transport, SimulatedNetwork):
        # A loss that goes unheard of is noticed with the idle timeout, which is law 12.
        scene.transport.link = Link()
    server_record(scene.client).transport.close()
    for which, room in player.rooms.items():
        if which not in player.aborted:
            assert (await error_of(room.linger(Plan()))).code is StatusCode.UNAVAILABLE
    await until(lambda: all(life.ended or (life.hook == "raise" and life.closed) for life in scene.house.lives))


async def _drained(player: _Player, scene: _Scene, around: Any) -> None:
    await scene.server.drain()
    assert all(life.closed == 1 for life in scene.house.lives)
    for which, room in player.rooms.items():
        if which not in player.aborted:
            assert (await error_of(room.linger(Plan()))).code is StatusCode.UNAVAILABLE


async def _server_cancelled(player: _Player, scene: _Scene, around: Any) -> None:
    around.cancel_scope.cancel()


_END_OF: dict[str, Callable[[_Player, _Scene, Any], Awaitable[None]]] = {
    "left": _left,
    "raised": _raised,
    "cancelled": _cancelled,
    "lost": _lost,
    "drained": _drained,
    "server cancelled": _server_cancelled,
}


@pytest.mark.costly
@pytest.mark.simulated
@exercises("cut", "a call was running", "idle")
@given(
    seed=SEEDS, idle=st.floats(1.0, 60.0), keepalive=st.floats(0.2, 30.0), sessions=st.integers(1, 4), running=st.integers(0, 2), before=st.floats(0.0, 100.0)
)
async def test_the_instances_of_a_client_that_is_heard_no_more_are_closed_within_the_idle_timeout_and_a_keepalive_interval(
    tally: Tally, seed: int, idle: float, keepalive: float, sessions: int, running: int, before: float
) -> None:
    options: dict[str, Any] = {"idle_timeout": idle, "keepalive_interval": keepalive}
    async with _scene(tally, seed, **options) as scene, anyio.create_task_group() as group:
        player = _Player(tally, scene)
        for which in range(sessions):
            await player.play(which, "call", "unary")
        for which in range(min(running, sessions)):
            await _keep_running(player, scene, group, which, StatusCode.UNAVAILABLE)
        tally.count("a call was running" if running else "idle")
        await anyio.sleep(before)
        assert not any(life.closed for life in scene.house.lives), "silence alone ends no session"
        network = scene.transport
        assert isinstance(network, SimulatedNetwork)
        cut_at = anyio.current_time()
        network.partition()
        tally.count("cut")
        await anyio.sleep(idle + keepalive + 1.0)
        assert max(life.closed_at for life in scene.house.lives) - cut_at <= idle + keepalive + _UNDER_WAY
        assert [life.closed for life in scene.house.lives] == [1] * sessions


@exercises("cancelled")
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_session_may_be_cancelled_at_any_step_and_its_instance_is_closed_once(tally: Tally, pattern: str) -> None:
    async with _scene(tally) as scene:

        async def program() -> None:
            async with scene.client.session(Room) as room:
                await _call(room, pattern, scene.house.plan(Step("send", 10)))
                await room.linger(Plan())
                await _call(room, pattern, scene.house.plan(Step("send", 10)))

        async def check() -> None:
            record = server_record(scene.client)
            await until(lambda: not record.sessions and record.transport.open_streams == 1)
            assert {(life.closed, life.ended, len(life.faults)) for life in scene.house.lives} <= {(1, "returned", 0)}
            scene.house.lives.clear()

        times = await cancelled_everywhere(program, check, scene.transport, step=_STEP)
        tally.counts["cancelled"] += times
