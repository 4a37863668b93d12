"""How a connection ends by itself, and how it is kept from that. What is measured in seconds is so on a clock that does not run by itself."""

from __future__ import annotations

import pytest

from aster.testing.recorders import HandlerRecorder, open_pair
from aster.transports.base import ConnectionOptions
from aster.transports.quic import QuicTransport
from tests.quic.virtual import DELAY, VirtualNetwork, connected_pair


def _silence(owner: HandlerRecorder) -> float:
    """How long the peer was silent by what the owner was told."""
    before, _, rest = str(owner.lost).partition("idle for ")
    assert before == "connection lost: ", owner.lost
    return float(rest.partition(" s, nothing came from the peer")[0])


def _lost_at(network: VirtualNetwork, *owners: HandlerRecorder) -> list[float]:
    """When each was told that its connection is lost."""
    times: list[float] = []
    for count in range(1, len(owners) + 1):
        network.run(condition=lambda count=count: sum(owner.lost is not None for owner in owners) >= count)
        times.append(network.now())
    return times


def test_a_silent_peer_is_lost_after_the_idle_timeout() -> None:
    network, pair, _, _ = connected_pair(ConnectionOptions(idle_timeout=3.0, keepalive=60.0))
    stream = pair.open()
    stream.write(b"x")
    network.run(until=network.now() + 1.0)
    assert pair.server.streams
    spoken_at = network.now() - 1.0
    for at in _lost_at(network, pair.client, pair.server):
        assert spoken_at + 3.0 <= at <= spoken_at + 3.0 + 5 * DELAY
    for owner in (pair.client, pair.server):
        assert 3.0 <= _silence(owner) < 3.1
    assert str(stream.lost) == str(pair.client.lost)


def test_keepalive_keeps_an_idle_connection() -> None:
    network, pair, _, _ = connected_pair(ConnectionOptions(idle_timeout=3.0, keepalive=2.0))
    network.run(until=network.now() + 3_600.0)
    assert pair.client.lost is None
    assert pair.server.lost is None


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 1.9, 2.005, 2.5])
@pytest.mark.parametrize("idle_timeout", [3.0, 30.0])
def test_a_peer_that_vanished_is_lost_no_later_than_idle_timeout_and_keepalive(after: float, idle_timeout: float) -> None:
    options = ConnectionOptions(idle_timeout=idle_timeout, keepalive=2.0)
    network, pair, client, server = connected_pair(options)
    pair.open().write(b"x")
    network.run(until=network.now() + after)
    client.unplugged = server.unplugged = True
    heard_at = network.now() + DELAY  # the last that could still arrive
    for at in _lost_at(network, pair.client, pair.server):
        assert at <= heard_at + options.idle_timeout + options.keepalive
    for owner in (pair.client, pair.server):
        assert _silence(owner) >= idle_timeout
        assert owner.connection.open_streams == 0


def test_a_report_that_nobody_listens_is_no_sign_of_life() -> None:
    options = ConnectionOptions(idle_timeout=3.0, keepalive=1.0)
    network, pair, client, server = connected_pair(options)
    pair.open().write(b"x")
    network.run(until=network.now() + 10.0)
    server.unplugged = client.refused = True  # as when the server's process is killed
    killed_at = network.now()
    [lost_at] = _lost_at(network, pair.client)
    assert lost_at <= killed_at + options.idle_timeout + options.keepalive
    rounding = 0.01
    assert lost_at - killed_at - rounding <= _silence(pair.client) <= lost_at - killed_at + options.keepalive + rounding


@pytest.mark.anyio
async def test_the_end_of_a_stream_leaves_by_itself() -> None:
    async with open_pair(QuicTransport) as pair:
        stream = pair.open()
        stream.write(b"x")
        await pair.settle()
        stream.finish()
        await pair.until(lambda: pair.server.streams[0].ending, "the end arrived")


@pytest.mark.anyio
async def test_bulk_is_exact_with_datagrams_for_the_internet() -> None:
    async with open_pair(lambda: QuicTransport(1_200), on_data=lambda stream, data: stream.write(data)) as pair:
        stream = pair.open()
        content = bytes(range(256)) * 4_000
        stream.write(content)
        await pair.until(lambda: len(stream.data) == len(content), "everything came back")
        assert bytes(stream.data) == content
