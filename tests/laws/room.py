"""A session-scoped service whose handlers do what their callers tell them to, and that keeps a record of each of its instances."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

import aster
from aster.decorators import rpc, service
from tests.laws.actor import Actor, Part, Plan, Run

__all__ = ["House", "Life", "Room"]


@dataclass
class Life:
    """What became of one instance."""

    peer: str
    hook: str
    """What its hook does after its record: ``return``, ``wait`` for a moment, ``raise``, or ``hang`` for ever."""
    served: list[int] = field(default_factory=list[int])
    """The keys of the plans, in the order in which their handlers began."""
    running: int = 0
    background: int = 0
    closed: int = 0
    """How often its hook was called."""
    closed_at: float = 0.0
    ended: str = ""
    """How its hook ended."""
    faults: list[str] = field(default_factory=list[str])


@dataclass
class House:
    """All rooms of a server, in the order in which they were made. ``hooks``: what those of the next ones do."""

    lives: list[Life] = field(default_factory=list[Life])
    runs: dict[int, Run] = field(default_factory=dict[int, Run])
    hooks: list[str] = field(default_factory=list[str])

    def plan(self, *steps: object) -> Plan:
        """A plan with a record of its own."""
        plan = Plan(len(self.runs) + 1, list(steps))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.runs[plan.key] = Run()
        return plan


@service("Room", scoped="stream")
class Room(Actor):
    """Handlers of all four patterns, and tasks in the background."""

    def __init__(self, peer: str, *, house: House) -> None:
        super().__init__()
        self.runs = house.runs
        self.life = Life(peer, house.hooks.pop(0) if house.hooks else "return")
        house.lives.append(self.life)

    @rpc
    async def linger(self, plan: Plan) -> Part:
        """Begin a task in the background that hangs, and then cleans up for a few turns of the scheduler."""
        aster.current_session().task_group.start_soon(self._linger)
        return Part(plan.key)

    @rpc
    async def crash(self, plan: Plan) -> Part:
        """Begin a task in the background that fails, and wait for ever."""
        aster.current_session().task_group.start_soon(self._fail)
        return await self.unary(plan)

    async def _linger(self) -> None:
        self.life.background += 1
        try:
            await anyio.sleep_forever()
        finally:
            # By turns, not by time: virtual time stands still while a test that cancels at every turn takes them.
            with anyio.CancelScope(shield=True):
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
            self.life.background -= 1

    async def _fail(self) -> None:
        raise ZeroDivisionError

    async def _carry_out(self, plan: Plan, requests: AsyncIterator[Part] | None) -> AsyncGenerator[Part]:
        life = self.life
        if life.running:
            life.faults.append(f"{plan.key} began while another call ran")
        if life.closed:
            life.faults.append(f"{plan.key} began after the end")
        life.running += 1
        life.served.append(plan.key)
        try:
            async with aclosing(super()._carry_out(plan, requests)) as parts:
                async for part in parts:
                    yield part
        finally:
            life.running -= 1

    async def on_session_close(self) -> None:
        """Look whether all has unwound, and do what this room's hook does."""
        life = self.life
        life.closed += 1
        life.closed_at = anyio.current_time()
        if life.running or life.background:
            life.faults.append(f"closed with {life.running} calls and {life.background} tasks running")
        if aster.current_session().peer.endpoint_id != life.peer:
            life.faults.append("closed in another session")
        try:
            if life.hook == "wait":
                await anyio.sleep(0.002)
            elif life.hook == "raise":
                raise ZeroDivisionError
            elif life.hook == "hang":
                await anyio.sleep_forever()
            life.ended = "returned"
        except anyio.get_cancelled_exc_class():
            life.ended = "cancelled"
            raise
