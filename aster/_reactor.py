"""The few things that asyncio and trio do differently, and that a packet driver needs at full speed.

A ``Reactor`` runs plain callbacks in the event loop's thread: soon, at a time, or when a socket is readable. Everything below the call driver (engines,
protocol, timers) is written as such callbacks, so that no task, event or cancel scope is made on the way of a packet. On asyncio the loop itself does the work;
on trio one task of the given task group runs the callbacks and one more waits for each socket.

Callbacks run in the context (``contextvars``) in which the reactor was opened. One that raises is a bug in Aster: it is logged with its traceback, and the
reactor goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import logging
import math
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

if TYPE_CHECKING:
    import trio
    from trio.lowlevel import Abort, RaiseCancelT

__all__ = ["Condition", "Reactor", "TimerHandle", "Waiter", "open_reactor", "spare_ctrl_c"]

logger = logging.getLogger("aster")

_Callback = Callable[[], None]

_AsyncFunction = TypeVar("_AsyncFunction", bound=Callable[..., Coroutine[Any, Any, None]])

_CANCELLED_TIMERS_KEPT = 100
"""Below this many a cancelled timer costs less than a sweep."""


class TimerHandle(Protocol):
    """A scheduled callback that can still be cancelled."""

    def cancel(self) -> None:
        """Forget the callback; without effect once it has run."""
        ...


class Waiter(Protocol):
    """A place where one task at a time sleeps until it is woken. A wake-up that nobody waits for is lost: check the condition before waiting."""

    def wake(self) -> None:
        """Wake the waiting task, if there is one."""
        ...

    async def wait(self) -> None:
        """Sleep until ``wake``. Cancellation wakes it too, and loses nothing."""
        ...


class Reactor(ABC):
    """Runs callbacks for one endpoint. Open it with ``open_reactor`` and close it before its task group is left."""

    @abstractmethod
    def now(self) -> float:
        """The clock of ``anyio.current_time()``, in seconds."""

    @abstractmethod
    def call_soon(self, callback: _Callback) -> None:
        """Run ``callback`` after the current callback or task step. Only from the loop's thread."""

    @abstractmethod
    def call_soon_threadsafe(self, callback: _Callback) -> None:
        """The same from any thread, and from a destructor. After the loop has ended it does nothing."""

    @abstractmethod
    def call_at(self, when: float, callback: _Callback) -> TimerHandle:
        """Run ``callback`` once ``now() >= when``."""

    @abstractmethod
    def add_reader(self, sock: socket.socket, callback: _Callback) -> None:
        """Run ``callback`` whenever ``sock`` is readable. One callback a socket."""

    @abstractmethod
    def remove_reader(self, sock: socket.socket) -> None:
        """Stop watching ``sock``; call it before the socket is closed."""

    @abstractmethod
    def waiter(self) -> Waiter:
        """A new place to wait at."""

    @abstractmethod
    def current_task(self) -> object:
        """The task that runs now, to be compared with others; not from a callback."""

    @abstractmethod
    def close(self) -> None:
        """Drop all callbacks and stop the reactor's tasks. Idempotent."""


class Condition:
    """A condition variable, without a lock since all that concerns it runs in one thread: tasks sleep until what they wait for has come true."""

    __slots__ = ("_reactor", "_waiters")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._waiters: set[Waiter] = set()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    def notify_all(self) -> None:
        """Have all who wait look again."""
        for waiter in self._waiters:
            waiter.wake()

    async def wait_for(self, predicate: Callable[[], object]) -> None:
        """Sleep until ``predicate()`` holds, which is asked at once and after each ``notify_all``."""
        waiter = self._reactor.waiter()
        self._waiters.add(waiter)
        try:
            while not predicate():
                await waiter.wait()
        finally:
            self._waiters.discard(waiter)


def spare_ctrl_c(function: _AsyncFunction) -> _AsyncFunction:
    """Make Ctrl-C come out of the user's code rather than of this function.

    trio raises KeyboardInterrupt in whatever unprotected code runs at that moment. On a busy endpoint that is often the reactor, without which no block can
    be left.
    """
    if not _on_trio():
        return function
    from trio.lowlevel import enable_ki_protection

    return enable_ki_protection(function)


