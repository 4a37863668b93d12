"""Streams of messages as callers and handlers see them: what a call returns, and what a caller may give."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio.lowlevel

from aster.types import Metadata

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn, Self

__all__ = ["LocalResponseStream", "RequestIterator", "ResponseStream", "refuse_function"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ResponseStream(AsyncIterator[T_co]):
    """The responses of one call: an async iterator, and an async context manager that ends the call.

    ::

        async with tasks.watch_tasks(request) as updates:
            async for update in updates:
                ...

    Inside its ``async with`` block a ``break`` only pauses the iteration, which a later ``async for`` goes on with; the end of the block cancels the call.
    Iterating without the block is fine when the stream is read to its end.
    """

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> T_co:
        """The next response.

        Raises:
            StopAsyncIteration: the call ended well.
            RpcError: the call failed; the responses that came before have all been given.
            Exception: what the request iterable raised.
            BusyResourceError: another task is waiting for the next response.
            ClosedResourceError: the stream was closed.

        Cancellation ends the call, and reaches the handler; inside the stream's ``async with`` block it loses nothing, and the block's end ends the call.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the call, whatever is still to come, and wait, shielded, until the request iterable is closed. Closing again, or after the end, does nothing.

        Raises:
            Exception: what the request iterable raised, unless the stream has raised it before.
        """

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """What the handler sent ahead of its first response; empty until it has arrived."""

    @property
    @abstractmethod
    def trailers(self) -> Metadata:
        """What the handler sent after its last response; empty until it has arrived."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    _label: str = "this method"

    if not TYPE_CHECKING:
        # Type checkers refuse these for want of the methods; whoever uses none hears what to write.
        def __await__(self) -> NoReturn:
            self._misused("async for response in ...{}(...)")

        def __iter__(self) -> NoReturn:
            self._misused("async for response in ...{}(...)")

        def __enter__(self) -> NoReturn:
            self._misused("async with ...{}(...) as responses")

        def __exit__(self, *_: object) -> None: ...

        def _misused(self, statement: str) -> NoReturn:
            raise TypeError(f"{self._label} streams its responses: write '{statement.format(self._label.rpartition('.')[2])}'")


class LocalResponseStream(ResponseStream[T]):
    """The responses of a streaming handler that was called directly, without RPC.

    The handler's async generator runs in the task that iterates, so its exceptions and its cancellation are the caller's own. Like any async generator it wants
    to be read to its end or closed. There is no call, and so no metadata.
    """

    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        self._generator = generator
        self._label = getattr(generator, "__qualname__", self._label).rpartition("<locals>.")[2]

    async def __anext__(self) -> T:
        return await anext(self._generator)

    async def aclose(self) -> None:
        await self._generator.aclose()

    @property
    def metadata(self) -> Metadata:
        return Metadata()

    @property
    def trailers(self) -> Metadata:
        return Metadata()


def refuse_function(requests: object, method: str) -> None:
    """Refuse a generator function in place of what it gives when it is called.

    Raises:
        TypeError: it is one; the message names ``method``.
    """
    if inspect.isasyncgenfunction(requests) or inspect.isgeneratorfunction(requests):
        name = getattr(requests, "__name__", "requests")
        raise TypeError(f"{method} takes a stream of requests, not the function {name} that makes one: call it: {name}()")


class RequestIterator(AsyncIterator[T], Generic[T]):
    """Plain values as the async iterator that a handler expects. Each step is a checkpoint, as reading from a peer would be.

    A class rather than an async generator, since nobody would close the generator when a handler returns early.
    """

    def __init__(self, values: Iterable[T]) -> None:
        self._values: Iterator[T] = iter(values)

    async def __anext__(self) -> T:
        await anyio.lowlevel.checkpoint()
        for value in self._values:
            return value
        raise StopAsyncIteration

    @classmethod
    def of(cls, requests: Iterable[T] | AsyncIterable[T], method: str) -> AsyncIterator[T]:
        """``requests`` as an async iterator, whichever kind it is.

        Raises:
            TypeError: it is neither; the message names ``method``.
        """
        if isinstance(requests, AsyncIterable):
            return aiter(requests)
        refuse_function(requests, method)
        if isinstance(requests, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            return cls(requests)
        raise TypeError(
            f"{method} takes a stream of requests, any iterable or async iterable of them, not {type(requests).__name__}; for a single one pass [request]"
        )
