"""The two task groups of an endpoint, and the reactor between them.

The outer group holds I/O, which shields itself; the inner one holds handlers and the tasks of calls. On the way out the inner one
ends first, so that the last words of every call still reach the network. The groups are entered and left by hand: an exception of
the body leaves as itself, never inside an ExceptionGroup of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

from aster._reactor import Reactor, open_reactor, spare_ctrl_c
from aster._tasks import StartedTask, checkpoint_with_deadlines, outlast

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Lifetime"]


class Lifetime:
    """Opened once and closed once, by the same task."""

    def __init__(self) -> None:
        self._outer: TaskGroup = anyio.create_task_group()
        self.inner: TaskGroup = anyio.create_task_group()
        self.reactor: Reactor

    async def open(self) -> None:
        """Enter both groups and start the reactor."""
        await self._outer.__aenter__()
        self.reactor = open_reactor(self._outer)
        await self.inner.__aenter__()

    async def close(self, body: BaseException | None, farewell: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Leave both groups; after the farewell nothing may run in the inner one but what ends when it is cancelled.

        Args:
            body: what the block raised. It is not raised here: the caller's ``__aexit__`` lets it pass.
            farewell: run to its end before that, whatever is cancelled meanwhile.

        Raises:
            BaseException: what a task of the groups raised, bare when it is alone; or cancellation, unless a ``body`` comes out instead: the scope
                that was cancelled stays so.
        """
        errors: list[BaseException] = []
        if farewell is not None:
            await self._run_to_its_end(farewell, errors)
        await _leave(self.inner, errors)
        self.reactor.close()
        await _leave(self._outer, errors)
        if body is None and not errors:
            # What was cancelled before, or while the farewell shielded itself, comes out now, on both backends.
            await _note_cancellation(errors)
        cancelled = anyio.get_cancelled_exc_class()
        failures = [error for error in errors if not isinstance(error, cancelled)]
        if failures:
            raise failures[0]
        if errors and body is None:
            raise errors[0]

    async def close_failed(self, failure: BaseException, farewell: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """As ``close``, when entering failed. A failure of Aster's own gives way to cancellation that comes meanwhile: who tries again after each failure
        would lose asyncio's, which comes once.
        """
        await self.close(None if isinstance(failure, Exception) else failure, farewell)

    async def _run_to_its_end(self, farewell: Callable[[], Coroutine[Any, Any, None]], errors: list[BaseException]) -> None:
        """Run it in a task of its own: asyncio's ``Task.cancel()``, and so ``asyncio.timeout``, interrupts this task in spite of any shield."""
        over = False

        async def run() -> None:
            nonlocal over
            over = True
            try:
                with anyio.CancelScope(shield=True):
                    await farewell()
            except anyio.get_cancelled_exc_class():
                # asyncio's own, of this task: what is left to do is begun again.
                over = False
                raise
            finally:
                ended.set()

        while not over:
            ended = anyio.Event()
            StartedTask(self._outer, spare_ctrl_c(run), "aster farewell", self.reactor).check(ended.set)
            try:
                await outlast(ended)
            except BaseException as exc:
                errors.append(exc)


async def _note_cancellation(errors: list[BaseException]) -> None:
    """A block's end is a checkpoint as any other: one whose scope was cancelled last thing in it does not end as though nothing had happened."""
    try:
        await checkpoint_with_deadlines()
    except BaseException as exc:
        errors.append(exc)


async def _leave(group: TaskGroup, errors: list[BaseException]) -> None:
    try:
        await group.__aexit__(None, None, None)
    except BaseExceptionGroup as exc:
        errors.append(exc.exceptions[0] if len(exc.exceptions) == 1 else exc)
    except BaseException as exc:
        errors.append(exc)
