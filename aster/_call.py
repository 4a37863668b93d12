"""The driver of a call: the one place where protocol, codec, stream and cancel scope meet.

Both ends share ``CallDriver``: the waiting for messages and for credit. ``OutgoingCall`` is the client's end, driven by whoever made the call; ``IncomingCall`` is the server's, a
task of its own that owns the stream: the server's half of the stream ends when, and only when, that task has unwound.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
from anyio import TaskHandle

from aster._protocol.call import CallLimits, ClientCall, ReceiveHalf, SendHalf, ServerCall
from aster._protocol.events import Header, ResetCode, Target, Trailer, TrailerOrigin
from aster._protocol.frames import encode_header_start, metadata_size
from aster._protocol.states import State
from aster._reactor import Reactor, TimerHandle, Waiter
from aster.errors import AsterError, DecodeError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Stream
from aster.types import CallContext, Metadata, MethodInfo, Peer, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["HostedMethod", "IncomingCall", "OutgoingCall", "RemoteMethod", "current_call"]

logger = logging.getLogger("aster")

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

MESSAGES_PER_CHECKPOINT = 32
"""How many messages a stream passes on without letting other tasks run. A checkpoint each would cost more than the message (measured); none would starve the loop."""

_NO_METADATA = Metadata()
_OK = Trailer()

_current_call: ContextVar[CallContext] = ContextVar("aster_current_call")


def current_call() -> CallContext:
    """The call that the running handler serves.

    Raises:
        RuntimeError: no handler is running here.
    """
    try:
        return _current_call.get()
    except LookupError:
        raise RuntimeError("there is no current call: aster.current_call() works in a handler and in what it calls") from None


class CallDriver(ABC):
    """What both ends of a call share: taking messages, and waiting for credit to send."""

    __slots__ = ("_inbound", "_outbound", "_reactor", "_receiver", "_sender", "_since_checkpoint", "stream")

    stream: Stream

    def __init__(self, reactor: Reactor, inbound: ReceiveHalf, outbound: SendHalf) -> None:
        self._reactor = reactor
        self._inbound = inbound
        self._outbound = outbound
        self._receiver: Waiter | None = None
        self._sender: Waiter | None = None
        self._since_checkpoint = 0

    @abstractmethod
    def _inbound_is_over(self) -> bool:
        """Whether no message will come any more; raises what ended the call, if that was a failure."""

    @abstractmethod
    def _outbound_is_over(self) -> bool:
        """Whether what would be sent goes nowhere."""

    async def receive(self) -> bytes | None:
        """The next message, or ``None`` after the last one. Cancellation loses nothing.

        Raises:
            RpcError: the call failed, and all messages before that were taken.
            BusyResourceError: another task is receiving.
        """
        while not self._inbound.inbox:
            if self._inbound_is_over():
                return None
            await self._wait_receiver()
        await self._checkpoint_sometimes()
        return self.take()

    def take(self) -> bytes:
        """A message that has arrived; grants credit when it is time."""
        data = self._inbound.take()
        grant = self._inbound.grant()
        if grant:
            self.stream.write(grant)
        return data

    async def wait_credit(self) -> bool:
        """Wait until a message may be sent; false when the call ended instead."""
        while not self._outbound.ready:
            if self._outbound_is_over():
                return False
            if self._sender is not None:
                raise anyio.BusyResourceError("sending on this call")
            self._sender = self._reactor.waiter()
            try:
                await self._sender.wait()
            finally:
                self._sender = None
        return not self._outbound_is_over()

    async def _wait_receiver(self) -> None:
        if self._receiver is not None:
            raise anyio.BusyResourceError("receiving from this call")
        self._receiver = self._reactor.waiter()
        try:
            await self._receiver.wait()
        finally:
            self._receiver = None

    async def _checkpoint_sometimes(self) -> None:
        self._since_checkpoint += 1
        if self._since_checkpoint >= MESSAGES_PER_CHECKPOINT:
            self._since_checkpoint = 0
            await anyio.lowlevel.checkpoint()

    def _wake(self) -> None:
        if self._receiver is not None:
            self._receiver.wake()
        if self._sender is not None:
            self._sender.wake()


# The client's end


@dataclass(frozen=True, slots=True)
class RemoteMethod:
    """A method as a client calls it: with the codec of the mode that it chose."""

    service: ServiceInfo
    info: MethodInfo
    encode: Encode
    decode: Decode
    header_start: bytes

    @classmethod
    def create(cls, service: ServiceInfo, info: MethodInfo, mode: SerializationMode, encode: Encode, decode: Decode) -> RemoteMethod:
        """Prepare what is the same for every call."""
        target = Target(service.name, service.version, info.name, info.pattern, mode)
        return cls(service, info, encode, decode, encode_header_start(target))

    @property
    def label(self) -> str:
        """How messages to people name it."""
        return f"{self.service.name}.{self.info.name}"


class OutgoingOwner(Protocol):
    """What an outgoing call needs of its connection."""

    limits: CallLimits
    reactor: Reactor
    peer_metadata_limit: int
    peer_message_limit: int

    def open_call(self, call: OutgoingCall) -> Stream:
        """Open a stream; a slot must have been acquired."""
        ...

    def call_over(self, call: OutgoingCall) -> None:
        """Both halves of the call's stream have ended."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> TaskHandle[None]:
        """Run a task of the call in the connection's inner task group."""
        ...


