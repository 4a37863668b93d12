"""The caller's side: ``async with aster.connect(...)``."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from aster._channel import ClientChannel, ServiceChannel
from aster._client_connection import ClientConnection
from aster._declarations import check_methods, service_info
from aster._endpoint import EndpointOptions
from aster._invoke import InteractiveCall
from aster._lifetime import Lifetime
from aster._methods import BidiStreamMethod, ClientStreamMethod
from aster._options import check_seconds
from aster._sessions import SessionBlock
from aster._streams import ResponseStream
from aster._stub import Unset, interactive_call, make_stub, with_settings
from aster.errors import AddressError
from aster.interceptors import Interception, Interceptor, checked_interceptors
from aster.transports.base import Transport, checked_transport
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity, identity_from, join_host_port
from aster.types import Metadata, MetadataLike, Peer, SerializationMode, ServiceInfo

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ADDRESS_VARIABLE", "AsterClient", "open_call", "with_options"]

S = TypeVar("S")
Req = TypeVar("Req")
Res = TypeVar("Res")

ADDRESS_VARIABLE = "ASTER_ENDPOINT_ADDR"
"""The environment variable that gives the address when ``connect`` is given none."""


class AsterClient:
    """A client of one server, for as long as its ``async with`` block lasts.

    ::

        async with aster.connect(address) as client:
            tasks = await client.client(TaskService)
            result = await tasks.get_task(TaskRequest(task_id="1"))

    Entering completes the handshake; what keeps it from doing so is raised. When the connection is lost later, or its server goes away, the client connects
    again by itself, at once and then after ever longer waits, and calls wait for that, up to ``connect_timeout`` and within their deadlines. Calls that no
    handler has seen are repeated once, and those of idempotent methods when the server was unavailable.

    Leaving cancels what calls still run and waits, shielded, until the server has confirmed that their handlers have unwound: at the most for the server's
    cleanup budget, of which a client grants 60 seconds, and one second for the way; then it closes the connection. Cancellation while the block is entered
    gives the attempt up; while it is left, it comes out once that is done, unless the block raised something of its own.

    Args:
        address: ``server.address``; by default the environment variable ``ASTER_ENDPOINT_ADDR``.
        identity: the key that this client proves, or the path of its key file; by default a new one.
        transport: how bytes travel; QUIC by default.
        connect_timeout: seconds that entering may take, and that a call waits while there is no connection.
        window: bytes that each direction of a call may have unconsumed.
        max_message_size: bytes of the largest message that is accepted.
        max_metadata_size: bytes of the most metadata that is accepted at a time.
        max_connection_buffer: bytes of messages that all calls of a connection may hold here together before they are taken; the call that would cross it
            fails with RESOURCE_EXHAUSTED.
        idle_timeout: seconds of silence after which the connection counts as lost.
        keepalive_interval: seconds of silence after which an idle server is asked for a sign of life; at the most a third of ``idle_timeout`` is used.
        interceptors: what wraps each call, the outermost first: instances of ``Interceptor``, or classes that are called without arguments.

    Raises:
        AddressError: the address is missing or malformed.
        TypeError: the address is no ``str``, or an option of the wrong type.
        KeyFileError: the key file cannot be used.
        ValueError: an option is out of range.
        ConnectError: entering the block failed; the subclasses tell an unreachable server, a wrong key, another protocol and a refusal apart.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        identity: Identity | str | os.PathLike[str] | None = None,
        transport: Transport | None = None,
        connect_timeout: float = 10.0,
        window: int = 262_144,
        max_message_size: int = 4_194_304,
        max_metadata_size: int = 8_192,
        max_connection_buffer: int = 536_870_912,
        idle_timeout: float = 30.0,
        keepalive_interval: float = 10.0,
        interceptors: Iterable[Interceptor | type[Interceptor]] = (),
    ) -> None:
        check_seconds(connect_timeout, "connect_timeout")
        self.options = EndpointOptions(
            window=window,
            max_message_size=max_message_size,
            max_metadata_size=max_metadata_size,
            max_connection_buffer=max_connection_buffer,
            idle_timeout=idle_timeout,
            keepalive_interval=keepalive_interval,
        )
        self._address = _parse_address(address)
        self._identity = identity_from(identity)
        self._transport = QuicTransport() if transport is None else checked_transport(transport)
        self._connect_timeout = connect_timeout
        self._interceptors = checked_interceptors(interceptors)
        self._lifetime: Lifetime | None = None
        self._channel: ClientChannel | None = None

    @property
    def endpoint_id(self) -> str:
        """This client's public key, 64 hex digits: who it is to the server."""
        return self._identity.endpoint_id

    # The block

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            raise RuntimeError("an AsterClient connects once: make a new one for another block")
        self._lifetime = lifetime = Lifetime()
        await lifetime.open()
        where = join_host_port(self._address.host, self._address.port)
        interception = Interception(self._interceptors, Peer(self._address.endpoint_id, where)) if self._interceptors else None
        channel = ClientChannel(lifetime, self.options, self._dial, where, self.endpoint_id, self._connect_timeout, interception)
        try:
            await channel.open()
        except BaseException as exc:
            await lifetime.close_failed(exc, channel.leave)
            raise
        self._channel = channel
        return self

    async def _dial(self, connection: ClientConnection) -> None:
        transport = await self._transport.connect(
            self._address,
            identity=self._identity,
            handler=connection,
            reactor=connection.reactor,
            options=self.options.for_transport(),
        )
        await connection.say_hello(transport)

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        channel, lifetime = self._channel, self._lifetime
        assert channel is not None
        assert lifetime is not None
        await lifetime.close(exc, channel.leave)

    @overload
    async def client(self, service: type[S]) -> S: ...
    # An interface: mypy takes an abstract class or a Protocol for a Callable, but not for a type.
    @overload
    async def client(self, service: Callable[..., S]) -> S: ...
    async def client(self, service: Any) -> Any:
        """A stub of a service: an object of that class to a type checker, whose methods call the server.

        Raises:
            TypeError: ``service`` is not a class decorated with ``@service``, has no methods, or is session-scoped.
            ValueError: the service's contract is larger than can be compared.
            RpcError: UNIMPLEMENTED, the server has no such service or version; FAILED_PRECONDITION, it has one whose messages or methods differ so that not
                every value would arrive, with the differences in the message; UNAVAILABLE, there was no connection, or no answer, within
                ``connect_timeout`` seconds, there will be none since another key answers now, or the block was left.
            RuntimeError: the block was not entered.

        Makes no call: it only waits, and may be cancelled, while there is no connection, and until the server has told its contract if that is not the
        client's own.
        """
        info, channel = self._checked(service, "client")
        if info.scoped == "stream":
            raise TypeError(f"{service.__name__} is scoped='stream', so it is called in sessions: write 'async with client.session({service.__name__}) as ...'")
        checked = ServiceChannel(channel, service)
        await checked.connection()
        return make_stub(cast("type[Any]", service), checked)

    @overload
    def session(self, service: type[S]) -> SessionBlock[S]: ...
    @overload
    def session(self, service: Callable[..., S]) -> SessionBlock[S]: ...
    def session(self, service: Any) -> SessionBlock[Any]:
        """A session of a service with ``scoped="stream"``, for the length of a block: ``async with client.session(ChatRoomService) as room``.

        Nothing is sent before the block is entered. ``SessionBlock`` tells what entering and leaving it do; each call of ``session`` gives another session.

        Raises:
            TypeError: ``service`` is not a class decorated with ``@service``, has no methods, or is shared.
            RuntimeError: the client's block was not entered.
        """
        info, channel = self._checked(service, "session")
        if info.scoped == "shared":
            raise TypeError(f"{service.__name__} is shared by all callers and has no sessions: write 'await client.client({service.__name__})'")
        return SessionBlock(channel, service, info)

    def _checked(self, service: object, method: str) -> tuple[ServiceInfo, ClientChannel]:
        if not isinstance(service, type):
            raise TypeError(f"{method}() takes the class of a service, not {_described(service)}")
        info = service_info(service)
        check_methods(service)
        if self._channel is None:
            raise RuntimeError("the client is not connected: use it inside `async with aster.connect(...) as client`")
        return info, self._channel