def _on_trio() -> bool:
    return anyio.lowlevel.current_token().native_token.__class__.__module__.startswith("trio")


def open_reactor(task_group: TaskGroup) -> Reactor:
    """A reactor for the running loop; what tasks it needs live in ``task_group`` until it is closed."""
    if _on_trio():
        return _TrioReactor(task_group)
    return _AsyncioReactor(task_group)


def _run(callback: _Callback) -> None:
    try:
        callback()
    except Exception:
        logger.exception("internal error in a callback; please report it")


class _SocketTasks:
    """Readers where the loop has no callbacks for sockets: a task each."""

    def __init__(self, task_group: TaskGroup) -> None:
        self._task_group = task_group
        self._scopes: dict[socket.socket, anyio.CancelScope] = {}

    def add(self, sock: socket.socket, callback: _Callback) -> None:
        # Shielded, as all I/O is: packets must go on while a cancelled block takes leave of its peers.
        self._scopes[sock] = scope = anyio.CancelScope(shield=True)
        self._task_group.start_soon(spare_ctrl_c(self._watch), sock, scope, callback, name="aster socket reader")

    def remove(self, sock: socket.socket) -> None:
        scope = self._scopes.pop(sock, None)
        if scope is not None:
            scope.cancel()
            # Takes the descriptor out of the loop now: its number may belong to another socket before the task runs again.
            anyio.notify_closing(sock)

    def close(self) -> None:
        for sock in list(self._scopes):
            self.remove(sock)

    async def _watch(self, sock: socket.socket, scope: anyio.CancelScope, callback: _Callback) -> None:
        with scope:
            # Asked before each wait: the socket may have been closed while this task was ready to run, and cannot be waited for then.
            while not scope.cancel_called:
                try:
                    await anyio.wait_readable(sock)
                except anyio.ClosedResourceError:
                    return
                _run(callback)


class _AsyncioWaiter:
    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self) -> None:
        self._future = future = self._loop.create_future()
        try:
            await future
        finally:
            self._future = None


def _callback_context() -> contextvars.Context:
    """The current context, in which AnyIO knows its backend.

    Where sniffio is installed (trio brings it along) AnyIO asks it, and sniffio recognizes asyncio by the current task. Callbacks have none: under
    ``anyio.run`` the context says it, under ``asyncio.run`` nothing does.
    """
    context = contextvars.copy_context()
    with contextlib.suppress(ImportError):
        from sniffio import current_async_library_cvar

        context.run(current_async_library_cvar.set, "asyncio")
    return context


class _AsyncioReactor(Reactor):
    def __init__(self, task_group: TaskGroup) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = _callback_context()
        self._sockets = _SocketTasks(task_group)
        self._readers: set[socket.socket] = set()
        self._closed = False

    def now(self) -> float:
        return self._loop.time()

    def call_soon(self, callback: _Callback) -> None:
        self._loop.call_soon(self._invoke, callback, context=self._context)

    def call_soon_threadsafe(self, callback: _Callback) -> None:
        # A destructor may run while the loop closes; then there is nothing left to tell.
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._invoke, callback, context=self._context)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise

    def call_at(self, when: float, callback: _Callback) -> TimerHandle:
        return self._loop.call_at(when, self._invoke, callback, context=self._context)

    def add_reader(self, sock: socket.socket, callback: _Callback) -> None:
        try:
            # Registered in the reactor's context: asyncio runs the callback in the context that was current here.
            self._context.run(self._loop.add_reader, sock, _run, callback)
        except NotImplementedError:
            self._sockets.add(sock, callback)
        else:
            self._readers.add(sock)

    def remove_reader(self, sock: socket.socket) -> None:
        if sock in self._readers:
            self._readers.discard(sock)
            self._loop.remove_reader(sock)
        else:
            self._sockets.remove(sock)

    def waiter(self) -> Waiter:
        return _AsyncioWaiter(self._loop)

    def current_task(self) -> object:
        return asyncio.current_task(self._loop)

    def close(self) -> None:
        self._closed = True
        for sock in list(self._readers):
            self.remove_reader(sock)
        self._sockets.close()

    def _invoke(self, callback: _Callback) -> None:
        if not self._closed:
            _run(callback)


