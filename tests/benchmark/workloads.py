"""What is measured, for whoever carries the calls."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio

__all__ = ["TINY", "WORKLOADS", "Calls", "Contender", "Duration", "Unary", "Workload"]

TINY = 32
"""Bytes of a tiny message's content, before whatever a codec and a protocol add."""

_BULK = 65_536
_AT_ONCE = 64
_STREAM = 2_000
_BULK_STREAM = 50
"""Messages of one stream: enough that opening it does not count."""

Unary = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """A client's calls. Streams are ``None`` where there are none.

    Attributes:
        unary: one tiny request, one tiny response.
        watch: receive so many tiny messages from the server.
        upload: send so many messages of so many bytes.
    """

    unary: Unary
    watch: Callable[[int], Awaitable[object]] | None = None
    upload: Callable[[int, int], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who carries calls.

    Attributes:
        name: how the table and ``--only`` call it.
        backend: the event loop that it runs on.
        serve: starts a server on loopback, and gives its address.
        connect: gives the calls of a client of the server at an address.
        streams: whether it has streams of messages.
    """

    name: str
    backend: str
    serve: Callable[[], AbstractAsyncContextManager[str]]
    connect: Callable[[str], AbstractAsyncContextManager[Calls]]
    streams: bool = True


@dataclass(frozen=True, slots=True)
class Duration:
    """How long to measure, and by which clock.

    Attributes:
        seconds: of that clock.
        clock: gives seconds since some moment.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to measure.

    Attributes:
        name: how the table and ``--only`` call it.
        run: does it for so long, at least once; returns calls or messages a second.
        streams: whether it needs streams of messages.
    """

    name: str
    run: Callable[[Calls, Duration], Awaitable[float]]
    streams: bool


class _Counter:
    """Counts what is done until the time is over."""

    def __init__(self, duration: Duration) -> None:
        self._clock = duration.clock
        self._began = self._clock()
        self._until = self._began + duration.seconds
        self._done = 0

    @property
    def goes_on(self) -> bool:
        return not self._done or self._clock() < self._until

    def add(self, count: int) -> None:
        self._done += count

    def rate(self) -> float:
        return self._done / (self._clock() - self._began)


async def _one_by_one(calls: Calls, counter: _Counter) -> None:
    while counter.goes_on:
        await calls.unary()
        counter.add(1)


async def _sequential(calls: Calls, duration: Duration) -> float:
    counter = _Counter(duration)
    await _one_by_one(calls, counter)
    return counter.rate()


async def _at_once(calls: Calls, duration: Duration) -> float:
    counter = _Counter(duration)
    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(_one_by_one, calls, counter)
    return counter.rate()


async def _server_stream(calls: Calls, duration: Duration) -> float:
    assert calls.watch is not None
    counter = _Counter(duration)
    while counter.goes_on:
        await calls.watch(_STREAM)
        counter.add(_STREAM)
    return counter.rate()


async def _upload(calls: Calls, duration: Duration, messages: int, size: int) -> float:
    assert calls.upload is not None
    counter = _Counter(duration)
    while counter.goes_on:
        await calls.upload(messages, size)
        counter.add(messages)
    return counter.rate()


async def _tiny_upload(calls: Calls, duration: Duration) -> float:
    return await _upload(calls, duration, _STREAM, TINY)


async def _bulk_upload(calls: Calls, duration: Duration) -> float:
    return await _upload(calls, duration, _BULK_STREAM, _BULK)


WORKLOADS = (
    Workload("sequential", _sequential, streams=False),
    Workload("64-at-once", _at_once, streams=False),
    Workload("server-stream", _server_stream, streams=True),
    Workload("upload", _tiny_upload, streams=True),
    Workload("upload-64kB", _bulk_upload, streams=True),
)
