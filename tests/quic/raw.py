"""QUIC endpoints of plain aioquic, which do what Aster's never would."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aioquic.buffer import Buffer, encode_uint_var  # pyright: ignore[reportPrivateImportUsage] # their documented place
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch
from anyio.abc import TaskGroup
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aster.testing.recorders import TransportPair
from aster.transports.quic.certificates import certificate_for
from aster.transports.quic.listener import QuicListener
from aster.trust import Identity

__all__ = ["Forwarder", "RawPeer", "Translator", "ec_credentials", "frame_of", "handshakes_at", "packet_of", "raw_configuration", "translated"]


def raw_configuration(*, is_client: bool, identity: Identity | None = None, **changes: Any) -> QuicConfiguration:
    """What Aster's endpoints use, without a certificate unless there is an identity, and with changes."""
    configuration = QuicConfiguration(alpn_protocols=["aster/1"], is_client=is_client, verify_mode=ssl.CERT_NONE)
    if identity is not None:
        configuration.certificate = certificate_for(identity)
        configuration.private_key = identity.private_key
    for name, value in changes.items():
        setattr(configuration, name, value)
    return configuration


def ec_credentials() -> dict[str, Any]:
    """A certificate over another kind of key than Aster's, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    like = certificate_for(Identity.generate())
    builder = x509.CertificateBuilder(like.subject, like.subject, key.public_key(), 1, like.not_valid_before_utc, like.not_valid_after_utc)
    return {"certificate": builder.sign(key, hashes.SHA256()), "private_key": key}


def frame_of(*items: int | bytes) -> bytes:
    """A frame of QUIC (RFC 9000, section 19) of variable-length integers and plain bytes."""
    return b"".join(encode_uint_var(item) if isinstance(item, int) else item for item in items)


def packet_of(sender: QuicConnection, frames: bytes, epoch: Epoch = Epoch.ONE_RTT, *, to: bytes | None = None, first: int = 1) -> bytes:
    """A datagram with frames of a connection that its own engine knows nothing of, behind a PING or another first type; to an id of choice."""
    state = vars(sender)
    keys = state["_cryptos"][Epoch.ONE_RTT]
    if epoch is Epoch.INITIAL:
        keys = CryptoPair()
        keys.setup_initial(cid=sender.original_destination_connection_id, is_client=True, version=1)
    builder = QuicPacketBuilder(
        host_cid=sender.host_cid,
        peer_cid=to or state["_peer_cid"].cid,
        version=1,
        is_client=state["_is_client"],
        max_datagram_size=16_000,
        packet_number=state["_packet_number"],
    )
    builder.start_packet(QuicPacketType.INITIAL if epoch is Epoch.INITIAL else QuicPacketType.ONE_RTT, keys)
    builder.start_frame(first).push_bytes(frames)
    (datagram,), _ = builder.flush()
    state["_packet_number"] = builder.packet_number
    return datagram


def handshakes_at(pair: TransportPair) -> int:
    """How many handshakes the listener of a pair has not finished."""
    assert isinstance(pair.listener, QuicListener)
    return pair.listener.pending_handshakes


class RawPeer:
    """One end of one connection, on a socket of its own. Close it.

    Attributes:
        events: all that the engine has reported.
        closed: with what code and reason the connection ended.
    """

    def __init__(self, configuration: QuicConfiguration, server: tuple[str, int] | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))
        self.engine: QuicConnection
        self.events: list[QuicEvent] = []
        self.closed: ConnectionTerminated | None = None
        self._configuration = configuration
        self._started = False
        if server is not None:
            self.engine = QuicConnection(configuration=configuration)
            self.engine.connect(server, anyio.current_time())
            self._started = True

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        for data, addr in self.engine.datagrams_to_send(anyio.current_time()):
            self.socket.sendto(data, addr)

    def receive(self) -> None:
        while True:
            try:
                data, addr = self.socket.recvfrom(65_535)
            except BlockingIOError:
                return
            if not self._started:
                header = pull_quic_header(Buffer(data=data), host_cid_length=8)
                self.engine = QuicConnection(configuration=self._configuration, original_destination_connection_id=header.destination_cid)
                self._started = True
            self.engine.receive_datagram(data, addr, anyio.current_time())

    async def run(self, until: Callable[[], object]) -> None:
        """Take part until the condition holds."""
        while True:
            if self._started:
                self.flush()
                while (event := self.engine.next_event()) is not None:
                    self.events.append(event)
                    if isinstance(event, ConnectionTerminated):
                        self.closed = event
            if until():
                return
            timer = self.engine.get_timer() if self._started else None
            with anyio.move_on_at(timer) if timer is not None else anyio.CancelScope():
                await anyio.wait_readable(self.socket)
            if timer is not None and anyio.current_time() >= timer:
                self.engine.handle_timer(anyio.current_time())
            self.receive()

    def seen(self, kind: type[QuicEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


class Forwarder:
    """Stands between one client and a server, and loses what is larger than its way carries."""

    def __init__(self, server: tuple[str, int], largest: int) -> None:
        self.dropped = 0
        self._near, self._far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self._near, self._far):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        self._server = server
        self._largest = largest
        self._client: tuple[str, int] | None = None

    @property
    def port(self) -> int:
        return int(self._near.getsockname()[1])

    async def run(self) -> None:
        """Forward until cancelled."""
        with self._near, self._far:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._upstream)
                task_group.start_soon(self._downstream)

    async def _upstream(self) -> None:
        while True:
            await anyio.wait_readable(self._near)
            data, self._client = self._near.recvfrom(65_535)
            self._pass_on(self._far, data, self._server)

    async def _downstream(self) -> None:
        while True:
            await anyio.wait_readable(self._far)
            data = self._far.recv(65_535)
            assert self._client is not None
            self._pass_on(self._near, data, self._client)

    def _pass_on(self, sock: socket.socket, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) > self._largest:
            self.dropped += 1
        else:
            sock.sendto(data, addr)


@asynccontextmanager
async def translated(host: str, port: int) -> AsyncGenerator[Translator]:
    """A translator before a server, at work during the block."""
    translator = Translator(host, port)
    try:
        async with anyio.create_task_group() as task_group:
            translator.start(task_group)
            yield translator
            task_group.cancel_scope.cancel()
    finally:
        translator.close()


class Translator:
    """Stands between clients and a server as a router with one public address does: it tells clients apart by the ids that they chose, and can get another
    public address.

    Attributes:
        passed_on_last: how many datagrams of the server came back by the latest public address.
    """

    def __init__(self, host: str, port: int) -> None:
        self.passed_on_last = 0
        self._server = host, port
        self._task_group: TaskGroup
        self._sockets: list[socket.socket] = []
        self._clients: dict[bytes, tuple[socket.socket, tuple[str, int]]] = {}
        self._public: socket.socket

    def start(self, task_group: TaskGroup) -> None:
        self._task_group = task_group
        self.rebind()

    def _bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        self._sockets.append(sock)
        return sock

    def rebind(self) -> None:
        """Get another public address; the old one is heard no more."""
        self._public = self._bound()
        self.passed_on_last = 0
        self._task_group.start_soon(self._downstream, self._public)

    def open(self) -> int:
        """The port for one more client."""
        sock = self._bound()
        self._task_group.start_soon(self._upstream, sock)
        return int(sock.getsockname()[1])

    def close(self) -> None:
        """Once its tasks have ended."""
        for sock in self._sockets:
            sock.close()

    async def _upstream(self, near: socket.socket) -> None:
        while True:
            await anyio.wait_readable(near)
            data, client = near.recvfrom(65_535)
            if data[0] & 0x80:  # a long header has both ids
                length = data[5]
                own = data[7 + length : 7 + length + data[6 + length]]
                self._clients[own] = near, client
            self._public.sendto(data, self._server)

    async def _downstream(self, public: socket.socket) -> None:
        while True:
            await anyio.wait_readable(public)
            data = public.recv(65_535)
            if public is self._public:
                self.passed_on_last += 1
                near, client = self._clients[data[6 : 6 + data[5]] if data[0] & 0x80 else data[1:9]]
                near.sendto(data, client)
