"""The listening side: one socket, many connections, told apart by the ids in their packets."""

from __future__ import annotations

import os
import socket
from collections import deque

import anyio.lowlevel
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionIdIssued, ConnectionIdRetired, HandshakeCompleted
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicHeader
from aioquic.quic.retry import QuicRetryTokenHandler

from aster._reactor import Reactor
from aster.errors import AddressError
from aster.transports.base import Accept, ConnectionHandler, ConnectionOptions, Listener
from aster.transports.quic import packets
from aster.transports.quic.admission import Admission, Answer, Visit
from aster.transports.quic.check import engine_class
from aster.transports.quic.connection import Datagrams, QuicConnection, logger
from aster.transports.quic.engine import CONNECTION_ID_LENGTH, Engine
from aster.transports.quic.failures import NO_CERTIFICATE
from aster.transports.quic.sockets import BURST, RECEIVE_SIZE, SMALLEST_DATAGRAM, SocketAddress, is_same_host
from aster.transports.quic.turns import Inbox, Turns
from aster.trust import endpoint_id_of, join_host_port
from aster.types import Peer

__all__ = ["QuicListener", "ServerConnection"]

_CLOSING = "the server takes no new connections"


class ServerConnection(QuicConnection):
    """A connection that shares its listener's socket."""

    def __init__(
        self, listener: QuicListener, engine: Engine, first_id: bytes, addr: SocketAddress, visit: Visit, reactor: Reactor, options: ConnectionOptions
    ) -> None:
        super().__init__(engine, reactor, options)
        self.visit = visit
        self._listener = listener
        self._addr = addr
        self.inbox: Inbox = deque()
        self._ids = {first_id, engine.host_cid}
        self._handshake_at = reactor.now() + options.handshake_timeout

    @property
    def place(self) -> bytes:
        return self.visit.place

    @property
    def ids(self) -> set[bytes]:
        """The connection ids that packets for this connection may carry."""
        return self._ids

    def _transmit(self, datagrams: Datagrams) -> None:
        self._listener.send(datagrams)

    def _release(self) -> None:
        self._listener.forget(self)

    def _id_issued(self, event: ConnectionIdIssued) -> None:
        self._ids.add(event.connection_id)
        self._listener.route(event.connection_id, self)

    def _id_retired(self, event: ConnectionIdRetired) -> None:
        self._ids.discard(event.connection_id)
        self._listener.unroute(event.connection_id)

    def _handshake_completed(self, event: HandshakeCompleted) -> None:
        self._handshake_at = float("inf")
        key = self.engine.peer_key()
        try:
            endpoint_id = endpoint_id_of(key) if key is not None else None
        except AddressError:
            endpoint_id = None
        if endpoint_id is None:
            # aioquic lets a client pass that shows no certificate.
            self._turn_away(NO_CERTIFICATE, "a certificate over an Ed25519 key is required")
            return
        # What began at one address may have ended at another. A token is a proof too.
        proved = self._addr if self.visit.proved else self.engine.proved_address
        # Others may have finished their handshakes since this one began.
        refusal = self._listener.refusal(proved)
        if refusal:
            self._turn_away(QuicErrorCode.CONNECTION_REFUSED, refusal)
            return
        self._peer = Peer(endpoint_id, join_host_port(self._addr[0], self._addr[1]))
        self._handler = self._listener.accepted(self, proved)

    def give_up(self) -> None:
        """End a handshake that has had its time."""
        self._abort("the handshake took too long")

    def _turn_away(self, code: int, reason: str) -> None:
        """Close before anything of the peer was dispatched, what has arrived together with its handshake included."""
        self.engine.close(error_code=code, frame_type=QuicFrameType.PADDING, reason_phrase=reason)
        self.engine.event_queue.clear()


class _Strangers:
    """All who have no connection, who take their turns as one: a flood of beginnings costs those who are there no more than one of them could."""

    place = b"strangers"

    def __init__(self, listener: QuicListener) -> None:
        self.inbox: Inbox = deque()
        self._listener = listener
        self._begun: dict[ServerConnection, None] = {}

    def receive(self, data: bytes, addr: SocketAddress, now: float) -> None:
        # An earlier datagram of this turn may have begun the connection.
        connection = self._listener.connection_of(data) or self._listener.received_from_stranger(data, addr, now)
        if connection is not None:
            connection.receive(data, addr, now)
            self._begun[connection] = None

    def settle(self) -> None:
        while self._begun:
            connection = next(iter(self._begun))
            del self._begun[connection]
            connection.settle()


