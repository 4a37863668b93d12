"""The transports of the package keep the contract that ``check_transport`` holds others to, and it notices one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aster._reactor import Reactor
from aster.testing import TRANSPORT_CHECKS, check_transport
from aster.testing.recorders import StreamRecorder, open_pair
from aster.testing.transports import TransportCheck
from aster.transports.base import Connection, ConnectionHandler, ConnectionOptions, Transport, checked_transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_memory_keeps_the_contract(check: TransportCheck) -> None:
    await check(MemoryTransport)


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
async def test_check_transport_passes(make_transport: Callable[[], Transport]) -> None:
    await check_transport(make_transport)


def _fail_after(record: Callable[[Any], None]) -> Callable[[Any], None]:
    """An owner's callback with a bug."""

    def fail(value: object) -> None:
        record(value)
        raise RuntimeError("a bug")

    return fail


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
async def test_an_owner_that_fails_when_told_of_the_loss_leaves_nobody_untold(
    make_transport: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pair(make_transport) as pair:
        first, second = pair.open(), pair.open()
        for stream in (first, second):
            stream.write(b"x")
        await pair.until(lambda: len(pair.server.streams) == 2, "the streams arrived")
        for owner in (pair.client, pair.server):
            monkeypatch.setattr(owner.streams[0], "connection_lost", _fail_after(owner.streams[0].connection_lost))
        pair.client.connection.close()
        await pair.until(lambda: pair.client.lost and pair.server.lost, "both owners were told")
        assert second.lost
        assert pair.server.streams[1].lost
    assert caplog.text.count("internal error in the owner of a lost connection") == 2


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
async def test_an_owner_that_fails_ends_its_connection_at_both_ends_and_no_other(
    make_transport: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    def fail_at_bugs(stream: StreamRecorder, data: bytes) -> None:
        if data == b"bug":
            raise RuntimeError("a bug")

    async with open_pair(make_transport, on_data=fail_at_bugs) as pair:
        other = await pair.connect(identity=Identity.generate())
        for data in (b"bug", b"more"):
            pair.open().write(data)
        await pair.until(lambda: pair.client.lost and pair.server.lost, "both owners were told")
        assert "internal error" in str(pair.client.lost)
        pair.open(other).write(b"x")
        await pair.until(lambda: pair.accepted[1].streams and pair.accepted[1].streams[0].data, "the other connection is served")
    assert "a bug" in caplog.text


def test_a_transport_option_that_is_no_transport_is_named() -> None:
    transport = MemoryTransport()
    assert checked_transport(transport) is transport
    wrong: list[tuple[Any, str]] = [("quic", "not 'quic'"), (QuicTransport, "not QuicTransport")]
    for value, named in wrong:
        with pytest.raises(TypeError, match=f"transport must be an instance of a Transport, {named}; write QuicTransport"):
            checked_transport(value)


class _Gullible(MemoryTransport):
    """Takes whoever is there for who was meant."""

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        listener = self.listeners.get((address.host, address.port))
        if listener is not None:
            address = Address(listener.identity.endpoint_id, address.host, address.port)
        return await super().connect(address, identity=identity, handler=handler, reactor=reactor, options=options)


async def test_check_transport_notices_a_transport_that_accepts_a_wrong_key() -> None:
    with pytest.raises(AssertionError, match="IdentityError"):
        await check_transport(_Gullible)
