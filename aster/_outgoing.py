"""The client's end of a call: from its header to the server's FIN or RESET."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

from aster._call import NO_METADATA, CallDriver, Decode, Encode, of_one_call
from aster._details import DetailCodec, ReceivedError
from aster._protocol.call import CallLimits, ClientCall
from aster._protocol.events import ResetCode, Target, TrailerOrigin
from aster._protocol.frames import encode_header_start
from aster._protocol.states import State
from aster._protocol.values import metadata_size
from aster._pump import RequestPump, log_error_of_requests
from aster._reactor import Reactor, TimerHandle
from aster._retries import FIRST_WAIT, LONGEST_WAIT, MAX_ATTEMPTS, Backoff, RetryBudget
from aster._tasks import StartedTask
from aster.errors import AsterError, DecodeError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Stream
from aster.types import Metadata, MethodInfo, SerializationMode, ServiceInfo

__all__ = ["OutgoingCall", "OutgoingOwner", "RemoteMethod", "Repeater"]

logger = logging.getLogger("aster")


@dataclass(frozen=True, slots=True)
class RemoteMethod:
    """A method as a client calls it: with the codec of the mode that it chose."""

    service: ServiceInfo
    info: MethodInfo
    encode: Encode
    decode: Decode
    details: DetailCodec
    header_start: bytes
    sent: Callable[[], None] | None = None
    """To be called once a request is on its way."""

    @classmethod
    def create(cls, service: ServiceInfo, info: MethodInfo, mode: SerializationMode, encode: Encode, decode: Decode, details: DetailCodec) -> RemoteMethod:
        """Prepare what is the same for every call."""
        target = Target(service.name, service.version, info.name, info.pattern, mode)
        return cls(service, info, encode, decode, details, encode_header_start(target))

    def for_one_call(self) -> RemoteMethod:
        """The same for the messages of one call."""
        changes = of_one_call(self.encode, self.decode, self.info.pattern, is_client=True)
        return replace(self, **changes) if changes else self

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

    def will_refuse(self, stream: Stream) -> bool:
        """Whether the server has said that it does not serve this stream."""
        ...

    def refused(self, reason: str) -> None:
        """The server has refused a call since it drains."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task of the call in the connection's inner task group."""
        ...


class Repeater(Protocol):
    """What repeats the calls that failed (law 13)."""

    budget: RetryBudget

    def repeat(self, call: OutgoingCall, delay: float) -> StartedTask:
        """In ``delay`` seconds find a connection for ``call.begin_again``; ``call.give_up`` if there is none."""
        ...


