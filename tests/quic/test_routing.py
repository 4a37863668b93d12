"""Packets find their connection by the ids in them, not by the address that they come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from aster.testing.recorders import HandlerRecorder, TransportPair, open_pair
from aster.transports.quic import QuicTransport
from aster.transports.quic.connection import QuicConnection
from aster.transports.quic.listener import QuicListener, ServerConnection
from aster.trust import Address, Identity
from tests.quic.raw import Translator, translated

pytestmark = pytest.mark.anyio


async def _echoes(pair: TransportPair, owner: HandlerRecorder, data: bytes) -> None:
    stream = pair.open(owner)
    stream.write(data)
    stream.finish()
    await pair.until(lambda: bytes(stream.data) == data, "the client was served")


@asynccontextmanager
async def _pair_behind_a_translator() -> AsyncGenerator[tuple[TransportPair, Translator]]:
    async with (
        open_pair(QuicTransport, connect=False, on_data=lambda stream, data: stream.write(data)) as pair,
        translated(pair.listener.host, pair.listener.port) as translator,
    ):
        yield pair, translator


def _through(pair: TransportPair, port: int) -> Address:
    return Address(pair.server_identity.endpoint_id, "127.0.0.1", port)


async def test_a_client_whose_address_changes_keeps_its_connection() -> None:
    async with _pair_behind_a_translator() as (pair, translator):
        owner = await pair.connect(address=_through(pair, translator.open()))
        await _echoes(pair, owner, b"before")
        for _ in range(3):
            translator.rebind()
            await _echoes(pair, owner, b"after")
        await _echoes(pair, owner, b"much" * 50_000)
        assert owner.lost is None
        assert len(pair.accepted) == 1, "it is one connection all along"
        assert translator.passed_on_last > 0, "the way back is the new one"


async def test_two_clients_behind_one_address_are_told_apart() -> None:
    async with _pair_behind_a_translator() as (pair, translator):
        identities = Identity.generate(), Identity.generate()
        owners = [await pair.connect(address=_through(pair, translator.open()), identity=identity) for identity in identities]
        for number in range(5):
            for name, owner in zip((b"one", b"two"), owners, strict=True):
                await _echoes(pair, owner, name * (number + 1))
        translator.rebind()
        for name, owner in zip((b"one", b"two"), owners, strict=True):
            await _echoes(pair, owner, name)
        assert [owner.connection.peer.endpoint_id for owner in pair.accepted] == [identity.endpoint_id for identity in identities]
        assert [len(owner.streams) for owner in pair.accepted] == [6, 6]


async def test_an_id_that_was_issued_later_reaches_the_connection_and_a_retired_one_does_not() -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        client, server, listener = pair.client.connection, pair.server.connection, pair.listener
        assert isinstance(client, QuicConnection)
        assert isinstance(server, ServerConnection)
        assert isinstance(listener, QuicListener)
        await _echoes(pair, pair.client, b"before")
        seen = set(server.ids)
        for _ in range(10):  # more than are issued at first
            in_use = vars(client.engine)["_peer_cid"].cid
            client.engine.change_connection_id()
            assert vars(client.engine)["_peer_cid"].cid != in_use, "there is another id"
            await _echoes(pair, pair.client, b"after")
            await pair.until(lambda in_use=in_use: in_use not in server.ids, "the old id was retired")
            seen |= server.ids
        routes = vars(listener)["_routes"]
        assert {key for key, value in routes.items() if value is server} == server.ids
        assert len(seen) > 10
        assert len(server.ids) < 12, "retired ids are forgotten"
