"""The connecting side."""

from __future__ import annotations

import errno
import socket

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicFrameType

from aster._reactor import Reactor
from aster.errors import AddressError, AsterError, ConnectError, IdentityError, UnreachableError
from aster.transports.base import ConnectionHandler, ConnectionOptions
from aster.transports.quic.check import engine_class
from aster.transports.quic.connection import Datagrams, QuicConnection
from aster.transports.quic.engine import Engine, EngineEnd
from aster.transports.quic.failures import CERTIFICATE_REFUSED, connect_error
from aster.transports.quic.sockets import BURST, RECEIVE_SIZE, SocketAddress
from aster.transports.quic.turns import TURN
from aster.trust import Address, endpoint_id_of, join_host_port
from aster.types import Peer

__all__ = ["ClientConnection"]

_UNREACHABLE = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL}
)
"""Errors of a connected UDP socket that mean that a handshake will get no answer."""


class ClientConnection(QuicConnection):
    """A connection with a socket of its own, which is connected, so that the system reports when nobody listens."""

    def __init__(
        self,
        sock: socket.socket,
        addr: SocketAddress,
        address: Address,
        configuration: QuicConfiguration,
        reactor: Reactor,
        options: ConnectionOptions,
        engine: type[Engine] | None = None,
    ) -> None:
        super().__init__((engine or engine_class())(configuration, max_streams=0), reactor, options)
        self._socket = sock
        self._addr = addr
        self._address = address
        self._place = join_host_port(address.host, address.port)
        self._established = False
        self._failure: ConnectError | None = None

    async def establish(self) -> None:
        """Shake hands until the server has accepted this client, not only until this client has accepted the server.

        Raises:
            ConnectError: as ``Transport.connect`` tells.
        """
        self._reactor.add_reader(self._socket, self._on_readable)
        self.engine.connect(self._addr, self._reactor.now())
        self._flush()
        await self._waiting.wait_for(lambda: self._established or self.has_ended)
        if self.has_ended:
            raise self._taken_failure()

    def _taken_failure(self) -> ConnectError:
        # Raised, it leads by its traceback to the caller's frames and to this connection: one that kept it would keep them all for the garbage collector.
        failure = self._failure or UnreachableError(f"{self._place}: {self._error}")
        self._failure = self._error = None
        return failure

    def attach(self, handler: ConnectionHandler) -> None:
        """Hand the established connection to its owner."""
        self._handler = handler

    def abandon(self) -> None:
        """Give up a connection that was never handed out."""
        self._abort("the client gave up")

    def _transmit(self, datagrams: Datagrams) -> None:
        for data, _ in datagrams:
            try:
                self._socket.send(data)
            except OSError as exc:
                self._network_error(exc)

    def _on_readable(self) -> None:
        if self.has_ended:
            return
        now = self._reactor.now()
        end = now + TURN
        receive = self._socket.recv
        for _ in range(BURST):
            if now > end and self._established:  # the rest after this program's tasks have had theirs; of a handshake also the refusal behind it is wanted
                break
            try:
                data = receive(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:  # reported for a datagram that was sent earlier
                self._network_error(exc)
                break
            self.receive(data, self._addr, now)
            now = self._reactor.now()
        self.settle()

    def _network_error(self, exc: OSError) -> None:
        """Before the handshake is over, a report that nobody is there ends it. Later it is ignored like every loss of a datagram, since such reports can be
        forged; so is a full buffer at any time: the engine takes both for congestion, and sends again."""
        if not self._established and self._failure is None and exc.errno in _UNREACHABLE:
            self._fail(UnreachableError(f"nothing answers at {self._place}: {exc.strerror}; check that the server runs and that its address is current"))

    def _handshake_completed(self, event: HandshakeCompleted) -> None:
        key = self.engine.peer_key()
        try:
            proved = endpoint_id_of(key) if key is not None else "no Ed25519 key"
        except AddressError:
            proved = "an unusable key"
        if proved == self._address.endpoint_id:
            self._peer = Peer(proved, self._place)
            return
        self.engine.close(error_code=CERTIFICATE_REFUSED, frame_type=QuicFrameType.PADDING, reason_phrase="not the key in the address")
        self._fail(
            IdentityError(
                f"{self._place} proved {proved}, where {self._address.endpoint_id} was expected; get its current address from server.address "
                "(a server without a saved identity has a new key after each start), or distrust it"
            )
        )

    def _progressed(self) -> None:
        if not self._established and self._peer is not None and self.engine.handshake_confirmed:
            self._established = True
            self._waiting.notify_all()

    def _fail(self, failure: ConnectError) -> None:
        self._failure = failure
        self._transmit_quietly()
        self._finish_off(failure)

    def _explain(self, end: EngineEnd) -> AsterError:
        if self._handler is not None:
            return super()._explain(end)
        self._failure = connect_error(end, self._place, self.engine.version_mismatch)
        return self._failure

    def _release(self) -> None:
        self._reactor.remove_reader(self._socket)
        self._socket.close()