class OutgoingCall(CallDriver):
    """The client's end of one call, from its header to the server's FIN or RESET.

    ``done`` says that there is an outcome: ``error``, or success. A call that is cancelled is done at once; it stays with its
    connection until the server has confirmed that the handler has unwound.

    A call may take several attempts, each on a stream of its own. One that failed and is to be repeated (``_failure``) is not done: whoever waits for it waits
    on, and what is sent meanwhile is sent with the next attempt.
    """

    __slots__ = (
        "_attempts",
        "_backoff",
        "_deadline_timer",
        "_delay",
        "_expires",
        "_failure",
        "_metadata",
        "_owner",
        "_protocol",
        "_pump",
        "_refused",
        "_released",
        "_repeater",
        "_repetition",
        "_sent",
        "done",
        "error",
        "held",
        "method",
    )  # fmt: skip

    def __init__(self, owner: OutgoingOwner, method: RemoteMethod, repeater: Repeater | None) -> None:
        self._protocol = ClientCall(method.info.pattern, owner.limits)
        super().__init__(owner.reactor, self._protocol.responses, self._protocol.requests)
        self._owner = owner
        self._pump: RequestPump | None = None
        self._deadline_timer: TimerHandle | None = None
        self._released = False
        self._attempts = 1
        self._refused = False
        self._backoff: Backoff | None = None
        self._delay = 0.0
        self._failure: RpcError | None = None
        self._repetition: StartedTask | None = None
        # What a repetition has to send, as long as there can be one: while the server has given no sign that it read any of it, be it credit or a response.
        # At the most a window and a message, since more is not sent before credit has come.
        self._sent: list[bytes] | None = None
        self._repeater = repeater
        self.method = method
        self.done = False
        self.error: RpcError | None = None
        self.held = False
        """Whether a caller has it open, and may still ask for responses or for its outcome."""

    @property
    def metadata(self) -> Metadata:
        """What the server sent ahead of its first response."""
        return self._protocol.metadata or NO_METADATA

    @property
    def trailers(self) -> Metadata:
        """What the server sent after its last response."""
        return self._protocol.trailer.metadata if self._protocol.trailer is not None else NO_METADATA

    # Starting and sending

    def begin(self, request: bytes | None, metadata: Metadata, expires: float, *, deadline: float | None = None) -> None:
        """Open the stream and send the header, and the only request if there is one.

        Args:
            request: the encoded request, or ``None`` when requests will follow.
            metadata: what to send along.
            expires: when the call's time is over, by the reactor's clock; infinity when it has no limit. The remaining time travels to the server.
            deadline: when to give up by our own clock; ``None`` when no one but an ambient scope limits the call.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, the request or the metadata is above the server's limits; nothing was sent.
        """
        self._metadata, self._expires = metadata, expires
        self._sent = [] if request is None else [request]
        self._open(ended=request is not None)
        if self._repeater is None:
            self._sent = None
        if deadline is not None:
            self._deadline_timer = self._reactor.call_at(deadline, self._expire)

    def _open(self, *, ended: bool) -> None:
        """Open a stream, and send the header and what else there is."""
        size, limit = metadata_size(self._metadata), self._owner.peer_metadata_limit
        if size > limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the metadata of a call of {self.method.label} counts {size} bytes; the server's limit is {limit} bytes",
            )
        protocol = self._protocol
        timeout = None if self._expires == math.inf else self._expires - self._reactor.now()
        parts = [protocol.send_header(self.method.header_start, timeout, self._metadata)]
        for payload in self._sent or ():
            self._check_size(payload)
            parts.append(protocol.send_message(payload))
        if ended:
            parts.append(protocol.send_end())
        self.stream = self._owner.open_call(self)
        self.stream.write(b"".join(parts))

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._owner.peer_message_limit:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"a request of {self.method.label} takes {len(payload)} bytes; the server's limit is {self._owner.peer_message_limit} bytes: "
                "send a stream of smaller ones, or raise max_message_size of serve()",
            )

    async def send(self, payload: bytes) -> bool:
        """Send one request, once there is credit; false when the call ended and takes no more. Cancelled, it has sent nothing.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, it is above the server's limit.
            RuntimeError: another task ended the requests while this one waited.
        """
        self._check_size(payload)
        # Ahead of the message, so that who is cancelled here has sent nothing.
        if self.checkpoint_is_due:
            await self.checkpoint()
        if self._outbound_is_over() or not (self._outbound.ready or await self.wait_credit()):
            if self.requests_ended and not self.done:
                raise RuntimeError(f"the requests of {self.method.label} were ended while this one waited: nothing can be sent after that")
            return False
        self.stream.write(self._protocol.send_message(payload))
        if self.method.sent is not None:
            self.method.sent()
        if self._sent is not None:
            self._sent.append(payload)
        self.count(len(payload))
        return True

    async def send_request(self, request: Any) -> bool:
        """Encode one request and send it, as ``send`` does."""
        return await self.send(self.method.encode(request))

    def end_requests(self) -> None:
        """Tell the server that no more requests follow. Idempotent."""
        if not self._outbound_is_over():
            self.stream.write(self._protocol.send_end())
            self._wake()

    @property
    def requests_ended(self) -> bool:
        """Whether ``end_requests`` was called."""
        return self._outbound.state is State.ENDED

    def start_pump(self, requests: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Send what ``requests`` yields from a task of its own, then end the requests."""
        self._pump = RequestPump(self, requests)
        self._pump.start(self._owner.spawn, self.method.label)

    async def close_pump(self) -> None:
        """Stop the request iterable and wait until it is closed; its own exception comes out of here."""
        error = await self._pump.stop() if self._pump is not None else None
        if error is not None:
            raise error

    async def abandon(self) -> None:
        """Cancel the call for a caller that has something of its own to raise, mostly cancellation: what the request iterable raised is logged."""
        self.cancel(ResetCode.CANCELLED)
        error = await self._pump.stop() if self._pump is not None else None
        log_error_of_requests(self.method.label, error)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the loop's thread, from any thread and from destructors."""
        self._reactor.call_soon_threadsafe(callback)

    # Receiving

    async def wait_done(self) -> None:
        """Wait for the outcome."""
        while not self.done:
            await self.wait_receiver()

    def single_response(self) -> Any:
        """The only response of a call that is done.

        Raises:
            RpcError: the call failed, or its response cannot be decoded (INTERNAL).
        """
        if self.error is not None:
            self._raise(self.error)
        return self.decode(self._inbound.take())

    @property
    def is_completed(self) -> bool:
        """Whether it went well, and all its responses were taken: there is nothing more to hear of it."""
        return self.done and self.error is None and not self._inbound.inbox

    def _raise(self, error: RpcError) -> NoReturn:
        """Raise a copy: by its traceback a raised exception leads to the frames of the caller, and this call, which keeps its error, would keep all of them."""
        if isinstance(error, ReceivedError):
            error.complete(self.method.details, self.method.label)
        raise RpcError(error.code, error.message, details=error.details, trailers=error.trailers) from error.__cause__

    def decode(self, payload: bytes) -> Any:
        """A response as a value. One that is none ends the call: that is its outcome, whatever else was sent.

        Raises:
            RpcError: INTERNAL, it is not a value of the declared type.
            Exception: what else its ``__post_init__`` raised.
        """
        try:
            return self.method.decode(payload)
        except DecodeError as exc:
            message = f"a response of {self.method.label} cannot be decoded: {exc}"
            self.error = RpcError(StatusCode.INTERNAL, message)
            if not self.done:
                self._settle(self.error)
                self._tear_down(ResetCode.CANCELLED)
            self._inbound.discard()
            raise RpcError(StatusCode.INTERNAL, message) from exc
        except Exception:
            # A bug of the caller's own class, in its __post_init__: it comes out as itself, and ends the call.
            self.cancel(ResetCode.CANCELLED)
            raise

    def _inbound_is_over(self) -> bool:
        if self.error is not None:
            self._raise(self.error)
        return self.done

    def _outbound_is_over(self) -> bool:
        return self.done or self.requests_ended

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
        self._settle(RpcError(StatusCode.CANCELLED, f"the call of {self.method.label} was cancelled by this side"))
        self._inbound.discard()
        self._tear_down(code)

    def _expire(self) -> None:
        self._deadline_timer = None
        if not self.done:
            self._settle(RpcError(StatusCode.DEADLINE_EXCEEDED, f"the call of {self.method.label} did not end within its timeout"))
            self._tear_down(ResetCode.DEADLINE)

    def _tear_down(self, code: ResetCode) -> None:
        # What arrived before stays readable: an error, our own clock's included, comes after the messages that came before it.
        if not self._released:
            self.stream.reset(code)

    def _settle(self, error: RpcError | None) -> None:
        self.done = True
        self.error = error
        self._sent = self._failure = None
        if self._repetition is not None:
            self._repetition.cancel(_nothing)
            self._repetition = None
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if self._pump is not None:
            self._pump.cancel()
        self._wake()

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the server's half."""
        if self.done or self._failure is not None:
            return
        try:
            self._protocol.receive_data(data)
            if self._outbound.credited:
                self.check_credit()
                self._sent = None
        except RemoteProtocolError as exc:
            self._broken(exc)
            return
        trailer = self._protocol.trailer
        if trailer is None:
            if self._sent is not None and self._inbound.received:
                self._sent = None
            self._wake()
        elif trailer.status is StatusCode.OK:
            if self._repeater is not None:
                self._repeater.budget.earn()
            self._settle(None)
        else:
            self._failed(ReceivedError(trailer))

    def _broken(self, exc: RemoteProtocolError) -> None:
        error = RpcError(exc.code, f"{self.method.label}: {exc}")
        error.__cause__ = exc
        self._settle(error)
        self._tear_down(ResetCode.PROTOCOL)

    def finished(self) -> None:
        """The server's half ended."""
        if not self.done and self._failure is None:
            try:
                self._protocol.receive_end()
            except RemoteProtocolError as exc:
                self._broken(exc)
        self._release()
        self.stream.finish()

    def was_reset(self, code: int) -> None:
        """The server's half was torn down: the confirmation of a cancel, or a broken server."""
        if not self.done and self._failure is None:
            self._broken(RemoteProtocolError(f"the server tore the stream down without an outcome (code {code})"))
        self._release()
        self.stream.finish()

    def was_stopped(self, code: int) -> None:
        """The server reads no more requests; its trailer is here or on the way. Who sends is not woken, and waits for that: it may say that the call is to be
        repeated."""
        self._outbound.stop()

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone."""
        if not self.done and self._failure is None:
            failure = RpcError(StatusCode.UNAVAILABLE, f"{self.method.label}: {error}")
            failure.__cause__ = error
            self._failed(failure)
        self._release()

    def end(self, error: RpcError) -> None:
        """What the call is a part of is over, and no more of it comes."""
        if not self.done:
            self._settle(error)
        self._release()

    def _release(self) -> None:
        if not self._released:
            self._released = True
            self._inbound.leave()
            self._owner.call_over(self)
            if self._failure is None or self._repeater is None:
                self._wake()
            else:
                self._repetition = self._repeater.repeat(self, self._delay)

    # Repeating (law 13)

    def _failed(self, error: RpcError) -> None:
        """This attempt failed, and so did the call, unless it is repeated, once the attempt's stream has ended."""
        if error.code is StatusCode.UNAVAILABLE and self._may_be_repeated(error.__cause__):
            self._failure = error
        else:
            self._settle(error)

    def _may_be_repeated(self, loss: BaseException | None) -> bool:
        # Metadata and responses have been seen by the caller; gRPC counts a call as committed from then on, too.
        if self._repeater is None or self._sent is None or self._inbound.received or self._protocol.metadata is not None:
            return False
        if not self._refused and self._was_seen_by_no_handler():
            self._refused, self._delay = True, 0.0
            self._owner.refused(f"it refused a call of {self.method.label}")
            return True
        # With what was taken from a request iterable a handler may have done anything.
        if not self.method.info.idempotent or (self._sent and self.method.info.pattern.streams_requests):
            return False
        if not self._repeater.budget.spend(loss) or self._attempts >= MAX_ATTEMPTS:
            return False
        if self._backoff is None:
            self._backoff = Backoff(FIRST_WAIT, LONGEST_WAIT)
        self._delay = self._backoff.next()
        return self._reactor.now() + self._delay < self._expires

    def _was_seen_by_no_handler(self) -> bool:
        trailer = self._protocol.trailer
        return trailer.origin is TrailerOrigin.REFUSED if trailer is not None else self._owner.will_refuse(self.stream)

    def begin_again(self, owner: OutgoingOwner) -> None:
        """Make another attempt on another stream, with all that was sent on the one before. Without effect when the call is done.

        Raises:
            RpcError: RESOURCE_EXHAUSTED, something is above this server's limits; nothing was sent.
        """
        if self._failure is None:
            return
        ended = self.requests_ended
        self._owner = owner
        self._protocol = ClientCall(self.method.info.pattern, owner.limits)
        self._inbound, self._outbound = self._protocol.responses, self._protocol.requests
        try:
            self._open(ended=ended)
        except LocalProtocolError as exc:  # this server takes less at once than the one before
            logger.info("%s is not repeated: %s", self.method.label, exc)
            self.give_up()
            return
        logger.debug("%s was repeated: %s", self.method.label, self._failure)
        self._attempts += 1
        self._failure = self._repetition = None
        self._released = False
        self._wake()

    def give_up(self, error: RpcError | None = None) -> None:
        """The call is not repeated after all, for a reason of its own or for want of a connection. Without effect when it is done, or was begun again."""
        if self._failure is not None:
            self._repetition = None
            self._settle(error or self._failure)


def _nothing() -> None:
    """What is to be told of the end of a task that tells by itself."""
