"""Makes listeners and connections over QUIC."""

from __future__ import annotations

import socket

import anyio

from aster._reactor import Reactor
from aster.errors import AddressError, UnreachableError
from aster.transports.base import Accept, Connection, ConnectionHandler, ConnectionOptions, Listener, Transport, listen_error
from aster.transports.quic.check import engine_configuration
from aster.transports.quic.client import ClientConnection
from aster.transports.quic.engine import Engine
from aster.transports.quic.listener import QuicListener
from aster.transports.quic.sockets import (
    LARGEST_DATAGRAM,
    SMALLEST_DATAGRAM,
    SocketAddress,
    is_loopback,
    is_same_host,
    local_datagram_size,
    open_socket,
    resolve,
)
from aster.trust import Address, Identity, join_host_port

__all__ = ["QuicTransport", "connect_over", "listen_over"]

_NEXT_ATTEMPT_AFTER = 3.0
"""Seconds without an answer after which ``connect`` tries a host's next address, or smaller datagrams; the last attempt has as long as the caller gives it."""


class QuicTransport(Transport):
    """QUIC over UDP.

    Args:
        max_datagram_size: bytes of the largest datagram to send, 1,200 to 16,000. By default 1,200, which every path carries, and 16,000 (9,000 elsewhere
            than on Linux) between endpoints on one host, where that makes bulk transfers some six times as fast. Raise it only when every link between the
            endpoints is known to carry such datagrams: larger ones vanish.

    Raises:
        ValueError: ``max_datagram_size`` is out of range.
    """

    def __init__(self, max_datagram_size: int | None = None) -> None:
        if max_datagram_size is not None and not SMALLEST_DATAGRAM <= max_datagram_size <= LARGEST_DATAGRAM:
            raise ValueError(f"max_datagram_size is {max_datagram_size}; use {SMALLEST_DATAGRAM} to {LARGEST_DATAGRAM} bytes, or None to let Aster choose")
        self._max_datagram_size = max_datagram_size

    def _datagram_size(self, *, same_host: bool) -> int:
        return self._max_datagram_size or (local_datagram_size() if same_host else SMALLEST_DATAGRAM)

    async def listen(self, host: str, port: int, *, identity: Identity, accept: Accept, reactor: Reactor, options: ConnectionOptions) -> Listener:
        """Listen, as ``Transport.listen`` says, at the first of the host's addresses that can be bound.

        An IPv6 wildcard (``::``) does not take IPv4. A wildcard answers from the address that the system's routing prefers: on a host with several addresses in
        one network, name the one that clients use.
        """
        try:
            candidates = await resolve(host, port, passive=True)
        except OSError as exc:
            raise AddressError(f"the listen host {host!r} does not resolve: {exc.strerror}; use an address of this machine such as 127.0.0.1 or ::1") from exc
        try:
            sock = _bind_first(candidates)
        except OSError as exc:
            raise listen_error(host, port, exc.errno, exc.strerror) from exc
        sizes = self._datagram_size(same_host=False), self._datagram_size(same_host=True)
        return listen_over(sock, sizes, identity=identity, accept=accept, reactor=reactor, options=options)

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        place = join_host_port(address.host, address.port)
        try:
            candidates = await resolve(address.host, address.port, passive=False)
        except OSError as exc:
            raise UnreachableError(f"the host of {place} does not resolve: {exc.strerror}; check its name, or use its numeric address") from exc
        # What looks like this host may be a forwarder to a container or another machine, on whose way large datagrams are lost.
        attempts = [(family, addr, size) for family, addr in candidates for size in ((None, SMALLEST_DATAGRAM) if is_loopback(addr) else (None,))]
        failure: UnreachableError | None = None
        for number, (family, addr, size) in enumerate(attempts, start=1):
            with anyio.move_on_after(_NEXT_ATTEMPT_AFTER if number < len(attempts) else None):
                try:
                    connection = await self._connect_to(family, addr, size, address, identity, reactor, options)
                except UnreachableError as exc:
                    failure = exc
                else:
                    connection.attach(handler)
                    return connection
        try:
            raise failure or UnreachableError(f"no address of {place} answered; check that the server runs and that UDP packets reach it")
        finally:
            failure = None  # by its traceback it leads back here

    async def _connect_to(
        self,
        family: socket.AddressFamily,
        addr: SocketAddress,
        size: int | None,
        address: Address,
        identity: Identity,
        reactor: Reactor,
        options: ConnectionOptions,
    ) -> ClientConnection:
        place = join_host_port(address.host, address.port)
        sock = open_socket(family)
        try:
            try:
                sock.connect(addr)
            except OSError as exc:
                raise UnreachableError(f"there is no way to {place}: {exc.strerror}; check the host and this machine's network") from exc
            size = size or self._datagram_size(same_host=is_same_host(addr, sock.getsockname()))
        except BaseException:
            sock.close()
            raise
        return await connect_over(sock, addr, size, address, identity=identity, reactor=reactor, options=options)


def listen_over(
    sock: socket.socket,
    sizes: tuple[int, int],
    *,
    identity: Identity,
    accept: Accept,
    reactor: Reactor,
    options: ConnectionOptions,
    engine: type[Engine] | None = None,
) -> QuicListener:
    """A listener at a bound socket, which it closes, also when this fails. ``sizes``: bytes of the largest datagram to another host, and to this one.
    ``engine``: another one than the usual."""
    try:
        elsewhere, here = (
            engine_configuration(identity, is_client=False, idle_timeout=options.idle_timeout, datagram_size=datagram_size) for datagram_size in sizes
        )
        return QuicListener(sock, (elsewhere, here), accept, reactor, options, engine)
    except BaseException:
        sock.close()
        raise


async def connect_over(
    sock: socket.socket,
    addr: SocketAddress,
    size: int,
    address: Address,
    *,
    identity: Identity,
    reactor: Reactor,
    options: ConnectionOptions,
    engine: type[Engine] | None = None,
) -> ClientConnection:
    """A connection over a socket that is connected to ``addr``; it closes the socket, also when this fails. ``size``: bytes of the largest datagram.
    ``engine``: another one than the usual.

    Raises:
        ConnectError: as ``Transport.connect`` tells.
    """
    try:
        configuration = engine_configuration(identity, is_client=True, idle_timeout=options.idle_timeout, datagram_size=size)
        connection = ClientConnection(sock, addr, address, configuration, reactor, options, engine)
    except BaseException:
        sock.close()
        raise
    try:
        await connection.establish()
    except BaseException:
        connection.abandon()
        raise
    return connection


def _bind_first(candidates: list[tuple[socket.AddressFamily, SocketAddress]]) -> socket.socket:
    """A socket bound to the first address that this machine has; the error of the last when there is none."""
    failure = OSError("the host has no address")
    for family, addr in candidates:
        sock: socket.socket | None = None
        try:
            sock = open_socket(family)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(addr)
        except OSError as exc:
            failure = exc
            if sock is not None:
                sock.close()
        else:
            return sock
    raise failure
