"""Who calls and who is called has proved it: no handler runs for anybody else, and each sees the id of its own caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aioquic.quic.events import StreamDataReceived

import aster
from aster import Identity, IdentityError
from aster._protocol.events import Hello
from aster._protocol.frames import encode_hello, encode_message
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from aster.transports.base import Transport
from aster.transports.quic import QuicTransport
from aster.transports.quic.certificates import certificate_for
from aster.trust import Address
from tests.quic.raw import RawPeer, ec_credentials, raw_configuration
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import Endless
from tests.rpc.raw import CLIENT_SETTINGS, END, header_of

pytestmark = pytest.mark.anyio


class WhoCalls(Echo):
    """Answers with the id of its caller, at the beginning and after others have had their turns."""

    def _caller(self) -> Item:
        return Item(text=aster.current_call().peer.endpoint_id)

    @rpc
    async def same(self, item: Item) -> Item:
        first = self._caller()
        await anyio.lowlevel.checkpoint()
        assert self._caller() == first
        return first

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for _ in range(3):
            yield self._caller()
            await anyio.lowlevel.checkpoint()

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        async for _ in items:
            await anyio.lowlevel.checkpoint()
        return self._caller()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for _ in items:
            yield self._caller()


async def test_each_handler_sees_the_id_of_its_own_caller_whoever_else_calls(transport: Transport) -> None:
    identities = [Identity.generate() for _ in range(4)]
    seen: dict[str, set[str]] = {}

    async def call(client: aster.AsterClient) -> None:
        echo = await client.client(Echo)
        ids = seen.setdefault(client.endpoint_id, set())
        for _ in range(5):
            ids.add((await echo.same(Item())).text)
            ids |= {item.text async for item in echo.count(Item())}
            ids.add((await echo.total([Item(), Item()])).text)
            ids |= {item.text async for item in echo.chat([Item(), Item()])}

    async def run(identity: Identity) -> None:
        async with aster.connect(server.address, transport=transport, identity=identity) as client:
            assert client.endpoint_id == identity.endpoint_id
            async with anyio.create_task_group() as calls:
                for _ in range(3):
                    calls.start_soon(call, client)

    async with aster.serve([WhoCalls()], transport=transport) as server, anyio.create_task_group() as group:
        for identity in identities:
            group.start_soon(run, identity)
    assert seen == {identity.endpoint_id: {identity.endpoint_id} for identity in identities}


async def test_a_client_that_comes_back_with_another_key_is_another_caller(transport: Transport) -> None:
    async with aster.serve([WhoCalls()], transport=transport) as server:
        first, second = Identity.generate(), Identity.generate()
        for identity in (first, second, first):
            async with aster.connect(server.address, transport=transport, identity=identity) as client:
                assert (await (await client.client(Echo)).same(Item())).text == identity.endpoint_id


async def test_a_server_with_another_key_than_was_expected_hears_no_call(running: Running, transport: Transport) -> None:
    endless, expected = Endless(), Identity.generate().endpoint_id
    async with running(endless) as (server, client):
        address = server.address.replace(server.endpoint_id, expected)
        with pytest.raises(IdentityError, match=f"proved {server.endpoint_id}, where {expected} was expected"):
            async with aster.connect(address, transport=transport, connect_timeout=3600):
                raise AssertionError("a client of an impostor")
        assert client.endpoint_id not in (server.endpoint_id, expected)
    assert endless.witness.began == 0


# Certificates, which only QUIC has


def _another_key() -> dict[str, Any]:
    """A certificate over somebody else's key, which its owner does not hold."""
    return {"identity": Identity.generate(), "certificate": certificate_for(Identity.generate())}


CLIENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "no certificate": dict,
    "a certificate over another kind of key": ec_credentials,
    "a certificate over a key that is not its own": _another_key,
}


@pytest.mark.parametrize("who", CLIENTS)
async def test_a_client_that_proves_no_key_of_its_own_is_refused_and_no_handler_runs_for_it(who: str) -> None:
    endless, transport = Endless(), QuicTransport()
    async with aster.serve([endless], transport=transport) as server, aster.connect(server.address, transport=transport) as honest:
        address = Address.parse(server.address)
        with closing(RawPeer(raw_configuration(is_client=True, **CLIENTS[who]()), (address.host, address.port))) as peer:
            # Hello and a call leave with the end of its handshake, and so ahead of the server's word on it.
            peer.engine.send_stream_data(0, encode_hello(Hello((1,), CLIENT_SETTINGS)))
            peer.engine.send_stream_data(4, header_of("total") + encode_message(b"") + END)
            await peer.run(lambda: peer.closed)
        assert peer.closed is not None
        assert not peer.seen(StreamDataReceived), "it was told nothing"
        assert endless.witness.began == 0
        assert await (await honest.client(Echo)).nothing(Nothing()) == Nothing()


def _borrowed(expected: Identity) -> dict[str, Any]:
    """The certificate that clients expect, which is public, and a key of one's own."""
    return {"identity": Identity.generate(), "certificate": certificate_for(expected)}


def _of_another_kind(expected: Identity) -> dict[str, Any]:
    return ec_credentials()


def _of_another(expected: Identity) -> dict[str, Any]:
    return {"identity": Identity.generate()}


IMPOSTORS: dict[str, tuple[Callable[[Identity], dict[str, Any]], str]] = {
    "borrowed": (_borrowed, "did not prove that it holds the key of the certificate that it showed"),
    "of another kind": (_of_another_kind, "proved no Ed25519 key, where"),
    "of another": (_of_another, "proved [0-9a-f]{64}, where"),
}


@pytest.mark.parametrize(("credentials", "says"), IMPOSTORS.values(), ids=list(IMPOSTORS))
async def test_a_server_that_does_not_prove_the_key_of_its_address_is_an_identity_error_at_once(
    credentials: Callable[[Identity], dict[str, Any]], says: str
) -> None:
    expected = Identity.generate()
    async with anyio.create_task_group() as group:
        with closing(RawPeer(raw_configuration(is_client=False, **credentials(expected)))) as impostor:
            group.start_soon(impostor.run, lambda: False)
            with pytest.raises(IdentityError, match=says):
                async with aster.connect(f"aster://{expected.endpoint_id}@127.0.0.1:{impostor.port}", connect_timeout=3600):
                    raise AssertionError("a client of an impostor")
            assert not impostor.seen(StreamDataReceived), "it was told nothing"
            group.cancel_scope.cancel()