class _TrioWaiter:
    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def wake(self) -> None:
        task = self._task
        if task is not None:
            from trio.lowlevel import reschedule

            self._task = None
            reschedule(task)

    async def wait(self) -> None:
        from trio.lowlevel import Abort, current_task, wait_task_rescheduled

        def abort(_: RaiseCancelT) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        self._task = current_task()
        await wait_task_rescheduled(abort)


class _TrioTimer:
    __slots__ = ("_reactor", "callback")

    def __init__(self, reactor: _TrioReactor, callback: _Callback) -> None:
        self._reactor = reactor
        self.callback: _Callback | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._reactor.timer_cancelled()


class _TrioReactor(Reactor):
    def __init__(self, task_group: TaskGroup) -> None:
        import trio

        self._token: Any = trio.lowlevel.current_trio_token()
        self._clock: Callable[[], float] = trio.current_time
        self._scope = anyio.CancelScope(shield=True)
        self._waiter = _TrioWaiter()
        self._soon: deque[_Callback] = deque()
        self._timers: list[tuple[float, int, _TrioTimer]] = []
        self._alarm = trio.CancelScope()
        self._cancelled_timers = 0
        self._serial = itertools.count()
        self._sockets = _SocketTasks(task_group)
        task_group.start_soon(spare_ctrl_c(self._pump), name="aster reactor")

    def now(self) -> float:
        return self._clock()

    def call_soon(self, callback: _Callback) -> None:
        self._soon.append(callback)
        self._waiter.wake()

    def call_soon_threadsafe(self, callback: _Callback) -> None:
        import trio

        try:
            self._token.run_sync_soon(self.call_soon, callback)
        except trio.RunFinishedError:
            return  # the loop has ended, and with it all that could have been told

    def call_at(self, when: float, callback: _Callback) -> TimerHandle:
        timer = _TrioTimer(self, callback)
        earlier = not self._timers or when < self._timers[0][0]
        heapq.heappush(self._timers, (when, next(self._serial), timer))
        if earlier:
            self._alarm.deadline = when
        return timer

    def timer_cancelled(self) -> None:
        """Keep the heap in proportion: thousands of calls a second each set a deadline that almost none of them reaches."""
        self._cancelled_timers += 1
        if self._cancelled_timers > _CANCELLED_TIMERS_KEPT and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def add_reader(self, sock: socket.socket, callback: _Callback) -> None:
        self._sockets.add(sock, callback)

    def remove_reader(self, sock: socket.socket) -> None:
        self._sockets.remove(sock)

    def waiter(self) -> Waiter:
        return _TrioWaiter()

    def current_task(self) -> object:
        from trio.lowlevel import current_task

        return current_task()

    def close(self) -> None:
        self._scope.cancel()
        self._soon.clear()
        self._timers.clear()
        self._sockets.close()

    async def _pump(self) -> None:
        import trio

        with self._scope:
            while True:
                # One scope serves many waits, which a scope each would make dearer by a tenth; it is made anew when its deadline has passed.
                with trio.CancelScope() as self._alarm:
                    while True:
                        await self._wait_for_work()
                        self._run_due()
                self._run_due()

    async def _wait_for_work(self) -> None:
        from trio.lowlevel import cancel_shielded_checkpoint

        if self._soon:
            await cancel_shielded_checkpoint()
        else:
            self._alarm.deadline = self._timers[0][0] if self._timers else math.inf
            await self._waiter.wait()

    def _run_due(self) -> None:
        # Only what is due now: a callback that schedules another lets the other tasks run first, as asyncio does.
        for _ in range(len(self._soon)):
            if self._soon:
                _run(self._soon.popleft())
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                _run(callback)
            elif self._cancelled_timers:
                self._cancelled_timers -= 1