class QuicListener(Listener):
    """Receives for all connections. Whatever arrives, the listener lives: each engine's failure ends its own connection."""

    def __init__(
        self,
        sock: socket.socket,
        configurations: tuple[QuicConfiguration, QuicConfiguration],
        accept: Accept,
        reactor: Reactor,
        options: ConnectionOptions,
        engine: type[Engine] | None = None,
    ) -> None:
        self._engine = engine or engine_class()
        self._socket = sock
        self._own_address: SocketAddress = sock.getsockname()
        self._configuration, self._same_host_configuration = configurations
        self._accept = accept
        self._reactor = reactor
        self._options = options
        self._turns = Turns(reactor)
        self._strangers = _Strangers(self)
        self._routes: dict[bytes, ServerConnection] = {}
        self._connections: dict[Visit, ServerConnection] = {}
        self._admission = Admission(options)
        self._tokens = QuicRetryTokenHandler()
        self._refusing = False
        self._closed = False
        reactor.add_reader(sock, self._on_readable)

    @property
    def host(self) -> str:
        return str(self._own_address[0])

    @property
    def port(self) -> int:
        return int(self._own_address[1])

    @property
    def pending_handshakes(self) -> int:
        """How many clients have begun a handshake and not finished it; for tests and statistics."""
        return self._admission.handshakes

    def refuse(self) -> None:
        self._refusing = True

    async def aclose(self) -> None:
        if not self._closed:
            self._refusing = True
            for connection in list(self._connections.values()):
                connection.close(reason="the server is closed")
                connection.tell_lost()
            self._closed = True
            self._turns.close()
            self._reactor.remove_reader(self._socket)
            self._socket.close()
        await anyio.lowlevel.checkpoint()

    # The connections' side.

    def send(self, datagrams: Datagrams) -> None:
        """Send to any peer. What the system does not take is lost as in a network, and the engine sends it again."""
        for data, addr in datagrams:
            self._send_one(data, addr)

    def _send_one(self, data: bytes, addr: SocketAddress) -> None:
        try:
            self._socket.sendto(data, addr)
        except OSError as exc:
            logger.debug("a datagram to %s was not sent: %s", addr, exc)

    def route(self, connection_id: bytes, connection: ServerConnection) -> None:
        """From here on, packets with this id are for the connection."""
        self._routes[connection_id] = connection

    def unroute(self, connection_id: bytes) -> None:
        """Packets with this id are for nobody any more."""
        self._routes.pop(connection_id, None)

    def refusal(self, addr: SocketAddress | None) -> str:
        """Why a client at an address, or at none that is proved, is turned away; empty when it is not."""
        return _CLOSING if self._refusing else self._admission.full(addr)

    def accepted(self, connection: ServerConnection, addr: SocketAddress | None) -> ConnectionHandler:
        """A peer has proved its identity, and an address or none: its owner."""
        self._admission.connect(connection.visit, addr)
        return self._accept(connection)

    def forget(self, connection: ServerConnection) -> None:
        """The connection has ended."""
        connection.inbox.clear()
        del self._connections[connection.visit]
        self._admission.leave(connection.visit)
        for connection_id in connection.ids:
            self.unroute(connection_id)

    # The network's side.

    def _on_readable(self) -> None:
        if self._closed:
            return
        receive = self._socket.recvfrom
        for _ in range(BURST):
            try:
                data, addr = receive(RECEIVE_SIZE)
            except OSError:  # nothing more to read; or, on some systems, the fate of a datagram sent earlier
                break
            connection = self.connection_of(data)
            if connection is not None:
                self._turns.add(connection, data, addr)
            elif packets.may_begin(data):
                self._turns.add(self._strangers, data, addr)
        self._turns.take()

    def connection_of(self, data: bytes) -> ServerConnection | None:
        """The connection that a datagram is for."""
        return self._routes.get(packets.destination_id(data))

    def received_from_stranger(self, data: bytes, addr: SocketAddress, now: float) -> ServerConnection | None:
        """A datagram for no connection: that which it begins, if it does."""
        try:
            return self._stranger(data, addr, now)
        except Exception:
            logger.info("a datagram from %s was not understood", addr, exc_info=True)
            return None

    def _stranger(self, data: bytes, addr: SocketAddress, now: float) -> ServerConnection | None:
        header = packets.read_header(data)
        if header is None:
            return None
        if packets.wants_other_version(header):
            if len(data) >= SMALLEST_DATAGRAM:
                self._send_one(packets.version_negotiation(header), addr)
            return None
        if not packets.is_first_packet(header, data):
            return None
        refusal = self.refusal(addr)
        if refusal:
            self._send_one(packets.refusal(header, QuicErrorCode.CONNECTION_REFUSED, refusal), addr)
            return None
        original_id: bytes | None = None
        if header.token:
            try:
                original_id = self._tokens.validate_token(address=addr, destination_cid=header.destination_cid, token=header.token, now=now)
            except ValueError:
                self._send_one(packets.refusal(header, QuicErrorCode.INVALID_TOKEN), addr)
                return None
            self._make_room(now)
        answer = self._admission.answer(addr, now, proved=original_id is not None)
        if answer is Answer.RETURN:
            self._ask_to_return(header, addr, now)
        if answer is not Answer.BEGIN:
            return None
        # A client fills its first datagram to the size that it thinks the way carries. Large ones are for one host, and only if this one got through.
        large = len(data) > SMALLEST_DATAGRAM and is_same_host(addr, self._own_address)
        return self._new_connection(header, addr, large, original_id, now)

    def _make_room(self, now: float) -> None:
        visit = self._admission.overstayed(now)
        if visit is not None:
            self._connections[visit].give_up()

    def _ask_to_return(self, header: QuicHeader, addr: SocketAddress, now: float) -> None:
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        token = self._tokens.create_token(
            address=addr, original_destination_connection_id=header.destination_cid, retry_source_connection_id=source_id, now=now
        )
        self._send_one(packets.retry(header, source_id=source_id, token=token), addr)

    def _new_connection(self, header: QuicHeader, addr: SocketAddress, large: bool, original_id: bytes | None, now: float) -> ServerConnection:
        """``original_id``: what the client called this end before it was asked to return, if it was."""
        engine = self._engine(
            self._same_host_configuration if large else self._configuration,
            max_streams=self._options.max_streams,
            original_destination_connection_id=header.destination_cid if original_id is None else original_id,
            retry_source_connection_id=None if original_id is None else header.destination_cid,
        )
        visit = self._admission.begin(addr, now, proved=original_id is not None)
        connection = ServerConnection(self, engine, header.destination_cid, addr, visit, self._reactor, self._options)
        self._connections[visit] = connection
        for connection_id in connection.ids:
            self.route(connection_id, connection)
        return connection
