"""How a connection ends by itself, and how it is kept from that. In real time, since the sockets and the engine's clock are what is tested; none of it
depends on how fast the machine is, only on nothing taking ten seconds."""

from __future__ import annotations

import anyio
import pytest
from aioquic.quic.events import HandshakeCompleted

from aster.testing.recorders import open_pair
from aster.transports.base import ConnectionOptions
from aster.transports.quic import QuicTransport
from aster.trust import Identity
from tests.quic.raw import RawPeer, raw_configuration

pytestmark = pytest.mark.anyio


async def test_a_silent_peer_is_lost_after_the_idle_timeout() -> None:
    async with open_pair(QuicTransport, options=ConnectionOptions(idle_timeout=0.3, keepalive=60.0)) as pair:
        stream = pair.open()
        stream.write(b"x")
        await pair.until(lambda: pair.client.lost and pair.server.lost, "both ends noticed")
        for error in (pair.client.lost, pair.server.lost, stream.lost):
            assert "idle for 0." in str(error)


async def test_keepalive_keeps_an_idle_connection() -> None:
    async with open_pair(QuicTransport, options=ConnectionOptions(idle_timeout=0.4, keepalive=0.1)) as pair:
        await anyio.sleep(1.0)  # several idle timeouts
        assert pair.client.lost is None
        assert pair.server.lost is None


async def test_a_peer_that_vanished_is_lost_no_later_than_idle_timeout_and_keepalive() -> None:
    async with open_pair(QuicTransport, connect=False, options=ConnectionOptions(idle_timeout=0.3, keepalive=0.2)) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port))
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: pair.accepted and raw.seen(HandshakeCompleted))
        finally:
            raw.close()  # without a word
        await pair.until(lambda: pair.server.lost, "the loss was noticed")
        assert "idle for" in str(pair.server.lost)
        assert pair.server.connection.open_streams == 0


async def test_the_end_of_a_stream_leaves_by_itself() -> None:
    async with open_pair(QuicTransport) as pair:
        stream = pair.open()
        stream.write(b"x")
        await pair.settle()
        stream.finish()
        await pair.until(lambda: pair.server.streams[0].ending, "the end arrived")


async def test_bulk_is_exact_with_datagrams_for_the_internet() -> None:
    async with open_pair(lambda: QuicTransport(1_200), on_data=lambda stream, data: stream.write(data)) as pair:
        stream = pair.open()
        content = bytes(range(256)) * 4_000
        stream.write(content)
        await pair.until(lambda: len(stream.data) == len(content), "everything came back")
        assert bytes(stream.data) == content
