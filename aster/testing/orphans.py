"""What must not outlive a block: tasks, threads, sockets, timers, async generators and streams.

Nothing here runs the garbage collector, and nothing waits: an orphan that would go away in a moment is one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from aster.transports.base import Connection

if TYPE_CHECKING:
    import trio

__all__ = ["assert_no_orphans", "live_connections"]

_DESCRIPTORS = Path("/dev/fd")
"""Lists this process's open file descriptors on Linux and macOS alike."""

_POOLED_THREADS = ("asyncio_", "AnyIO worker thread", "Trio thread", "Trio worker thread")
"""How the backends name the threads of pools that they keep for later; they are nobody's orphans."""

_AnyAsyncGenerator = AsyncGenerator[Any, Any]


@asynccontextmanager
async def assert_no_orphans() -> AsyncGenerator[None]:
    """Assert that what the block started is over when the block ends.

    ::

        async with assert_no_orphans():
            async with aster.serve([TaskService()]) as server, aster.connect(server.address) as client:
                ...

    Counted are tasks, threads, sockets, timers of an asyncio loop (where the loop can be asked), async generators that were begun and neither ended nor closed,
    async generators that were left to the garbage collector, and streams of Aster's connections. What existed before does not count.

    Raises:
        AssertionError: something is left; the message names it. Not raised when the block itself raised, which then passes unchanged.
    """
    # The things themselves are kept: the identity of one that has gone may be that of an orphan.
    before = {identity: thing for identity, _, thing in _census()}
    generators = _WatchedGenerators()
    generators.install()
    try:
        yield
    finally:
        generators.remove()
    left = [name for identity, name, _ in _census() if identity not in before]
    left += generators.unfinished()
    assert not left, "left behind: " + "; ".join(sorted(left))


def live_connections() -> list[Connection]:
    """The connections of this process that have streams, either end; a connection between two endpoints here is there twice.

    Looks at every object there is, which takes some milliseconds: keep the result where it is asked often.
    """
    kinds = _kinds_of_connection()
    # Every object is asked for its type, and no other question: there are hundreds of thousands.
    connections: list[Connection] = [candidate for candidate in gc.get_objects() if type(candidate) in kinds]
    return [connection for connection in connections if connection.open_streams]


_Counted = tuple[Hashable, str, object]
"""An identity that lasts as long as the thing does, a name for people, and the thing."""


def _census() -> Iterator[_Counted]:
    """All there is of what is counted."""
    yield from _tasks()
    yield from _timers()
    for thread in threading.enumerate():
        if not thread.name.startswith(_POOLED_THREADS):
            yield ("thread", thread), f"thread {thread.name}", thread
    yield from _sockets()
    for connection in live_connections():
        yield ("streams", id(connection)), f"{connection.open_streams} streams of {type(connection).__qualname__}", connection


def _is_trio() -> bool:
    return type(anyio.lowlevel.current_token().native_token).__module__.startswith("trio")


def _tasks() -> Iterator[_Counted]:
    if not _is_trio():
        for task in asyncio.all_tasks():
            yield ("task", task), f"task {task.get_name()}", task
        return
    import trio

    root = trio.lowlevel.current_root_task()
    pending: list[trio.lowlevel.Task] = [] if root is None else [root]
    while pending:
        task = pending.pop()
        pending += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        yield ("task", task), f"task {task.name}", task


def _timers() -> Iterator[_Counted]:
    # Trio has none: its deadlines belong to scopes, and those to tasks.
    if not _is_trio():
        scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
        for timer in scheduled:
            if not timer.cancelled():
                yield ("timer", id(timer)), f"timer {timer!r}", timer


def _sockets() -> Iterator[_Counted]:
    for entry in os.listdir(_DESCRIPTORS):
        try:
            status = os.fstat(int(entry))
        except OSError:  # the descriptor with which the directory was read
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield ("socket", entry, status.st_ino), f"socket with descriptor {entry}", None


def _kinds_of_connection(kind: type[Connection] = Connection) -> set[type[object]]:
    return {kind}.union(*map(_kinds_of_connection, kind.__subclasses__()))


@dataclass
class _WatchedGenerators:
    """Hears of each async generator that is begun in this thread, and of each that the collector finds unfinished."""

    # Weak: a reference from here would keep the collector from finding what nobody else holds.
    _begun: list[weakref.ref[AsyncGeneratorType[Any, Any]]] = field(default_factory=list[weakref.ref[AsyncGeneratorType[Any, Any]]])
    _dropped: list[str] = field(default_factory=list[str])
    _old_first: Callable[[_AnyAsyncGenerator], Any] | None = None
    _old_finalizer: Callable[[_AnyAsyncGenerator], Any] | None = None

    def install(self) -> None:
        self._old_first, self._old_finalizer = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._first, finalizer=self._finalize)

    def remove(self) -> None:
        sys.set_asyncgen_hooks(firstiter=self._old_first, finalizer=self._old_finalizer)

    def unfinished(self) -> list[str]:
        begun = [generator for reference in self._begun if (generator := reference()) is not None]
        running = [f"async generator {_name(generator)}" for generator in begun if generator.ag_frame is not None]
        return running + [f"async generator {name}, left to the garbage collector" for name in self._dropped]

    def _first(self, generator: _AnyAsyncGenerator) -> None:
        if isinstance(generator, AsyncGeneratorType):
            self._begun.append(weakref.ref(generator))
        if self._old_first is not None:
            self._old_first(generator)

    def _finalize(self, generator: _AnyAsyncGenerator) -> None:
        self._dropped.append(_name(generator))
        if self._old_finalizer is not None:
            self._old_finalizer(generator)


def _name(generator: _AnyAsyncGenerator) -> str:
    return str(getattr(generator, "__qualname__", generator))
