"""The server's end of a call: a task that runs the handler and owns the stream. The server's half ends when, and only when, that task has unwound."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

from aster._call import CURRENT_CALL, CallDriver
from aster._failures import alone, shown, text_of, told_apart, unreadable
from aster._gate import Place
from aster._hosted import HostedMethod
from aster._protocol.call import CallLimits, ServerCall
from aster._protocol.events import SUCCESS, Header, ResetCode, Trailer, TrailerOrigin
from aster._protocol.values import metadata_size
from aster._reactor import Reactor
from aster._tasks import StartedTask
from aster.errors import AsterError, DecodeError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.interceptors import CallState
from aster.transports.base import Stream
from aster.types import CallContext, Metadata, MetadataValue, Peer, RpcPattern

__all__ = ["IncomingCall", "IncomingOwner", "RequestStream"]

logger = logging.getLogger("aster")

T = TypeVar("T")


class IncomingOwner(Protocol):
    """What an incoming call needs of its connection."""

    limits: CallLimits
    reactor: Reactor
    peer: Peer
    capabilities: frozenset[str]
    peer_metadata_limit: int
    peer_message_limit: int
    deadline_cap: float | None
    debug: bool

    def admit(self, call: IncomingCall, header: Header) -> HostedMethod:
        """Find the method; raises RpcError when the call is refused."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run the handler's task."""
        ...

    @property
    def interruption(self) -> Trailer:
        """The outcome of a call that was cancelled along with everything."""
        ...

    def handler_ended(self) -> None:
        """A handler's task has unwound."""
        ...

    def call_over(self, call: IncomingCall) -> None:
        """Both halves of the call's stream have ended, and its task has unwound."""
        ...