class OutgoingCall(CallDriver):
    """The client's end of one call, from its header to the server's FIN or RESET.

    ``done`` says that there is an outcome: ``error``, or success. A call that is cancelled is done at once; it stays with its connection until the server has confirmed
    that the handler has unwound.
    """

    __slots__ = ("_deadline_timer", "_owner", "_protocol", "_pump", "_released", "_unwanted", "cancelled", "done", "error", "method", "pump_error")

    def __init__(self, owner: OutgoingOwner, method: RemoteMethod) -> None:
        self._protocol = ClientCall(method.info.pattern, owner.limits)
        super().__init__(owner.reactor, self._protocol.responses, self._protocol.requests)
        self._owner = owner
        self._pump: TaskHandle[None] | None = None
        self._deadline_timer: TimerHandle | None = None
        self._unwanted = False
        self._released = False
        self.method = method
        self.done = False
        self.cancelled = False
        self.error: RpcError | None = None
        self.pump_error: BaseException | None = None

    @property
    def metadata(self) -> Metadata:
        """What the server sent ahead of its first response."""
        return self._protocol.metadata or _NO_METADATA

    @property
    def trailers(self) -> Metadata:
        """What the server sent after its last response."""
        return self._protocol.trailer.metadata if self._protocol.trailer is not None else _NO_METADATA

    # Starting and sending

    def begin(self, request: bytes | None, timeout: float | None, metadata: Metadata, *, deadline: float | None = None) -> None:
        """Open the stream and send the header, and the only request if there is one.

        Args:
            request: the encoded request, or ``None`` when requests will follow.
            timeout: the remaining time in seconds that travels to the server.
            metadata: what to send along.
            deadline: when to give up by our own clock; ``None`` when no one but an ambient scope limits the call.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, the request or the metadata is above the server's limits; nothing was sent.
        """
        if request is not None:
            self._check_size(request)
        if len(metadata) and metadata_size(metadata) > self._owner.peer_metadata_limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the metadata of a call of {self.method.label} counts {metadata_size(metadata)} bytes; the server's limit is {self._owner.peer_metadata_limit} bytes",
            )
        protocol = self._protocol
        head = protocol.send_header(self.method.header_start, timeout, metadata)
        if request is not None:
            head += protocol.send_message(request) + protocol.send_end()
        self.stream = self._owner.open_call(self)
        self.stream.write(head)
        if deadline is not None:
            self._deadline_timer = self._reactor.call_at(deadline, self._expire)

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._owner.peer_message_limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"a request of {self.method.label} takes {len(payload)} bytes; the server's limit is {self._owner.peer_message_limit} bytes",
            )

    async def send(self, payload: bytes) -> bool:
        """Send one request, once there is credit; false when the call ended and takes no more.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, it is above the server's limit.
        """
        self._check_size(payload)
        if not await self.wait_credit():
            return False
        self.stream.write(self._protocol.send_message(payload))
        await self._checkpoint_sometimes()
        return True

    def end_requests(self) -> None:
        """Tell the server that no more requests follow. Idempotent."""
        if self._outbound.state is not State.ENDED and not self._outbound_is_over():
            self.stream.write(self._protocol.send_end())

    @property
    def requests_ended(self) -> bool:
        """Whether ``end_requests`` was called."""
        return self._outbound.state is State.ENDED

    def start_pump(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Send what ``requests`` yields from a task of its own, then end the requests."""
        self._pump = self._owner.spawn(lambda: self._run_pump(requests), f"aster requests of {self.method.label}")

    async def _run_pump(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        try:
            async with _closing(requests) as items:
                async for item in items:
                    if not await self.send(self.method.encode(item)):
                        return
            self.end_requests()
        except Exception as exc:
            self.pump_error = exc
            self.cancel(ResetCode.CANCELLED)

    async def close_pump(self) -> None:
        """Stop the request iterable and wait until it is closed; its own exception comes out of here."""
        await self.stop_pump()
        if self.pump_error is not None:
            error, self.pump_error = self.pump_error, None
            raise error

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the loop's thread, from any thread and from destructors."""
        self._reactor.call_soon_threadsafe(callback)

    async def stop_pump(self) -> None:
        """Stop the request iterable and wait, shielded, until it is closed."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            with anyio.CancelScope(shield=True):
                await pump.wait()

    # Receiving

    async def wait_done(self) -> None:
        """Wait for the outcome."""
        while not self.done:
            await self._wait_receiver()

    def single_response(self) -> Any:
        """The only response of a call that is done.

        Raises:
            RpcError: the call failed, or its response cannot be decoded (INTERNAL).
        """
        if self.error is not None:
            raise self.error
        return self.decode(self._inbound.take())

    def decode(self, payload: bytes) -> Any:
        """A response as a value.

        Raises:
            RpcError: INTERNAL, it is not a value of the declared type.
        """
        try:
            return self.method.decode(payload)
        except DecodeError as exc:
            raise RpcError(StatusCode.INTERNAL, f"a response of {self.method.label} cannot be decoded: {exc}") from exc

    def _inbound_is_over(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.done

    def _outbound_is_over(self) -> bool:
        return self.done or self._unwanted

    @property
    def ended_by_call_deadline(self) -> bool:
        """Whether the server was the first to see the deadline pass that this side gave it."""
        trailer = self._protocol.trailer
        return trailer is not None and trailer.origin is TrailerOrigin.DEADLINE

    # Ending

    def cancel(self, code: ResetCode) -> None:
        """End the call from here: nothing more is read or sent. Without effect when it is done."""
        if self.done:
            return
        self.cancelled = True
        self._settle(RpcError(StatusCode.CANCELLED, f"the call of {self.method.label} was cancelled by this side"))
        self._tear_down(code)

    def _expire(self) -> None:
        self._deadline_timer = None
        if not self.done:
            self._settle(RpcError(StatusCode.DEADLINE_EXCEEDED, f"the call of {self.method.label} did not end within its timeout"))
            self._tear_down(ResetCode.DEADLINE)

    def _tear_down(self, code: ResetCode) -> None:
        self._inbound.discard()
        if not self._released:
            self.stream.reset(code)

    def _settle(self, error: RpcError | None) -> None:
        self.done = True
        self.error = error
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if self._pump is not None:
            self._pump.cancel()
        self._wake()

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the server's half."""
        if self.done:
            return
        try:
            self._protocol.receive_data(data)
        except RemoteProtocolError as exc:
            self._broken(exc)
            return
        trailer = self._protocol.trailer
        if trailer is None:
            self._wake()
        elif trailer.status is StatusCode.OK:
            self._settle(None)
        else:
            self._settle(RpcError(trailer.status, trailer.message, trailers=trailer.metadata))

    def _broken(self, exc: RemoteProtocolError) -> None:
        error = RpcError(exc.code, f"{self.method.label}: {exc}")
        error.__cause__ = exc
        self._settle(error)
        self._tear_down(ResetCode.PROTOCOL)

    def finished(self) -> None:
        """The server's half ended."""
        if not self.done:
            try:
                self._protocol.receive_end()
            except RemoteProtocolError as exc:
                self._broken(exc)
        self._release()
        self.stream.finish()

    def was_reset(self, code: int) -> None:
        """The server's half was torn down: the confirmation of a cancel, or a broken server."""
        if not self.done:
            self._broken(RemoteProtocolError(f"the server tore the stream down without an outcome (code {code})"))
        self._release()
        self.stream.finish()

    def was_stopped(self, code: int) -> None:
        """The server reads no more requests; its trailer is here or on the way."""
        self._unwanted = True
        self._wake()

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone."""
        if not self.done:
            failure = RpcError(StatusCode.UNAVAILABLE, f"{self.method.label}: {error}")
            failure.__cause__ = error
            self._settle(failure)
        self._release()

    def _release(self) -> None:
        if not self._released:
            self._released = True
            self._owner.call_over(self)
            self._wake()


class _closing:
    """Iterates what a caller gave as requests, and closes it: ``aclose`` or ``close``, if it has one, however the iteration ended."""

    def __init__(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._requests = requests
        self._iterator: Any = None

    async def __aenter__(self) -> AsyncIterator[Any]:
        if isinstance(self._requests, AsyncIterable):
            self._iterator = aiter(self._requests)
            return self._iterator
        self._iterator = iter(self._requests)
        return _steps(self._iterator)

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._iterator, AsyncIterator):
            aclose = getattr(self._iterator, "aclose", None)
            if aclose is not None:
                await aclose()
        else:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()


class _steps:
    """A plain iterator as an async one."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _steps:
        return self

    async def __anext__(self) -> Any:
        for item in self._iterator:
            return item
        raise StopAsyncIteration


# The server's end


@dataclass(frozen=True, slots=True)
class HostedMethod:
    """A method as a server runs it."""

    service: ServiceInfo
    info: MethodInfo
    handler: Callable[[Any], Any]
    decode: Decode
    encode: Encode

    @property
    def label(self) -> str:
        """How messages to people name it."""
        return f"{self.service.name}.{self.info.name}"


class IncomingOwner(Protocol):
    """What an incoming call needs of its connection."""

    limits: CallLimits
    reactor: Reactor
    peer: Peer
    peer_metadata_limit: int
    peer_message_limit: int
    deadline_cap: float | None
    debug: bool

    def admit(self, call: IncomingCall, header: Header) -> HostedMethod:
        """Find the method; raises RpcError when the call is refused."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> TaskHandle[None]:
        """Run the handler's task."""
        ...

    def call_over(self, call: IncomingCall) -> None:
        """Both halves of the call's stream have ended, and its task has unwound."""
        ...


class IncomingCall(CallDriver):
    """The server's end of one call.

    Three things end a handler early, and each is remembered so that the stream is ended in its own way once the handler has unwound: the peer reset its half (``_reset_code``),
    a broken rule or the server decided on an outcome (``_verdict``), the connection was lost (``_lost``).
    """

    __slots__ = ("_deadline", "_lost", "_owner", "_peer_ended", "_protocol", "_reset_code", "_task", "_unwound", "_verdict", "method")

    def __init__(self, owner: IncomingOwner, stream: Stream) -> None:
        self._protocol = ServerCall(owner.limits)
        super().__init__(owner.reactor, self._protocol.requests, self._protocol.responses)
        self._owner = owner
        self.stream = stream
        self._task: TaskHandle[None] | None = None
        self._deadline = math.inf
        self._reset_code: int | None = None
        self._verdict: Trailer | None = None
        self._lost = False
        self._peer_ended = False
        self._unwound = False
        self.method: HostedMethod | None = None

    @property
    def label(self) -> str:
        """How messages to people name it."""
        return self.method.label if self.method is not None else "a call without a header"

    @property
    def running(self) -> bool:
        """Whether its handler's task has not unwound."""
        return self._task is not None and not self._unwound

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's half."""
        if self._unwound or self._verdict is not None:
            return
        try:
            self._protocol.receive_data(data)
        except RemoteProtocolError as exc:
            self.fail(Trailer(exc.code, TrailerOrigin.SERVER, str(exc)))
            return
        if self._task is None and self._protocol.header is not None:
            self._start(self._protocol.header)
        else:
            self._wake()

    def finished(self) -> None:
        """The client's half ended."""
        self._peer_ended = True
        if not self._unwound and self._verdict is None:
            try:
                self._protocol.receive_end()
            except RemoteProtocolError as exc:
                self.fail(Trailer(exc.code, TrailerOrigin.SERVER, str(exc)))
        self._over_if_ended()

    def was_reset(self, code: int) -> None:
        """The client cancelled, or does not wait for the end of a call that is over here."""
        self._peer_ended = True
        if self.running:
            self._reset_code = code
            self._interrupt()
        else:
            self.stream.reset(code)
            self._unwound = True
            self._over_if_ended()

    def was_stopped(self, code: int) -> None:
        """Clients do not send STOP_SENDING; one that does has torn down the responses, which is a cancel."""
        if self.running:
            self._reset_code = code
            self._interrupt()

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone."""
        self._peer_ended = self._lost = True
        if self.running:
            self._interrupt()
        else:
            self._unwound = True
            self._over_if_ended()

    # Ending early

    def fail(self, trailer: Trailer) -> None:
        """End the call with an outcome of the server's own, after its handler has unwound. Without effect when it has ended."""
        if self._unwound or self._verdict is not None:
            return
        self._verdict = trailer
        if self._task is not None:
            self._interrupt()
        else:
            self._finish(trailer)

    def _interrupt(self) -> None:
        self._inbound.discard()
        if self._task is not None:
            self._task.cancel()

    def _start(self, header: Header) -> None:
        # The protocol chose its halves by the header's pattern.
        self._inbound, self._outbound = self._protocol.requests, self._protocol.responses
        try:
            self.method = self._owner.admit(self, header)
        except RpcError as exc:
            self.fail(Trailer(exc.code, TrailerOrigin.REFUSED, exc.message))
            return
        self._task = self._owner.spawn(self._run, f"aster {self.method.label}")

    # The task

    async def _run(self) -> None:
        trailer: Trailer | None = None
        try:
            trailer = await self._outcome()
        finally:
            self._finish(trailer)

    async def _outcome(self) -> Trailer:
        header, method = self._protocol.header, self.method
        assert header is not None
        assert method is not None
        timeout, cap = header.timeout, self._owner.deadline_cap
        capped = cap is not None and (timeout is None or cap < timeout)
        limit = cap if capped else timeout
        if limit is not None:
            self._deadline = self._reactor.now() + limit
        context = CallContext(
            peer=self._owner.peer,
            service=method.service.name,
            version=method.service.version,
            method=method.info.name,
            deadline=self._deadline,
            metadata=header.metadata,
            send_metadata=self._send_metadata,
        )
        _current_call.set(context)
        if limit is None:
            trailer = await self._guarded(method)
        else:
            with anyio.CancelScope(deadline=self._deadline) as scope:
                trailer = await self._guarded(method)
            if scope.cancelled_caught:
                origin = TrailerOrigin.CAP if capped else TrailerOrigin.DEADLINE
                whose = "the server's limit" if capped else "the call's timeout"
                trailer = Trailer(StatusCode.DEADLINE_EXCEEDED, origin, f"{method.label} was interrupted: {whose} of {limit:g} s is over")
        return self._with_trailers(trailer, context)

    async def _guarded(self, method: HostedMethod) -> Trailer:
        """Run the handler; whatever it raises becomes an outcome, except cancellation that came from outside."""
        try:
            await self._invoke(method)
        except RpcError as exc:
            return Trailer(exc.code, TrailerOrigin.HANDLER, exc.message)
        except anyio.get_cancelled_exc_class() as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # No scope around the handler is cancelled: it raised this by hand, and is just another bug.
            return self._handler_bug(method, exc)
        except Exception as exc:
            return self._handler_bug(method, exc)
        return _OK

    def _handler_bug(self, method: HostedMethod, exc: BaseException) -> Trailer:
        logger.error("the handler of %s raised %s", method.label, type(exc).__name__, exc_info=exc)
        message = f"{type(exc).__name__}: {exc}" if self._owner.debug else "the handler failed; the server's log has the reason"
        return Trailer(StatusCode.INTERNAL, TrailerOrigin.HANDLER, message)

    async def _invoke(self, method: HostedMethod) -> None:
        pattern = method.info.pattern
        argument: Any
        if pattern is RpcPattern.UNARY or pattern is RpcPattern.SERVER_STREAM:
            argument = await self._single_request(method)
        else:
            argument = RequestStream(self, method)
        if pattern is RpcPattern.UNARY or pattern is RpcPattern.CLIENT_STREAM:
            handler: Callable[[Any], Awaitable[Any]] = method.handler
            payload = self._encode(method, await handler(argument))
            await self._send(payload, method)
        else:
            await self._send_all(method, method.handler(argument))

    async def _single_request(self, method: HostedMethod) -> Any:
        while not self._protocol.requests_ended:
            await self._wait_receiver()
        return self.decode(method, self.take())

    def decode(self, method: HostedMethod, payload: bytes) -> Any:
        """A request as a value; INVALID_ARGUMENT when it is none."""
        try:
            return method.decode(payload)
        except DecodeError as exc:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"a request of {method.label} cannot be decoded: {exc}") from exc

    def _encode(self, method: HostedMethod, value: Any) -> bytes:
        try:
            return method.encode(value)
        except (TypeError, ValueError) as exc:
            logger.error("%s returned a %s that cannot be sent: %s", method.label, type(value).__name__, exc)  # noqa: TRY400
            raise RpcError(StatusCode.INTERNAL, f"the response of {method.label} cannot be encoded; the server's log has the reason") from exc

    async def _send_all(self, method: HostedMethod, responses: AsyncGenerator[Any, None]) -> None:
        # The generator runs whole in this task, with no scope around a step; it is closed here, not by the collector.
        async with aclosing(responses):
            async for value in responses:
                await self._send(self._encode(method, value), method)
                await self._checkpoint_sometimes()

    async def _send(self, payload: bytes, method: HostedMethod) -> None:
        if len(payload) > self._owner.peer_message_limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"a response of {method.label} takes {len(payload)} bytes; the client's limit is {self._owner.peer_message_limit} bytes",
            )
        if self._outbound.ready or await self.wait_credit():
            self.stream.write(self._protocol.send_message(payload))

    def _send_metadata(self, metadata: Metadata) -> None:
        if metadata_size(metadata) > self._owner.peer_metadata_limit:
            raise ValueError(f"the metadata counts {metadata_size(metadata)} bytes; the client's limit is {self._owner.peer_metadata_limit} bytes")
        try:
            frame = self._protocol.send_metadata(metadata)
        except LocalProtocolError as exc:
            raise RuntimeError("metadata can be sent once, ahead of the first response") from exc
        self.stream.write(frame)

    def _with_trailers(self, trailer: Trailer, context: CallContext) -> Trailer:
        metadata = context.trailers
        if not len(metadata):
            return trailer
        if metadata_size(metadata) > self._owner.peer_metadata_limit:
            logger.error("%s set trailers of %d bytes; the client's limit is %d bytes", self.label, metadata_size(metadata), self._owner.peer_metadata_limit)
            return Trailer(StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.HANDLER, f"the trailers of {self.label} are above the client's limit")
        return trailer._replace(metadata=metadata)

    def _inbound_is_over(self) -> bool:
        return self._protocol.requests_ended

    def _outbound_is_over(self) -> bool:
        return self._unwound

    def _finish(self, trailer: Trailer | None) -> None:
        """The handler has unwound: end this half of the stream."""
        self._unwound = True
        self._inbound.discard()
        if self._reset_code is not None:
            self.stream.reset(self._reset_code)
        elif not self._lost:
            verdict = self._verdict or trailer or Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "the server is shutting down")
            self.stream.write(self._trailer_frame(verdict))
            self.stream.finish()
            if not self._protocol.requests_ended and not self._peer_ended:
                self.stream.stop(ResetCode.NOT_NEEDED)
        self._over_if_ended()

    def _trailer_frame(self, trailer: Trailer) -> bytes:
        try:
            return self._protocol.send_trailer(trailer)
        except LocalProtocolError as exc:
            # Only an error text beyond all reason gets here, or a handler that returned in the middle of a message's credit.
            return self._protocol.send_trailer(Trailer(StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.HANDLER, str(exc)))

    def _over_if_ended(self) -> None:
        if self._unwound and self._peer_ended:
            self._owner.call_over(self)


T = TypeVar("T")


class RequestStream(AsyncIterator[T], Generic[T]):
    """The requests of a call, as its handler reads them. Ends when the client has sent its last one."""

    def __init__(self, call: IncomingCall, method: HostedMethod) -> None:
        self._call = call
        self._method = method

    async def __anext__(self) -> T:
        payload = await self._call.receive()
        if payload is None:
            raise StopAsyncIteration
        return self._call.decode(self._method, payload)

    async def aclose(self) -> None:
        """Nothing to release: the call ends with its handler. Present so that a handler may treat its requests as any async generator."""
