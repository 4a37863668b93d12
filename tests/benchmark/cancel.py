"""``python -m tests.benchmark.cancel``: how long a cancellation takes from the caller to the handler, beside a reset of the bare engine's.

Both ends are in one process, which has one clock. A cancelled call is timed from ``scope.cancel()`` to the first line of its handler's ``except``; a reset of
a stream of Aster's QUIC transport, with no RPC on top, from ``Stream.reset`` to ``StreamSink.was_reset``. They take turns, so that what else the machine does
meets both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import perf_counter

import anyio
import anyio.lowlevel

import aster
from aster._reactor import open_reactor
from aster.decorators import rpc, service
from aster.transports.base import Connection, ConnectionOptions, Stream, StreamSink
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity
from tests.benchmark.over_aster import Tiny
from tests.benchmark.over_quic import IgnoringHandler, IgnoringSink

__all__ = ["main"]

_Measurement = Callable[[], Awaitable[float]]
"""One cancellation: the seconds that it took."""


@service("Hanging")
class _Hanging:
    """Hangs until it is cancelled, and notes when that was."""

    def __init__(self) -> None:
        self.running = anyio.Event()
        self.cancelled = anyio.Event()
        self.cancelled_at = 0.0

    @rpc
    async def hang(self, request: Tiny) -> Tiny:
        self.running.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled_at = perf_counter()
            self.cancelled.set()
            raise
        return request


@asynccontextmanager
async def _calls() -> AsyncGenerator[_Measurement]:
    hosted = _Hanging()
    async with aster.serve([hosted]) as server, aster.connect(server.address) as client:
        stub = await client.client(_Hanging)

        async def measure() -> float:
            hosted.running, hosted.cancelled, began = anyio.Event(), anyio.Event(), 0.0
            async with anyio.create_task_group() as group:
                group.start_soon(stub.hang, Tiny())
                await hosted.running.wait()
                began = perf_counter()
                group.cancel_scope.cancel()
            await hosted.cancelled.wait()
            return hosted.cancelled_at - began

        yield measure


class _Resets(IgnoringSink):
    """The server's end of a stream of the bare engine."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.heard, self.reset, self.reset_at = anyio.Event(), anyio.Event(), 0.0

    def data_received(self, data: bytes) -> None:
        self.heard.set()

    def was_reset(self, code: int) -> None:
        self.reset_at = perf_counter()
        self.reset.set()
        self._stream.reset(code)


class _Accepts(IgnoringHandler):
    def __init__(self) -> None:
        self.opened = list[_Resets]()

    def stream_opened(self, stream: Stream) -> StreamSink:
        self.opened.append(_Resets(stream))
        return self.opened[-1]


@asynccontextmanager
async def _streams() -> AsyncGenerator[_Measurement]:
    accepts, identity, options = _Accepts(), Identity.generate(), ConnectionOptions()

    def accept(connection: Connection) -> _Accepts:
        return accepts

    async with anyio.create_task_group() as group:
        reactor, transport = open_reactor(group), QuicTransport()
        listener = await transport.listen("127.0.0.1", 0, identity=identity, accept=accept, reactor=reactor, options=options)
        address = Address(identity.endpoint_id, "127.0.0.1", listener.port)
        connection = await transport.connect(address, identity=Identity.generate(), handler=IgnoringHandler(), reactor=reactor, options=options)

        async def measure() -> float:
            stream = connection.open_stream(IgnoringSink())
            stream.write(bytes(60))
            while not accepts.opened:
                await anyio.lowlevel.checkpoint()
            opened = accepts.opened.pop()
            await opened.heard.wait()
            began = perf_counter()
            stream.reset(1)
            await opened.reset.wait()
            return opened.reset_at - began

        try:
            yield measure
        finally:
            connection.close()
            await listener.aclose()
            reactor.close()


async def _measure(calls: int) -> dict[str, list[float]]:
    async with _calls() as call, _streams() as stream:
        took: dict[str, list[float]] = {"call": [], "bare engine": []}
        for number in range(calls + calls // 5):
            for name, measure in (("call", call), ("bare engine", stream)):
                seconds = await measure()
                if number >= calls // 5:  # those before warm up
                    took[name].append(seconds)
        return took


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.cancel", description="Measure how long a cancellation takes from a caller to its handler.")
    parser.add_argument("--calls", type=int, default=1_000, help="how many are measured on each backend (default: 1000)")
    options = parser.parse_args(arguments)
    if options.calls < 2:
        parser.error(f"--calls must be 2 or more, not {options.calls}")
    print(f"{'milliseconds':24}{'median':>10}{'95 %':>10}")
    for backend in ("asyncio", "trio") if importlib.util.find_spec("trio") is not None else ("asyncio",):
        for name, took in anyio.run(_measure, options.calls, backend=backend).items():
            print(f"{f'{name}, {backend}':24}{statistics.median(took) * 1e3:10.3f}{statistics.quantiles(took, n=20)[-1] * 1e3:10.3f}")


if __name__ == "__main__":
    main()