class IncomingCall(CallDriver):
    """The server's end of one call.

    Three things end a handler early, and each is remembered so that the stream is ended in its own way once the handler has
    unwound: the peer reset its half (``_reset_code``), a broken rule or the server decided on an outcome (``_verdict``), the
    connection was lost (``_lost``). From then on (``_interrupted``) no request is read and no response sent, also where the handler
    shields itself.
    """

    __slots__ = (
        "_begun",
        "_interrupted",
        "_lost",
        "_owner",
        "_peer_ended",
        "_place",
        "_protocol",
        "_reset_code",
        "_task",
        "_unwound",
        "_verdict",
        "deadline",
        "method",
    )

    def __init__(self, owner: IncomingOwner, stream: Stream, *, in_session: bool = False) -> None:
        self._protocol = ServerCall(owner.limits)
        super().__init__(owner.reactor, self._protocol.requests, self._protocol.responses)
        self._owner = owner
        self.stream = stream
        self._task: StartedTask | None = None
        self.deadline = math.inf
        self._begun = False
        self._place: Place | None = None
        self._reset_code: int | None = None
        self._verdict: Trailer | None = None
        self._lost = False
        self._interrupted = False
        # In a session the client's half of a call has no end of its own.
        self._peer_ended = in_session
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

    @property
    def stopped_by(self) -> TrailerOrigin:
        """What a trailer that ends it now has to say: until a handler has seen the call it is safe to send again."""
        return TrailerOrigin.SERVER if self._begun else TrailerOrigin.REFUSED

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's half."""
        if self._unwound or self._verdict is not None:
            return
        try:
            self._protocol.receive_data(data)
            if self._outbound.credited:
                self.check_credit()
        except RemoteProtocolError as exc:
            header = self._protocol.header
            # A call that is refused is refused, whether its header came alone or together with what broke a rule.
            if header is None or self._task is not None or self._is_admitted(header):
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
            if code == ResetCode.DEADLINE:
                # The client's clock was the first to reach it.
                self.deadline = min(self.deadline, self._reactor.now())
            self._interrupt()
        else:
            # QUIC itself answers our request to stop with a reset of that code; it takes nothing back, and what the call still has to say is on its way.
            if not (self._unwound and code == ResetCode.NOT_NEEDED):
                self.stream.reset(code)
            self._unwound = True
            self._over_if_ended()

    def was_stopped(self, code: int) -> None:
        """Clients do not send STOP_SENDING; one that does has torn down the responses, which is a cancel."""
        if self.running:
            self._reset_code = code
            self._interrupt()
        else:
            # A header that comes after this begins no handler.
            self._unwound = True
            self._over_if_ended()

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
        self._interrupted = True
        self._inbound.discard()
        if self._task is not None:
            self._task.cancel(self._never_ran)
        # Whoever is still asleep now has shielded itself, and waits for what will never come.
        self._wake()

    def _start(self, header: Header) -> None:
        if self._is_admitted(header):
            limit, _ = self._time_limit(header)
            if limit is not None:
                # From the header's arrival, not from the task's first step: a busy server gives nobody more time.
                self.deadline = self._reactor.now() + limit
            if self.method is not None and self.method.gate is not None:
                # Here, since tasks begin in any order on trio.
                self._place = self.method.gate.join(self._owner.peer.endpoint_id, self._reactor)
            self._task = self._owner.spawn(self._run, f"aster {self.label}")

    def _time_limit(self, header: Header) -> tuple[float | None, TrailerOrigin]:
        """Seconds that the call may take, and whose limit that is."""
        timeout, cap = header.timeout, self._owner.deadline_cap
        if cap is not None and (timeout is None or cap < timeout):
            return cap, TrailerOrigin.CAP
        return timeout, TrailerOrigin.DEADLINE

    def _is_admitted(self, header: Header) -> bool:
        try:
            self.method = self._owner.admit(self, header).for_one_call()
        except RpcError as exc:
            self.fail(Trailer(exc.code, TrailerOrigin.REFUSED, exc.message))
            return False
        return True

    # The task

    def _never_ran(self) -> None:
        self._finish(None)

    async def _run(self) -> None:
        trailer: Trailer | None = None
        try:
            # A call that is over before its task first ran begins no handler.
            if not self._interrupted:
                trailer = await self._outcome()
        finally:
            self._finish(trailer)

    async def _outcome(self) -> Trailer:
        header, method = self._protocol.header, self.method
        assert header is not None
        assert method is not None
        limit, origin = self._time_limit(header)
        sender = _MetadataSender(self)
        context = CallContext(
            peer=self._owner.peer,
            service=method.service.name,
            version=method.service.version,
            method=method.info.name,
            deadline=self.deadline,
            metadata=header.metadata,
            send_metadata=sender,
            capabilities=self._owner.capabilities,
        )
        CURRENT_CALL.set(context)
        try:
            return await self._outcome_of(method, context, limit, origin)
        finally:
            sender.call = None

    async def _outcome_of(self, method: HostedMethod, context: CallContext, limit: float | None, origin: TrailerOrigin) -> Trailer:
        if limit is None:
            trailer = await self._guarded(method)
        else:
            whose = "the server's limit" if origin is TrailerOrigin.CAP else "the call's timeout"
            trailer = Trailer(StatusCode.DEADLINE_EXCEEDED, origin, f"{method.label} was interrupted: {whose} of {limit:g} s is over")
            if self._reactor.now() < self.deadline:
                with anyio.CancelScope(deadline=self.deadline):
                    trailer = await self._guarded(method)
        try:
            return self._with_trailers(trailer, context)
        except Exception as exc:
            return self._handler_bug(exc)

    async def _guarded(self, method: HostedMethod) -> Trailer:
        """Run the handler, once there is a place for it."""
        if method.gate is not None and self._place is not None:
            try:
                await method.gate.enter(self._place)
            except RpcError as exc:
                return Trailer(exc.code, TrailerOrigin.REFUSED, exc.message)
        return await self._handled(method)

    async def _handled(self, method: HostedMethod) -> Trailer:
        """Run the handler; whatever it raises becomes an outcome, except cancellation that came from outside and an interrupt of the program."""
        try:
            if method.interceptors:
                await self._intercepted(method)
            else:
                await self._invoke(method, None)
        except BaseException as exc:
            return self._raised(exc)
        return SUCCESS

    async def _intercepted(self, method: HostedMethod) -> None:
        state = _Interception(self, method, CURRENT_CALL.get())

        async def run() -> None:
            await self._invoke(method, state)
            if self._interrupted:
                # The handler has not noticed, since it has ended just then; but the call has, and so the interceptors do.
                await anyio.lowlevel.checkpoint()

        await state.run(run)
        for response in state.answered or ():
            await self._send(self._encode(method, response), method)

    def _raised(self, exc: BaseException) -> Trailer:
        cancellation, failure = told_apart(exc)
        trailer = self._failed(failure) if failure is not None else None
        if cancellation is not None:
            raise cancellation
        assert trailer is not None
        return trailer

    def _failed(self, exc: BaseException) -> Trailer:
        error: BaseException = alone(exc)
        spoilt = unreadable(exc)  # of a row, which the handler reads
        if spoilt is not None:
            trace = exc if logger.isEnabledFor(logging.DEBUG) else None  # which may be as long as the message
            logger.info("%s could not read a message: %s", self.label, text_of(spoilt), exc_info=trace)
            # The caller's fault, or that of another peer whose message the handler has read or passed on; never a bug of the handler's.
            other = RpcError(StatusCode.INTERNAL, f"{self.label} was sent by another peer what cannot be decoded")
            error = self._undecodable(spoilt) if spoilt.is_request else other
        if isinstance(error, RpcError):
            try:
                return self._error_trailer(error)
            except Exception as malformed:
                return self._handler_bug(malformed)
        return self._handler_bug(exc)

    def _error_trailer(self, error: RpcError) -> Trailer:
        """The outcome that a handler chose; raises anything when its error was tampered with, or made without ``RpcError.__init__``."""
        checked = RpcError(error.code, error.message)
        trailer = Trailer(checked.code, TrailerOrigin.HANDLER, checked.message)
        if not error.details:
            return trailer
        assert self.method is not None
        return trailer._replace(details=self.method.details.encode(error, self.label))

    def _handler_bug(self, exc: BaseException) -> Trailer:
        wrapped = self.method is not None and self.method.interceptors
        text = "the handler of %s, or an interceptor around it, raised %s" if wrapped else "the handler of %s raised %s"
        logger.error(text, self.label, type(exc).__name__, exc_info=exc)
        message = shown(exc) if self._owner.debug else "the handler failed; the server's log has the reason"
        return Trailer(StatusCode.INTERNAL, TrailerOrigin.HANDLER, message)

    async def _invoke(self, method: HostedMethod, state: CallState | None) -> None:
        pattern = method.info.pattern
        argument: Any
        if pattern is RpcPattern.UNARY or pattern is RpcPattern.SERVER_STREAM:
            argument = await self._single_request(method)
            if state is not None:
                argument = state.request(argument)
                if state.answered is not None:
                    return
        else:
            argument = RequestStream[Any](self, method, state)
        self._begun = True
        if pattern is RpcPattern.UNARY or pattern is RpcPattern.CLIENT_STREAM:
            handler: Callable[[Any], Awaitable[Any]] = method.handler
            response = await handler(argument)
            await self._send(self._encode(method, response if state is None else state.response(response)), method)
        else:
            await self._send_all(method, method.handler(argument), state)

    async def _single_request(self, method: HostedMethod) -> Any:
        # The header may have come ahead of the rest of the request.
        while not (self._protocol.requests_ended and self._inbound.inbox):
            await self.wait_receiver()
        return self.decode(method, self.take())

    async def wait_receiver(self) -> None:
        """Wait for requests; in a call that is interrupted there is nothing to wait for.

        Raises:
            RpcError: CANCELLED, the call is over, and who waits is not cancelled: it shields itself or is none of the handler's tasks.
        """
        if self._interrupted:
            # No ordinary end of requests, or a handler would take a part of them for the whole.
            await anyio.lowlevel.checkpoint()
            raise RpcError(StatusCode.CANCELLED, f"{self.label} is over: no more requests come")
        await super().wait_receiver()

    def decode(self, method: HostedMethod, payload: bytes) -> Any:
        """A request as a value; INVALID_ARGUMENT when it is none."""
        try:
            return method.decode(payload)
        except DecodeError as exc:
            raise self._undecodable(exc) from exc

    def _undecodable(self, exc: DecodeError) -> RpcError:
        return RpcError(StatusCode.INVALID_ARGUMENT, f"a request of {self.label} cannot be decoded: {text_of(exc)}")

    def _encode(self, method: HostedMethod, value: Any) -> bytes:
        try:
            return method.encode(value)
        except (TypeError, ValueError) as exc:
            hint = "; an await is missing" if issubclass(type(value), Awaitable) else ""
            logger.error("%s returned a %s that cannot be sent: %s%s", method.label, type(value).__name__, exc, hint)  # noqa: TRY400
            raise RpcError(StatusCode.INTERNAL, f"the response of {method.label} cannot be encoded; the server's log has the reason") from exc

    async def _send_all(self, method: HostedMethod, responses: AsyncGenerator[Any, None], state: CallState | None) -> None:
        # The generator runs whole in this task, with no scope around a step; it is closed here, not by the collector.
        async with aclosing(responses):
            async for value in responses:
                payload = self._encode(method, value if state is None else state.response(value))
                await self._send(payload, method)
                if self._interrupted:
                    return
                self.count(len(payload))
                if self.checkpoint_is_due:
                    await self.checkpoint()

    def check_answer(self, response: Any, method: HostedMethod) -> None:
        """Refuse what cannot be sent as a response."""
        payload = method.encode(response)
        if len(payload) > self._owner.peer_message_limit:
            raise self._too_large(payload, method)

    def _too_large(self, payload: bytes, method: HostedMethod) -> RpcError:
        return RpcError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"a response of {method.label} takes {len(payload)} bytes; the client's limit is {self._owner.peer_message_limit} bytes: "
            "send a stream of smaller ones, or raise max_message_size of connect()",
        )

    async def _send(self, payload: bytes, method: HostedMethod) -> None:
        if len(payload) > self._owner.peer_message_limit:
            raise self._too_large(payload, method)
        if not self._interrupted and (self._outbound.ready or await self.wait_credit()):
            self.stream.write(self._protocol.send_message(payload))
            if method.sent is not None:
                method.sent()

    def send_metadata(self, metadata: Metadata) -> None:
        """Send metadata ahead of the first response.

        Raises:
            RpcError, ValueError: RESOURCE_EXHAUSTED, it is above the client's limit.
            LocalProtocolError: it is too late.
        """
        if metadata_size(metadata) > self._owner.peer_metadata_limit:
            message = f"the metadata counts {metadata_size(metadata)} bytes; the client's limit is {self._owner.peer_metadata_limit} bytes"
            logger.info("%s: %s", self.label, message)
            raise _AboveTheClientsLimit(StatusCode.RESOURCE_EXHAUSTED, message)
        self.stream.write(self._protocol.send_metadata(metadata))

    def _with_trailers(self, trailer: Trailer, context: CallContext) -> Trailer:
        metadata = context.trailers
        if not len(metadata):
            return trailer
        if metadata_size(metadata) > self._owner.peer_metadata_limit:
            message = f"the trailers of {self.label} count {metadata_size(metadata)} bytes; the client's limit is {self._owner.peer_metadata_limit} bytes"
            logger.info("%s", message)
            return Trailer(StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.HANDLER, message)
        return trailer._replace(metadata=metadata)

    def _inbound_is_over(self) -> bool:
        return self._protocol.requests_ended and not self._interrupted

    def _outbound_is_over(self) -> bool:
        return self._interrupted

    def _finish(self, trailer: Trailer | None) -> None:
        """The handler has unwound: end this half of the stream."""
        self._unwound = self._interrupted = True
        if self._place is not None and self.method is not None and self.method.gate is not None:
            self.method.gate.leave(self._place)
        self._inbound.discard()
        # A task that the handler has left behind may still read requests.
        self._wake()
        if self._reset_code is not None:
            self.stream.reset(self._reset_code)
        elif not self._lost:
            verdict = self._verdict or trailer or self._owner.interruption._replace(origin=self.stopped_by)
            self.stream.write(self._trailer_frame(verdict))
            self.stream.finish()
            if not self._protocol.requests_ended and not self._peer_ended:
                self.stream.stop(ResetCode.NOT_NEEDED)
        self._owner.handler_ended()
        self._over_if_ended()

    def _trailer_frame(self, trailer: Trailer) -> bytes:
        try:
            return self._protocol.send_trailer(trailer)
        except LocalProtocolError as exc:
            if trailer.details:
                logger.error("%s raised an RpcError whose details do not fit; they are left out: %s", self.label, exc)  # noqa: TRY400
                return self._trailer_frame(trailer._replace(details=()))
            # An error text beyond all reason.
            return self._protocol.send_trailer(Trailer(StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.HANDLER, str(exc)))
        except Exception as exc:
            return self._protocol.send_trailer(self._handler_bug(exc))

    def _over_if_ended(self) -> None:
        if self._unwound and self._peer_ended:
            self._owner.call_over(self)


