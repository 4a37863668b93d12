"""Who may connect, who may be connected to, and what is said to those who may not."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, encode_quic_version_negotiation
from aioquic.tls import AlertDescription

from aster.errors import AddressError, IdentityError, IncompatiblePeerError, RefusedError, UnreachableError
from aster.testing.recorders import HandlerRecorder, TransportPair, open_pair
from aster.transports.base import Connection, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport, packets
from aster.transports.quic.certificates import certificate_for
from aster.trust import Address, Identity
from tests.quic.raw import Forwarder, RawPeer, ec_credentials, handshakes_at, raw_configuration
from tests.transport_harness import nothing_left_behind, open_sockets

pytestmark = pytest.mark.anyio


def _alert(description: AlertDescription) -> int:
    return QuicErrorCode.CRYPTO_ERROR + int(description)


async def _expect_refused(configuration: QuicConfiguration, code: int) -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        raw = RawPeer(configuration, ("127.0.0.1", pair.listener.port))
        try:
            # Data that leaves with the end of the handshake must not be looked at either.
            raw.engine.send_stream_data(0, b"let me in")
            with anyio.fail_after(10):
                await raw.run(lambda: raw.closed)
        finally:
            raw.close()
        assert raw.closed is not None
        assert raw.closed.error_code == code, raw.closed
        assert not raw.seen(StreamDataReceived)
        assert not pair.accepted
        await pair.connect()  # the listener serves others


async def test_a_client_without_a_certificate_is_refused_and_never_dispatched() -> None:
    await _expect_refused(raw_configuration(is_client=True), _alert(AlertDescription.certificate_required))


async def test_a_certificate_over_another_kind_of_key_is_refused() -> None:
    await _expect_refused(raw_configuration(is_client=True, **ec_credentials()), _alert(AlertDescription.certificate_required))


async def test_a_certificate_over_a_key_that_the_client_does_not_hold_is_refused() -> None:
    configuration = raw_configuration(is_client=True, identity=Identity.generate(), certificate=certificate_for(Identity.generate()))
    await _expect_refused(configuration, _alert(AlertDescription.decrypt_error))


async def test_another_protocol_is_refused() -> None:
    configuration = raw_configuration(is_client=True, identity=Identity.generate(), alpn_protocols=["h3"])
    await _expect_refused(configuration, _alert(AlertDescription.no_application_protocol))


async def test_no_protocol_at_all_is_refused() -> None:
    configuration = raw_configuration(is_client=True, identity=Identity.generate(), alpn_protocols=None)
    await _expect_refused(configuration, _alert(AlertDescription.no_application_protocol))


async def test_a_plain_client_with_a_certificate_is_served() -> None:
    identity = Identity.generate()
    async with open_pair(QuicTransport, connect=False, on_data=lambda stream, data: stream.write(data)) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=identity), ("127.0.0.1", pair.listener.port))
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: raw.seen(HandshakeCompleted))
                raw.engine.send_stream_data(0, b"hello")
                await raw.run(lambda: raw.seen(StreamDataReceived))
        finally:
            raw.close()
        assert pair.server.connection.peer.endpoint_id == identity.endpoint_id
        assert pair.server.connection.peer.address == f"127.0.0.1:{pair.server.connection.peer.address.rpartition(':')[2]}"


@asynccontextmanager
async def _raw_server(identity: Identity | None = None, **changes: Any) -> AsyncGenerator[tuple[Address, TransportPair]]:
    """A server of plain aioquic, and an Aster client for it."""
    identity = identity or Identity.generate()
    raw = RawPeer(raw_configuration(is_client=False, identity=identity, **changes))
    try:
        async with open_pair(QuicTransport, connect=False) as pair, anyio.create_task_group() as task_group:
            task_group.start_soon(raw.run, lambda: False)
            try:
                with anyio.fail_after(10):
                    yield Address(identity.endpoint_id, "127.0.0.1", raw.port), pair
            finally:
                task_group.cancel_scope.cancel()
    finally:
        raw.close()


async def test_a_server_with_another_key_is_an_identity_error_that_names_both_keys() -> None:
    async with _raw_server() as (address, pair):
        expected = Identity.generate().endpoint_id
        with pytest.raises(IdentityError, match=f"proved {address.endpoint_id}, where {expected} was expected"):
            await pair.connect(address=Address(expected, address.host, address.port))


async def test_a_server_with_another_kind_of_key_is_an_identity_error() -> None:
    async with _raw_server(**ec_credentials()) as (address, pair):
        with pytest.raises(IdentityError, match="proved no Ed25519 key"):
            await pair.connect(address=address)


async def test_a_server_of_another_protocol_is_incompatible() -> None:
    async with _raw_server(alpn_protocols=["h3"]) as (address, pair):
        with pytest.raises(IncompatiblePeerError, match="not for this protocol"):
            await pair.connect(address=address)


async def test_a_server_without_a_protocol_is_incompatible() -> None:
    async with _raw_server(alpn_protocols=None) as (address, pair):
        with pytest.raises(IncompatiblePeerError, match="not for this protocol"):
            await pair.connect(address=address)


async def test_a_plain_server_that_asks_for_no_certificate_is_connected_to() -> None:
    # Mutual proof is the listener's business; the client only demands the key in the address.
    async with _raw_server() as (address, pair):
        owner = await pair.connect(address=address)
        assert owner.connection.peer.endpoint_id == address.endpoint_id


async def test_a_server_of_other_quic_versions_is_incompatible() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))

    async def negotiate() -> None:
        while True:
            await anyio.wait_readable(sock)
            data, addr = sock.recvfrom(65_535)
            header = packets.read_header(data)
            assert header is not None
            sock.sendto(
                encode_quic_version_negotiation(source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=[0xFF00001D]), addr
            )

    try:
        async with open_pair(QuicTransport, connect=False) as pair, anyio.create_task_group() as task_group:
            task_group.start_soon(negotiate)
            with pytest.raises(IncompatiblePeerError, match="other versions of QUIC"):
                await pair.connect(address=Address(Identity.generate().endpoint_id, "127.0.0.1", sock.getsockname()[1]))
            task_group.cancel_scope.cancel()
    finally:
        sock.close()


async def test_a_listener_names_its_version_to_clients_of_another() -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        raw = RawPeer(
            raw_configuration(is_client=True, identity=Identity.generate(), supported_versions=[0x6B3343CF]),
            ("127.0.0.1", pair.listener.port),
        )
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: raw.closed)
        finally:
            raw.close()
        assert raw.closed is not None
        assert raw.closed.reason_phrase == "Could not find a common protocol version"


class _Refuser:
    """An accept callback that turns every client away, with words."""

    def __init__(self, pair: TransportPair) -> None:
        self._pair = pair

    def __call__(self, connection: Connection) -> HandlerRecorder:
        owner = self._pair.accept(connection)
        connection.close(77, "you are not on the list")
        return owner


async def test_an_owner_that_closes_at_once_refuses_the_client_with_its_reason() -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        await pair.listener.aclose()
        pair.listener = await pair.transport.listen(
            "127.0.0.1", 0, identity=pair.server_identity, accept=_Refuser(pair), reactor=pair.reactor, options=pair.options
        )
        with pytest.raises(RefusedError, match=r"you are not on the list \(code 77\)"):
            await pair.connect()
        await pair.until(lambda: pair.accepted[0].lost, "the owner was told")


async def test_an_owner_that_fails_ends_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        failures = [RuntimeError("a bug")]

        def accept(connection: Connection) -> HandlerRecorder:
            if failures:
                raise failures.pop()
            return pair.accept(connection)

        await pair.listener.aclose()
        pair.listener = await pair.transport.listen("127.0.0.1", 0, identity=pair.server_identity, accept=accept, reactor=pair.reactor, options=pair.options)
        with pytest.raises(RefusedError, match="internal error"):
            await pair.connect()
        await pair.connect()
    assert "a bug" in caplog.text


async def test_a_handshake_that_ends_after_the_listener_began_to_refuse_is_refused_unseen(caplog: pytest.LogCaptureFixture) -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), ("127.0.0.1", pair.listener.port))
        try:
            with anyio.fail_after(10):
                raw.engine.send_stream_data(0, b"let me in")
                raw.flush()
                await pair.until(lambda: handshakes_at(pair) == 1, "the handshake began")
                pair.listener.refuse()
                await raw.run(lambda: raw.closed)
        finally:
            raw.close()
        assert raw.closed is not None
        assert raw.closed.error_code == QuicErrorCode.CONNECTION_REFUSED
        assert not pair.accepted
        assert handshakes_at(pair) == 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_nobody_there_is_told_at_once_with_the_place() -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        port = pair.listener.port
        await pair.listener.aclose()
        with anyio.fail_after(5), pytest.raises(UnreachableError, match=rf"nothing answers at 127\.0\.0\.1:{port}.*check that the server runs"):
            await pair.connect()


async def test_a_server_that_never_answers_is_waited_for_until_the_caller_gives_up() -> None:
    async with open_pair(QuicTransport, connect=False) as pair, nothing_left_behind():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            with anyio.move_on_after(0.05) as scope:  # the caller's time limit
                await pair.connect(address=Address(Identity.generate().endpoint_id, "127.0.0.1", silent.getsockname()[1]))
            assert scope.cancelled_caught


async def test_a_host_that_does_not_resolve_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("anyio.getaddrinfo", fail)
    async with open_pair(QuicTransport, connect=False) as pair:
        with pytest.raises(UnreachableError, match="does not resolve: Name or service not known"):
            await pair.connect(address=Address(pair.server_identity.endpoint_id, "nowhere.invalid", 1))
        with pytest.raises(AddressError, match=r"'nowhere\.invalid' does not resolve"):
            await pair.listen("nowhere.invalid")


async def test_each_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (number, port)) for number in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr("anyio.getaddrinfo", resolve)
    async with open_pair(QuicTransport, connect=False) as pair:
        owner = await pair.connect(address=Address(pair.server_identity.endpoint_id, "two.example", pair.listener.port))
        assert owner.connection.peer.endpoint_id == pair.server_identity.endpoint_id


async def test_a_silent_address_of_a_host_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (number, port)) for number in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr("anyio.getaddrinfo", resolve)
    monkeypatch.setattr("aster.transports.quic.transport._NEXT_ATTEMPT_AFTER", 0.05)
    async with open_pair(QuicTransport, connect=False) as pair:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.2", pair.listener.port))
            owner = await pair.connect(address=Address(pair.server_identity.endpoint_id, "two.example", pair.listener.port))
        assert owner.connection.peer.address == f"two.example:{pair.listener.port}"


async def test_a_way_that_loses_large_datagrams_is_gone_with_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aster.transports.quic.transport._NEXT_ATTEMPT_AFTER", 0.05)
    async with open_pair(QuicTransport, connect=False) as pair, anyio.create_task_group() as task_group:
        forwarder = Forwarder((pair.listener.host, pair.listener.port), largest=1_500)
        task_group.start_soon(forwarder.run)
        await pair.connect(address=Address(pair.server_identity.endpoint_id, "127.0.0.1", forwarder.port))
        assert forwarder.dropped
        task_group.cancel_scope.cancel()


async def test_ipv6_is_served() -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with open_pair(QuicTransport, host="::1") as pair:
        assert pair.listener.host == "::1"
        assert pair.server.connection.peer.address.startswith("[::1]:")


async def _listen_again(pair: TransportPair, host: str, port: int) -> OSError:
    """Listen where that is not possible."""
    sockets = open_sockets()
    with pytest.raises(OSError, match=rf"cannot listen at {host}:{port}: ") as caught:
        await pair.transport.listen(host, port, identity=pair.server_identity, accept=pair.accept, reactor=pair.reactor, options=pair.options)
    assert open_sockets() == sockets, "a socket was left open"
    return caught.value


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
async def test_a_port_in_use_is_an_os_error_with_the_place_and_a_remedy(make_transport: Callable[[], Transport]) -> None:
    async with open_pair(make_transport) as pair:
        error = await _listen_again(pair, pair.listener.host, pair.listener.port)
        assert error.errno == errno.EADDRINUSE
        assert error.strerror == (
            f"cannot listen at 127.0.0.1:{pair.listener.port}: address already in use; stop the other server, choose another port, or port 0"
        )


async def test_an_address_of_another_machine_is_an_os_error_with_the_place_and_a_remedy() -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        error = await _listen_again(pair, "192.0.2.1", 4457)  # an address that documentation alone uses (RFC 5737)
        assert error.errno == errno.EADDRNOTAVAIL
        assert "not an address of this machine" in str(error)
        assert isinstance(error.__cause__, OSError)


async def test_a_port_that_the_system_withholds_is_a_permission_error_with_the_place_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    async with open_pair(QuicTransport, connect=False) as pair:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Unprivileged)  # tests may run as root, to whom no port is denied
            error = await _listen_again(pair, "127.0.0.1", 443)
        assert isinstance(error, PermissionError)
        assert "choose a higher port" in str(error)


async def test_any_other_reason_not_to_listen_is_told_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsupported(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")

    async with open_pair(QuicTransport, connect=False) as pair:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Unsupported)
            error = await _listen_again(pair, "127.0.0.1", 443)
        assert error.errno == errno.EAFNOSUPPORT
        assert "Address family not supported; check the host and the port" in str(error)


async def test_a_cancelled_connect_leaves_neither_socket_nor_task() -> None:
    async with open_pair(QuicTransport) as pair:
        async with nothing_left_behind():
            for steps in range(40):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as task_group:
                        task_group.start_soon(_cancel_after, scope, steps)
                        owner = await pair.connect(identity=Identity.generate())
                        owner.connection.close()
        await pair.until(lambda: all(owner.lost for owner in pair.accepted[1:]), "what was accepted of cancelled connections ended")


async def _cancel_after(scope: anyio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_closed_pair_leaves_neither_socket_nor_task() -> None:
    async with nothing_left_behind(), open_pair(QuicTransport) as pair:
        stream = pair.open()
        stream.write(b"x" * 100_000)


def test_a_datagram_size_out_of_range_is_refused() -> None:
    for size in (1_199, 16_001, 0, -1):
        with pytest.raises(ValueError, match="use 1200 to 16000"):
            QuicTransport(size)
