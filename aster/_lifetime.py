"""The two task groups of an endpoint, and the reactor between them.

The outer group holds I/O, which shields itself; the inner one holds handlers and the tasks of calls. On the way out the inner one
ends first, so that the last words of every call still reach the network. The groups are entered and left by hand: an exception of
the body leaves as itself, never inside an ExceptionGroup of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from aster._reactor import Reactor, open_reactor

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

    async def close(self, body: BaseException | None) -> None:
        """Leave both groups; by now nothing may run in the inner one but what ends when it is cancelled.

        Args:
            body: what the block raised. It is not raised here: the caller's ``__aexit__`` lets it pass.

        Raises:
            BaseException: what a task of the groups raised, bare when it is alone; or cancellation, when there is no ``body`` that says the same.
        """
        errors: list[BaseException] = []
        await _leave(self.inner, errors)
        self.reactor.close()
        await _leave(self._outer, errors)
        cancelled = anyio.get_cancelled_exc_class()
        failures = [error for error in errors if not isinstance(error, cancelled)]
        if failures:
            raise failures[0]
        if errors and not isinstance(body, cancelled):
            raise errors[0]


async def _leave(group: TaskGroup, errors: list[BaseException]) -> None:
    try:
        await group.__aexit__(None, None, None)
    except BaseExceptionGroup as exc:
        errors.append(exc.exceptions[0] if len(exc.exceptions) == 1 else exc)
    except BaseException as exc:
        errors.append(exc)