class _Interception(CallState):
    """A call as the interceptors of the server share it: what they see and change is what its handler does."""

    side = "server"

    def __init__(self, call: IncomingCall, method: HostedMethod, context: CallContext) -> None:
        super().__init__(method.interceptors, method, context.peer)
        self._call = call
        self._hosted = method
        self._context = context

    @property
    def deadline(self) -> float:
        return self._call.deadline

    @property
    def metadata(self) -> Metadata:
        return self._context.metadata

    @metadata.setter
    def metadata(self, metadata: Metadata) -> None:
        if self.inside:
            raise RuntimeError(f"the handler of {self.method.label} has its metadata: change it ahead of the yield")
        self._context.metadata = metadata

    @property
    def trailers(self) -> Metadata:
        return self._context.trailers

    def add_trailer(self, key: str, value: MetadataValue) -> None:
        self._context.add_trailer(key, value)

    def check_answer(self, response: Any) -> None:
        self._call.check_answer(response, self._hosted)


class _MetadataSender:
    """What a ``CallContext`` knows of its call, for as long as that runs: copies of the handler's context outlive it, in tasks that a library begins in a
    handler and keeps, or in timers that were cancelled, and would keep the call with all its connection."""

    __slots__ = ("call",)

    def __init__(self, call: IncomingCall) -> None:
        self.call: IncomingCall | None = call

    def __call__(self, metadata: Metadata) -> None:
        try:
            if self.call is None:
                raise RuntimeError("metadata cannot be sent any more: the call of this context is over")
            self.call.send_metadata(metadata)
        except LocalProtocolError as exc:
            raise RuntimeError("metadata can be sent once, ahead of the first response; what is known later goes into add_trailer") from exc


class _AboveTheClientsLimit(RpcError, ValueError):
    """A handler that knows of the limit may catch it as a ValueError; else it is the outcome, and no bug: the client chose that limit."""


class RequestStream(AsyncIterator[T], Generic[T]):
    """The requests of a call, as its handler reads them. Ends when the client has sent its last one."""

    def __init__(self, call: IncomingCall, method: HostedMethod, state: CallState | None) -> None:
        self._call = call
        self._method = method
        self._state = state

    async def __anext__(self) -> T:
        payload = await self._call.receive()
        if payload is None:
            raise StopAsyncIteration
        request = self._call.decode(self._method, payload)
        return request if self._state is None else self._state.request(request)

    async def aclose(self) -> None:
        """Nothing to release: the call ends with its handler. Present so that a handler may treat its requests as any async generator."""
