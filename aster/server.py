"""The host: ``async with aster.serve(...)``."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel
from anyio import CancelScope
from anyio.lowlevel import RunVar

from aster._connection import PROTOCOL_VERSION
from aster._endpoint import EndpointOptions
from aster._hosted import HostedMethod
from aster._incoming_session import HostedSession
from aster._lifetime import Lifetime
from aster._options import check_seconds
from aster._policy import Admit, Authorize, Policy
from aster._protocol.events import Header, Hello
from aster._protocol.frames import encode_hello
from aster._registry import HostedServices
from aster._server_connection import ServerConnection
from aster.errors import LocalProtocolError
from aster.interceptors import Interceptor, checked_interceptors
from aster.transports.base import Connection, ConnectionHandler, Listener, Transport, checked_transport
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity, check_advertised, identity_from, parse_listen

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AsterServer"]

logger = logging.getLogger("aster")


class AsterServer:
    """Serves services at one address, for as long as its ``async with`` block lasts.

    ::

        async with aster.serve(services=[TaskService()], listen="127.0.0.1:0") as server:
            print(server.address)
            await server.serve()

    Leaving the block drains: new calls are refused, running ones may end within ``drain_grace``, then their handlers are cancelled,
    and the block waits until all of them have unwound. Cancellation from outside skips the grace, and so do ``KeyboardInterrupt`` and
    ``SystemExit``; it comes out of the block also when it arrives while the block is left, unless the body raised something else.

    Args:
        services: instances of ``@service`` classes. One that is an async context manager is entered before listening, and left after the drain. A service with
            ``scoped="stream"`` is given as its class, or a ``functools.partial`` of it: an instance is made for each session, with ``peer=`` its caller's
            endpoint id.
        listen: ``"host:port"``: an IPv4 or ``[IPv6]`` address or a host name, port 0 for one that the system chooses.
        identity: the key that the server proves, or the path of its key file; by default a new one for this server, whose address ends with it.
        advertise: the host in ``address``, for servers that listen at a wildcard or behind a translated address.
        transport: how bytes travel; QUIC by default.
        authorize: what each endpoint holds, for services and methods with ``requires=``: a mapping of endpoint ids to a role or a list of them, or a function
            of the ``Peer`` that returns the same, or ``None`` for nothing. By default nobody holds anything.
        admit: who may connect: a list or set of endpoint ids, or a function of the ``Peer`` that returns whether it may. Everyone by default; an empty list
            admits nobody. The client's ``connect`` fails with RefusedError.
        drain_grace: seconds that running calls may take to end when the block is left or ``drain`` is called.
        cleanup_budget: seconds that cancelled handlers may take to unwind before their peers are released; also those of a session's ``on_session_close``.
        max_deadline: the most seconds that any call may take; ``None`` for no cap.
        window: bytes that each direction of a call may have unconsumed.
        max_message_size: bytes of the largest message that is accepted.
        max_metadata_size: bytes of the most metadata that is accepted at a time.
        max_connection_buffer: bytes of messages that all calls of a connection may hold here together before they are taken; the call that would cross it
            fails with RESOURCE_EXHAUSTED.
        max_concurrent_calls: calls at a time on one connection.
        max_sessions: sessions at a time on one connection; entering more waits at the client, up to its ``connect_timeout``.
        max_connections: connections at a time; the next client's ``connect`` fails with RefusedError.
        max_connections_per_address: those of them that come from one address, of an IPv6 address its network of 64 bits. Over QUIC alone.
        idle_timeout: seconds of silence after which a connection counts as lost.
        keepalive_interval: seconds of silence after which an idle peer is asked for a sign of life; at the most a third of ``idle_timeout`` is used.
        interceptors: what wraps each call of every service, the outermost first: instances of ``Interceptor``, or classes that are called without arguments.
            Those of a service come further in.
        debug: whether callers see the type and text of a handler's unexpected exception.

    ``admit`` and then ``authorize`` are asked once a connection, when its client's key is proved and before the client hears anything: a change holds from the
    client's next connection. The functions may be async, and must not block the loop. One that raises, returns something else, or takes more than 5 s, turns
    the client away, and the log says why at ERROR. An async one is cancelled when its client has gone or the server's block is left.

    Raises:
        TypeError: something in ``services`` is not an instance of a service, an address is no ``str``, or an option is of the wrong type.
        ValueError: an option is out of range, two services share name and version, a service uses an option that is not carried out yet, or has
            ``requires=`` while there is no ``authorize``, an endpoint id in ``admit`` or ``authorize`` is malformed, or the names of all methods
            together are more than clients can be told.
        AddressError: ``listen`` or ``advertise`` is malformed.
        KeyFileError: the key file cannot be used.
        OSError: from entering the block: the address is in use, not this machine's, or not allowed to this program.
    """

    def __init__(
        self,
        services: Iterable[object],
        listen: str = "127.0.0.1:0",
        *,
        identity: Identity | str | os.PathLike[str] | None = None,
        advertise: str | None = None,
        transport: Transport | None = None,
        authorize: Authorize | None = None,
        admit: Admit | None = None,
        drain_grace: float = 10.0,
        cleanup_budget: float = 5.0,
        max_deadline: float | None = None,
        window: int = 262_144,
        max_message_size: int = 4_194_304,
        max_metadata_size: int = 8_192,
        max_connection_buffer: int = 536_870_912,
        max_concurrent_calls: int = 1_000,
        max_sessions: int = 256,
        max_connections: int = 4_096,
        max_connections_per_address: int = 1_024,
        idle_timeout: float = 30.0,
        keepalive_interval: float = 10.0,
        interceptors: Iterable[Interceptor | type[Interceptor]] = (),
        debug: bool = False,
    ) -> None:
        if not isinstance(debug, bool):  # pyright: ignore[reportUnnecessaryIsInstance] (a "false" from the environment would show callers everything)
            raise TypeError(f"debug must be True or False, not {debug!r}")
        check_seconds(drain_grace, "drain_grace", zero=True)
        check_seconds(max_deadline, "max_deadline", none=True)
        options = EndpointOptions(
            window=window,
            max_message_size=max_message_size,
            max_metadata_size=max_metadata_size,
            max_connection_buffer=max_connection_buffer,
            max_concurrent_calls=max_concurrent_calls,
            max_sessions=max_sessions,
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
            idle_timeout=idle_timeout,
            keepalive_interval=keepalive_interval,
            cleanup_budget=cleanup_budget,
        )
        policy = None if admit is None and authorize is None else Policy(admit, authorize)
        self._hosting = _Host(
            HostedServices(services, checked_interceptors(interceptors), authorizes=authorize is not None), policy, options, max_deadline, debug
        )
        self._listen = parse_listen(listen)
        self._advertise = None if advertise is None else check_advertised(advertise)
        self._identity = identity_from(identity)
        self._transport = QuicTransport() if transport is None else checked_transport(transport)
        self._drain_grace = drain_grace
        self._grace_scopes: set[CancelScope] = set()
        self._hurry = False
        self._address: Address | None = None
        self._lifetime: Lifetime | None = None
        self._listener: Listener
        self._entered_services: AsyncExitStack
        self._drained: anyio.Event

    @property
    def endpoint_id(self) -> str:
        """The server's public key, 64 hex digits."""
        return self._identity.endpoint_id

    @property
    def address(self) -> str:
        """``"aster://<endpoint id>@host:port"``: what clients connect to.

        Raises:
            RuntimeError: the server does not listen yet.
        """
        if self._address is None:
            raise RuntimeError("the server has no address before its block is entered: use it inside `async with aster.serve(...) as server`")
        return str(self._address)

    # The block

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            raise RuntimeError("an AsterServer serves once: make a new one for another block")
        self._drained = anyio.Event()
        self._entered_services = AsyncExitStack()
        try:
            await self._open()
        except BaseException as exc:
            # What a service thinks of the failure changes nothing: a block cannot skip its body.
            await self._entered_services.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    async def _open(self) -> None:
        for instance in self._hosting.services.instances:
            if isinstance(instance, AbstractAsyncContextManager):
                await self._entered_services.enter_async_context(instance)  # pyright: ignore[reportUnknownArgumentType] (a user's class, of any result)
        self._lifetime = lifetime = Lifetime()
        await lifetime.open()
        try:
            self._listener = await self._transport.listen(
                *self._listen,
                identity=self._identity,
                accept=lambda transport: self._hosting.accept(transport, lifetime),
                reactor=lifetime.reactor,
                options=self._hosting.options.for_transport(),
            )
        except BaseException as exc:
            await lifetime.close_failed(exc)
            raise
        self._address = Address(self.endpoint_id, self._advertised_host(), self._listener.port)

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> bool | None:
        lifetime = self._lifetime
        assert lifetime is not None
        outcome = exc
        try:
            try:
                await self._give_grace(exc)
            finally:
                await lifetime.close(exc, self._release_peers)
        except BaseException as failure:
            # What the body raised comes out rather than a cancellation that came later; the scope that was cancelled stays so.
            if exc is None or not isinstance(failure, anyio.get_cancelled_exc_class()):
                outcome = failure
        self._drained.set()
        if await self._entered_services.__aexit__(type(outcome) if outcome else None, outcome, outcome.__traceback__ if outcome else None):
            return True
        if outcome is not None and outcome is not exc:
            raise outcome
        return None

    def _advertised_host(self) -> str:
        if self._advertise is not None:
            return self._advertise
        try:
            wildcard = ipaddress.ip_address(self._listener.host).is_unspecified
        except ValueError:
            wildcard = False
        if wildcard:
            logger.warning("listening at the wildcard %s: clients cannot connect to that; pass advertise= with the host that they reach", self._listener.host)
        return self._listener.host

    # Waiting and draining

    async def serve(self) -> None:
        """Wait until the server is drained, cancelled or told to stop by a signal.

        On the main thread SIGINT and SIGTERM start a drain of every server that waits here, and a second one cancels what still runs.
        Cancelling this call only ends the waiting. In another task than the block's it ends with the block.

        Raises:
            RuntimeError: the server does not listen yet.
        """
        self._check_entered("serve")
        async with anyio.create_task_group() as group:
            if threading.current_thread() is threading.main_thread():
                group.start_soon(self._watch_signals)
            await self._drained.wait()
            group.cancel_scope.cancel()

    async def _watch_signals(self) -> None:
        async with anyio.create_task_group() as group:
            first = True

            def heard(number: signal.Signals) -> None:
                nonlocal first
                logger.info("%s: %s", number.name, "draining" if first else "cancelling what still runs")
                if first:
                    first = False
                    group.start_soon(self.drain)
                else:
                    # The drain that the first has started may not have begun.
                    self._hurry = True
                    for scope in self._grace_scopes:
                        scope.cancel()

            await _hear_signals(heard)

    async def drain(self, grace: float | None = None) -> None:
        """Take no new calls, let the running ones end, and cancel those that have not ended within the grace.

        Args:
            grace: seconds; the server's ``drain_grace`` by default.

        Raises:
            RuntimeError: the server does not listen yet.
            TypeError, ValueError: ``grace`` is no span of time.

        Cancellation ends the waiting; the server goes on refusing new calls.
        """
        self._check_entered("drain")
        grace = self._drain_grace if grace is None else grace
        check_seconds(grace, "grace", zero=True)
        self._refuse_new_calls()
        scope = CancelScope(deadline=anyio.current_time() + grace)
        self._grace_scopes.add(scope)
        if self._hurry:
            scope.cancel()
        try:
            with scope:
                await self._wait_for_handlers()
        finally:
            self._grace_scopes.discard(scope)
        self._stop_handlers()
        try:
            with anyio.move_on_after(self._hosting.options.cleanup_budget):
                await self._wait_for_handlers()
        finally:
            # A handler that drains its own server is among those that were just cancelled; its server is drained all the same.
            self._drained.set()

    def _check_entered(self, what: str) -> None:
        if self._address is None:
            raise RuntimeError(f"{what}() works once the server listens: use it inside `async with aster.serve(...) as server`")

    def _refuse_new_calls(self) -> None:
        self._listener.refuse()
        for connection in self._hosting.connections:
            connection.announce_drain("the server is draining")

    def _stop_handlers(self) -> None:
        for connection in list(self._hosting.connections):
            connection.stop_calls("the server is shutting down")

    async def _wait_for_handlers(self) -> None:
        # Looked at again from the beginning: a call that was announced may have begun on one connection while another one was waited for.
        while busy := next((connection for connection in self._hosting.connections if connection.running), None):
            await busy.wait_until(lambda busy=busy: not busy.running)

    async def _give_grace(self, body: BaseException | None) -> None:
        """What the block's body raised decides: neither cancellation nor what ends the program waits for calls."""
        self._refuse_new_calls()
        if body is None:
            await anyio.lowlevel.checkpoint()
        elif not isinstance(body, Exception):
            return
        running = sum(connection.running for connection in self._hosting.connections)
        if running and self._drain_grace > 0 and not self._drained.is_set():
            why = f"left by {type(body).__name__}" if body is not None else "left"
            logger.info("the server's block was %s; running calls and sessions (%d) may take up to %g s to end", why, running, self._drain_grace)
            with anyio.move_on_after(self._drain_grace):
                await self._wait_for_handlers()

    async def _release_peers(self) -> None:
        """Cancel what still runs; once it has unwound and its outcomes are acknowledged, or the budget is over, close the connections.

        The handlers that are left after that are waited for without a limit: the block leaves no task behind.
        """
        self._stop_handlers()
        connections = list(self._hosting.connections)
        with anyio.move_on_after(self._hosting.options.cleanup_budget):
            await self._wait_for_handlers()
            for connection in connections:
                await connection.transport.wait_acknowledged()
        overdue = [label for connection in connections for label in connection.overdue]
        if overdue:
            logger.warning("handlers that still shield themselves after %g s of cleanup: %s", self._hosting.options.cleanup_budget, ", ".join(overdue))
        await self._listener.aclose()
        await self._wait_for_handlers()