def _described(service: object) -> str:
    return "a str" if isinstance(service, str) else f"an instance of {type(service).__name__}"


def _parse_address(address: str | None) -> Address:
    if address is not None:
        return Address.parse(address)
    from_environment = os.environ.get(ADDRESS_VARIABLE)
    if from_environment is None:
        raise AddressError(f"no address: give connect() the server's address, or set the environment variable {ADDRESS_VARIABLE} to it")
    if not from_environment:
        raise AddressError(f"no address: the environment variable {ADDRESS_VARIABLE} is set, but empty; set it to the server's address")
    try:
        return Address.parse(from_environment)
    except AddressError as exc:
        raise AddressError(f"the environment variable {ADDRESS_VARIABLE} is set to a malformed address: {exc}") from None


def with_options(
    stub: S,
    *,
    timeout: float | type[Unset] | None = Unset,
    metadata: MetadataLike | None = None,
    serialization: SerializationMode | None = None,
) -> S:
    """A stub of the same type whose calls differ in what is given; the original stays as it is.

    Args:
        stub: what ``await client.client(...)`` or the block of a session gave.
        timeout: seconds for each call, instead of the methods' own; ``None`` for no limit.
        metadata: what each call sends along, instead of what the stub sent before.
        serialization: the mode of each call; methods that do not allow it keep theirs.

    Raises:
        TypeError: ``stub`` is not a stub, or an option has the wrong type.
        ValueError: the timeout is not positive, the metadata is malformed, or no method allows the mode.
    """
    if timeout is not Unset:
        check_seconds(timeout, "timeout", none=True)
    if serialization is not None and not isinstance(serialization, SerializationMode):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
        raise TypeError(f"serialization must be a SerializationMode such as SerializationMode.NATIVE, not {serialization!r}")
    return with_settings(stub, timeout, None if metadata is None else Metadata(metadata), serialization)


@overload
def open_call(method: BidiStreamMethod[Req, Res]) -> InteractiveCall[Req, Res]: ...
@overload
def open_call(method: ClientStreamMethod[Req, Res]) -> InteractiveCall[Req, Res]: ...
@overload
def open_call(method: Callable[[Req], Coroutine[Any, Any, Res]]) -> InteractiveCall[Req, Res]: ...
@overload
def open_call(method: Callable[[Req], ResponseStream[Res]]) -> InteractiveCall[Req, Res]: ...
def open_call(method: Any) -> InteractiveCall[Any, Any]:
    """A call whose messages are sent and received one by one; use it as ``async with aster.open_call(tasks.execute) as call``.

    Raises:
        TypeError: ``method`` is not a method of a stub.
    """
    return interactive_call(method)
