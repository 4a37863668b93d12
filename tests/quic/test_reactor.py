"""What a connection asks of its loop: callbacks for sockets where the loop has none, and one flush for whatever arrives together."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from aster.testing.recorders import StreamRecorder, open_pair
from aster.transports.base import ConnectionOptions
from aster.transports.quic import QuicTransport
from aster.transports.quic.connection import QuicConnection
from aster.transports.quic.engine import Engine
from tests.quic.virtual import connected_pair
from tests.transport_harness import nothing_left_behind


class _WithoutReaders(asyncio.SelectorEventLoop):
    """A loop such as Windows' default one, which has no callbacks for sockets. AnyIO then waits for them in a thread of its own."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def remove_reader(self, fd: Any) -> bool:
        raise NotImplementedError


def _answer_and_finish(stream: StreamRecorder, data: bytes) -> None:
    stream.write(b"answer")
    stream.finish()


def test_a_loop_without_callbacks_for_sockets_serves_and_connects() -> None:
    async def main() -> None:
        async with open_pair(QuicTransport):
            pass  # AnyIO's thread and its two sockets are there from the first wait on
        async with nothing_left_behind(), open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
            other = await pair.connect()
            for owner in (pair.client, other):
                stream = pair.open(owner)
                stream.write(b"x" * 100_000)
                await pair.until(lambda stream=stream: len(stream.data) == 100_000, "the client was served")

    anyio.run(main, backend_options={"loop_factory": _WithoutReaders})


def test_what_arrives_together_is_answered_in_one_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pair, _, server = connected_pair(ConnectionOptions(), on_data=lambda stream, data: stream.write(data))
    network.run(until=network.now() + 1.0)
    flushes: list[Engine] = []
    collect = Engine.datagrams_to_send

    def count(self: Engine, now: float) -> list[tuple[bytes, Any]]:
        flushes.append(self)
        return collect(self, now)

    streams = [pair.open() for _ in range(50)]
    for stream in streams:
        stream.write(b"x" * 200)
    reader, server.reader = server.reader, None
    network.run(until=network.now() + 0.5)
    assert reader is not None
    assert len(server.received) > 5, "several datagrams wait"
    monkeypatch.setattr(Engine, "datagrams_to_send", count)
    at = network.now()
    reader()
    network.run(until=at)
    assert len(pair.server.streams) == 50
    assert len(flushes) == 1
    server.reader = reader
    network.run(condition=lambda: all(len(stream.data) == 200 for stream in streams))


@pytest.mark.parametrize(
    "late",
    [
        StreamDataReceived(data=b"late", end_stream=False, stream_id=0),
        StreamDataReceived(data=b"", end_stream=True, stream_id=0),
        StreamReset(error_code=5, stream_id=0),
        StopSendingReceived(error_code=5, stream_id=0),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("at_client", [False, True])
def test_a_late_event_of_a_stream_that_has_ended_starts_nothing(late: QuicEvent, at_client: bool) -> None:
    network, pair, _, _ = connected_pair(ConnectionOptions(), on_data=_answer_and_finish)
    ended, other = pair.open(), pair.open()
    for stream in (ended, other):
        stream.write(b"ask")
        stream.finish()
    network.run(condition=lambda: ended.ending and other.ending and not pair.server.connection.open_streams)
    owner = pair.client if at_client else pair.server
    connection = owner.connection
    assert isinstance(connection, QuicConnection)
    assert ended.stream.id == 0
    connection.engine.event_queue.append(late)
    pair.open().write(b"ask")
    network.run(until=network.now() + 1.0)
    assert not connection.engine.event_queue, "the event was looked at"
    assert len(owner.streams) == 3
    assert bytes(owner.streams[0].data) == (b"answer" if at_client else b"ask")
    assert owner.streams[0].ending == "finished"
    assert owner.streams[0].stopped is None
    assert owner.lost is None
    assert not pair.watch.violations