class _Signals:
    """SIGINT and SIGTERM for all servers that wait in one loop: with a receiver each, the last one alone would hear them."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[signal.Signals], None]] = []
        self.turn = anyio.Lock()
        """Held by the one of the waiting tasks that passes the signals on to all; when it ends, the next one goes on."""
        self.receiver = anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM)
        self.numbers = self.receiver.__enter__()


_signals: RunVar[_Signals | None] = RunVar("aster_signals", default=None)


async def _hear_signals(listener: Callable[[signal.Signals], None]) -> None:
    """Tell ``listener`` of each signal until this is cancelled. Only on the main thread."""
    signals = _signals.get()
    if signals is None:
        signals = _Signals()
        _signals.set(signals)
    signals.listeners.append(listener)
    try:
        async with signals.turn:
            async for number in signals.numbers:
                for told in list(signals.listeners):
                    told(number)
    finally:
        signals.listeners.remove(listener)
        if not signals.listeners:
            _signals.set(None)
            signals.receiver.__exit__(None, None, None)


class _Host:
    """What the server's connections need of it."""

    def __init__(self, services: HostedServices, policy: Policy | None, options: EndpointOptions, deadline_cap: float | None, debug: bool) -> None:
        self.services = services
        self.policy = policy
        self.options = options
        self.deadline_cap = deadline_cap
        self.debug = debug
        self.connections: set[ServerConnection] = set()
        try:
            self.hello_frame = encode_hello(Hello((PROTOCOL_VERSION,), options.settings(), tuple(services.manifest())))
        except LocalProtocolError as exc:
            raise ValueError(f"these services cannot be announced to clients: {exc}") from exc
        self.contract_frames = services.contract_frames()

    def find(self, header: Header) -> HostedMethod:
        """The method that a call is for."""
        return self.services.find(header)

    def find_session(self, service: str, version: int) -> HostedSession:
        """The service that a session is to be of."""
        return self.services.find_session(service, version)

    def accept(self, transport: Connection, lifetime: Lifetime) -> ConnectionHandler:
        """A peer has connected."""
        connection = ServerConnection(self, transport, lifetime.reactor, lifetime.inner)
        self.connections.add(connection)
        return connection

    def connection_over(self, connection: ServerConnection) -> None:
        """A connection has ended, with all its handlers."""
        self.connections.discard(connection)
