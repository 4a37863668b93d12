"""The task that sends what a caller gave as a stream of requests."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import Any, Protocol

import anyio

from aster._protocol.events import ResetCode
from aster._tasks import StartedTask, outlast

__all__ = ["PumpedCall", "RequestPump", "close_requests", "log_error_of_requests"]

logger = logging.getLogger("aster")

_PUMPS: ContextVar[tuple[object, ...]] = ContextVar("aster_request_iterables", default=())
"""The request iterables inside which this task runs, each by its pump. One that closes its own call must not wait for itself."""


class PumpedCall(Protocol):
    """What a pump needs of its call."""

    async def send_request(self, request: Any) -> bool:
        """Encode and send one; false when the call has ended and takes no more."""
        ...

    def end_requests(self) -> None:
        """No more requests follow."""
        ...

    def cancel(self, code: ResetCode) -> None:
        """End the call."""
        ...


class RequestPump:
    """Sends what an iterable yields, then ends the requests; whatever happens once it has begun, it closes the iterable.

    Args:
        call: where to send; an exception of the iterable cancels it.
        requests: any iterable or async iterable.
    """

    __slots__ = ("_call", "_ended", "_error", "_label", "_requests", "_task")

    def __init__(self, call: PumpedCall, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._call = call
        self._requests = requests
        self._ended = anyio.Event()
        self._error: BaseException | None = None
        self._label: str
        self._task: StartedTask

    def start(self, spawn: Callable[[Callable[[], Coroutine[Any, Any, None]], str], StartedTask], label: str) -> None:
        """Begin, in the task that ``spawn`` makes. ``label``: how messages to people name the call."""
        self._label = label
        self._task = spawn(self._run, f"aster requests of {label}")

    async def _run(self) -> None:
        _PUMPS.set((*_PUMPS.get(), self))
        try:
            await self._send_all()
        finally:
            self._over()

    def _over(self) -> None:
        # The call knows its pump: a pump that knew its call for longer would leave both to the garbage collector.
        del self._call, self._requests
        self._ended.set()

    async def _send_all(self) -> None:
        try:
            async with _closing(self._requests) as items:
                async for item in items:
                    if not await self._call.send_request(item):
                        return
            self._call.end_requests()
        except anyio.get_cancelled_exc_class() as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Nothing here is cancelled: the iterable raised this by itself, perhaps for a task that it awaited.
            self._failed(exc)
        except BaseExceptionGroup as exc:
            # A task group of the iterable's; on trio failures and cancellation come together, and only the failures are the caller's to see.
            _, failures = exc.split(anyio.get_cancelled_exc_class())
            if failures is None and anyio.current_effective_deadline() > -math.inf:
                failures = exc  # raised by hand, as above
            elif not isinstance(failures, Exception):
                raise
            self._failed(failures)
        except (Exception, GeneratorExit) as exc:
            self._failed(exc)

    def _failed(self, error: BaseException) -> None:
        self._error = error
        self._call.cancel(ResetCode.CANCELLED)

    def cancel(self) -> None:
        """Stop the iterable soon; without effect once it is closed."""
        self._task.cancel(self._over)

    async def stop(self) -> BaseException | None:
        """Stop the iterable and wait, whatever is cancelled meanwhile, until it is closed. Inside of it there is no waiting for it.

        Returns:
            What it raised, to the first who asks.
        """
        self.cancel()
        if self not in _PUMPS.get():
            try:
                await outlast(self._ended)
            except BaseException:
                log_error_of_requests(self._label, self._error)
                raise
        error, self._error = self._error, None
        return error


def log_error_of_requests(label: str, error: BaseException | None) -> None:
    """Log what an iterable raised, if anything, that goes to nobody else: its caller has something of its own to raise, mostly cancellation."""
    if error is not None:
        logger.info("the requests of %s raised while their call was ended early", label, exc_info=error)


async def close_requests(requests: Iterable[Any] | AsyncIterable[Any], label: str, because: BaseException | None = None) -> None:
    """Close what a caller gave as requests for a call that never began, ``because`` of what it raised: if that is no ``Exception``, what the iterable
    raises is logged as that of ``label``.
    """
    try:
        async with _closing(requests):
            pass
    except Exception as exc:
        if because is None or isinstance(because, Exception):
            raise
        log_error_of_requests(label, exc)


class _closing:
    """Iterates what a caller gave as requests, and closes it: ``aclose`` or ``close``, if it has one, however the iteration ended."""

    def __init__(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._requests = requests
        self._iterator: Any = None

    async def __aenter__(self) -> AsyncIterator[Any]:
        if isinstance(self._requests, AsyncIterable):
            self._iterator = aiter(self._requests)
            return self._iterator
        self._iterator = iter(self._requests)
        return _steps(self._iterator)

    async def __aexit__(self, *_: object) -> None:
        close: Any = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()
        elif (close := getattr(self._iterator, "close", None)) is not None:
            close()


class _steps:
    """A plain iterator as an async one."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _steps:
        return self

    async def __anext__(self) -> Any:
        for item in self._iterator:
            return item
        raise StopAsyncIteration
