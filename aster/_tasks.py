"""Tasks that others wait for, whatever ends them or cancels the waiting.

Two things would leave such a wait without an end. asyncio's own ``Task.cancel()`` ends a task that has not begun before it runs a single line, so that no
``finally`` of its function tells anybody; asyncio does it to all tasks when a second Ctrl-C ends ``asyncio.run``, and so do programs that cancel all they find.
And it interrupts whoever waits, in spite of any shield. ``StartedTask`` finds out about the first, ``outlast`` bears the second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from aster._reactor import Reactor

__all__ = ["StartedTask", "TaskSet", "checkpoint_with_deadlines", "outlast"]

_ROUNDS_TO_BEGIN = 3
"""Rounds of the loop after which a task that is to begin has begun. asyncio needs one; trio, which runs what is ready in any order, two."""


class StartedTask:
    """A task of a group, started at once.

    Args:
        group: what it lives in.
        function: an async function; a ``finally`` of it tells those who wait for its end.
        name: what debuggers show.
        reactor: of the same loop.
        shielded: whether only ``cancel`` reaches it, and nothing that cancels the group.
    """

    __slots__ = ("_coroutine", "_handle", "_reactor", "_shield")

    def __init__(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, None]], name: str, reactor: Reactor, *, shielded: bool = False) -> None:
        self._shield = anyio.CancelScope(shield=True) if shielded else None
        self._coroutine = function() if self._shield is None else _within(self._shield, function)
        self._handle = group.create_task(self._coroutine, name=name)
        self._reactor = reactor

    def cancel(self, never_ran: Callable[[], None]) -> None:
        """Cancel the scope of the task; without effect once it has ended. ``never_ran`` as for ``check``."""
        (self._shield or self._handle).cancel()
        self.check(never_ran)

    def check(self, never_ran: Callable[[], None]) -> None:
        """Have ``never_ran`` called from the reactor, in place of the function's own ``finally``, if the task was ended before its first step."""
        if self._has_not_begun():
            self._check_later(never_ran, _ROUNDS_TO_BEGIN)

    def _check_later(self, never_ran: Callable[[], None], rounds: int) -> None:
        self._reactor.call_soon(partial(self._check_now, never_ran, rounds))

    def _check_now(self, never_ran: Callable[[], None], rounds: int) -> None:
        if not self._has_not_begun():
            return
        if rounds > 1:
            self._check_later(never_ran, rounds - 1)
        else:
            # Closed, it does not warn that nobody awaited it.
            self._coroutine.close()
            never_ran()

    def _has_not_begun(self) -> bool:
        return inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED


async def _within(scope: anyio.CancelScope, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with scope:
        try:
            await function()
        except anyio.get_cancelled_exc_class():
            # asyncio's own, of this task alone, ends no more than that: AnyIO would cancel the group for it, and so the block that the group belongs to.
            if scope.cancel_called:
                raise


class TaskSet:
    """Tasks of a group that alone end them, or ``cancel`` does. Who ends a set before its group is left lets nothing in it keep the group from being left."""

    __slots__ = ("_group", "_reactor", "_tasks", "is_over")

    def __init__(self, group: TaskGroup, reactor: Reactor) -> None:
        self._group = group
        self._reactor = reactor
        self._tasks: dict[StartedTask, Callable[[], None]] = {}
        self.is_over = False
        """Whether it was cancelled."""

    def start(self, function: Callable[[], Coroutine[Any, Any, None]], name: str, never_ran: Callable[[], None]) -> StartedTask:
        """Start one; the arguments are those of ``StartedTask`` and its ``cancel``."""

        async def run() -> None:
            try:
                await function()
            finally:
                self._tasks.pop(task, None)

        def killed() -> None:
            self._tasks.pop(task, None)
            never_ran()

        task = StartedTask(self._group, run, name, self._reactor, shielded=True)
        self._tasks[task] = killed
        task.check(killed)
        return task

    def cancel(self) -> None:
        """Cancel all of them. Nothing is to be started here any more."""
        self.is_over = True
        for task, never_ran in list(self._tasks.items()):
            task.cancel(never_ran)


async def outlast(event: anyio.Event) -> None:
    """Wait for ``event``, shielded, whatever interrupts the wait.

    Raises:
        BaseException: after the wait, what interrupted it in spite of the shield: asyncio's own cancellation, or trio's KeyboardInterrupt.
    """
    interruption: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as exc:
                interruption = exc
    if interruption is not None:
        try:
            raise interruption
        finally:
            del interruption  # by its traceback it leads back here


async def checkpoint_with_deadlines() -> None:
    """A checkpoint that a scope whose deadline has passed does not let by: a scope is told by a timer of its own, some turns after the clock has passed
    its deadline; how many, each loop decides."""
    await anyio.lowlevel.checkpoint()
    while anyio.current_effective_deadline() <= anyio.current_time():
        await anyio.lowlevel.checkpoint()
