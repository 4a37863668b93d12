"""The server's end of a session: a task that owns the stream and the instance, and a task group for all that runs on its behalf."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from aster._failures import alone, parted, shown, text_of, told_apart, unreadable
from aster._gate import Gate, Place
from aster._hosted import HostedMethod
from aster._incoming import IncomingCall
from aster._protocol.call import CallLimits
from aster._protocol.events import SUCCESS, Header, Trailer, TrailerOrigin
from aster._protocol.session import CallBytes, CallCancelled, RequestEvent, ServerSession, SessionOpened
from aster._reactor import Reactor
from aster._tasks import StartedTask
from aster.errors import AsterError, LocalProtocolError, RemoteProtocolError, RpcError, StatusCode
from aster.transports.base import Stream
from aster.types import CapabilityRequirement, Peer, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["HostedSession", "IncomingSession", "IncomingSessionOwner", "SessionContext", "current_session", "refused_while_draining"]

logger = logging.getLogger("aster")

_ABORTED = Trailer(
    StatusCode.ABORTED, TrailerOrigin.SERVER, "a background task of the session failed, or its task group was cancelled; the server's log says which"
)


class SessionContext:
    """The session that a handler is part of, from ``aster.current_session()``.

    Attributes:
        peer: whose session it is.
        capabilities: what that peer was granted; empty unless the server has a policy.
        service: the service's name; ``version`` its version.
        task_group: for background tasks, which go on between calls. They are cancelled when the session ends, and have unwound before ``on_session_close`` is
            called. One that raises ends the session: the call that runs then and all later ones fail with ABORTED, and the log has the exception at ERROR. To
            end the session on purpose, cancel the group's ``cancel_scope``; its calls fail with ABORTED too.
    """

    __slots__ = ("capabilities", "peer", "service", "task_group", "version")

    def __init__(self, peer: Peer, capabilities: frozenset[str], service: str, version: int, task_group: TaskGroup) -> None:
        self.peer = peer
        self.capabilities = capabilities
        self.service = service
        self.version = version
        self.task_group = task_group


_CURRENT_SESSION: ContextVar[SessionContext] = ContextVar("aster_current_session")


def current_session() -> SessionContext:
    """The session that this code runs in: ``__init__`` of a service with ``scoped="stream"``, its handlers, tasks that these start, its ``on_session_close``.

    Raises:
        RuntimeError: it runs in no session; the service is shared, or its instance was not made by a server.
    """
    try:
        return _CURRENT_SESSION.get()
    except LookupError:
        raise RuntimeError("there is no current session: aster.current_session() works in a service with scoped='stream' and in what it calls") from None


def refused_while_draining() -> RpcError:
    """What a call or session is refused with that comes too late: it was not seen by anybody, and may be made elsewhere."""
    return RpcError(StatusCode.UNAVAILABLE, "the server is draining and takes no new calls")


@dataclass(frozen=True, slots=True)
class HostedSession:
    """A session-scoped service as a server runs it.

    Attributes:
        service: what was declared.
        gate: what lets sessions in, a number of them at a time.
        make: makes an instance, given its ``peer`` by keyword.
        find: a method, of a name, pattern and mode; its handler is a function that is not bound to an instance yet. Raises RpcError when there is none.
    """

    service: ServiceInfo
    gate: Gate | None
    make: Callable[..., object]
    find: Callable[[str, RpcPattern, SerializationMode], HostedMethod]


class IncomingSessionOwner(Protocol):
    """What an incoming session needs of its connection."""

    limits: CallLimits
    reactor: Reactor
    peer: Peer
    peer_metadata_limit: int
    peer_message_limit: int
    capabilities: frozenset[str]
    deadline_cap: float | None
    debug: bool

    def check_held(self, requires: Iterable[CapabilityRequirement], label: str) -> None:
        """Refuse what the peer does not hold enough for; raises RpcError."""
        ...

    @property
    def cleanup_budget(self) -> float:
        """Seconds that ``on_session_close`` may take."""
        ...

    def admit_session(self, session: IncomingSession, service: str, version: int) -> HostedSession:
        """Find the service; raises RpcError when the session is refused."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run the session's task."""
        ...

    def handler_ended(self) -> None:
        """A handler's or the session's task has unwound."""
        ...

    def session_unwound(self) -> None:
        """One that was admitted has unwound."""
        ...

    def session_over(self, session: IncomingSession) -> None:
        """Both halves of the session's stream have ended, and its task has unwound."""
        ...


class IncomingSession:
    """The server's end of one session.

    Its task makes the instance, and waits until the session ends (``_ending`` says why). Then it cancels its task group, with the call and all background tasks
    in it, waits until they have unwound, calls the instance's hook, and ends the stream. So the hook runs once, last, and however the session ended.
    """

    def __init__(self, owner: IncomingSessionOwner, stream: Stream) -> None:
        self.limits = owner.limits
        self.reactor = owner.reactor
        self.peer = owner.peer
        self.peer_metadata_limit = owner.peer_metadata_limit
        self.peer_message_limit = owner.peer_message_limit
        self.capabilities = owner.capabilities
        self.deadline_cap = owner.deadline_cap
        self.debug = owner.debug
        self.stream = stream
        self._owner = owner
        self._protocol = ServerSession(owner.limits.metadata)
        self._hosted: HostedSession | None = None
        self._methods: dict[tuple[str, SerializationMode], HostedMethod] = {}
        self._instance: object = None
        self._context: SessionContext | None = None
        self._call: IncomingCall | None = None
        self._task: StartedTask | None = None
        self._awake = owner.reactor.waiter()
        self._place: Place | None = None
        self._queueing: anyio.CancelScope | None = None
        self._ending: Trailer | None = None
        self._draining: str | None = None
        self._reset_code: int | None = None
        self._lost = False
        self._peer_ended = False
        self._unwound = False

    @property
    def label(self) -> str:
        """How messages to people name it."""
        return "a session without a service" if self._hosted is None else f"the session of {self._hosted.service.name}"

    @property
    def running(self) -> bool:
        """Whether its task has not unwound."""
        return self._task is not None and not self._unwound

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's half."""
        if self._unwound or self._ending is not None:
            return
        try:
            for event in self._protocol.receive_data(data):
                self._receive(event)
                if self._ending is not None:
                    return
        except RemoteProtocolError as exc:
            self.end(Trailer(exc.code, TrailerOrigin.SERVER, str(exc)))

    def _receive(self, event: RequestEvent) -> None:
        if isinstance(event, CallBytes):
            if event.begins:
                self._begin_call()
            # What is sent for a call that was refused, or is over, has nobody to go to.
            if self._call is not None:
                self._call.data_received(event.data)
        elif isinstance(event, CallCancelled):
            if self._call is not None:
                self._call.was_reset(event.code)
        elif isinstance(event, SessionOpened):
            self._open(event)
        else:
            self.end(SUCCESS)

    def finished(self) -> None:
        """The client's half ended: it does that once ours has, or has left without a word."""
        self._peer_ended = True
        self.end(SUCCESS)
        self._over_if_ended()

    def was_reset(self, code: int) -> None:
        """The client does not wait for the end of the session."""
        self._torn_down(code)
        self._peer_ended = True
        self._over_if_ended()

    def was_stopped(self, code: int) -> None:
        """Clients send no STOP_SENDING; one that does has torn down what it would read."""
        self._torn_down(code)

    def _torn_down(self, code: int) -> None:
        if self.running:
            self._reset_code = code
            self.end(SUCCESS)
        else:
            if not self._unwound:
                self.stream.reset(code)
            self._unwound = True

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone."""
        self._peer_ended = self._lost = True
        if self._call is not None:
            self._call.connection_lost(error)
        self.end(SUCCESS)
        self._over_if_ended()

    # Beginning

    def _open(self, event: SessionOpened) -> None:
        try:
            self._hosted = self._owner.admit_session(self, event.service, event.version)
        except RpcError as exc:
            self.end(Trailer(exc.code, TrailerOrigin.REFUSED, exc.message))
        else:
            if self._hosted.gate is not None:
                self._place = self._hosted.gate.join(self.peer.endpoint_id, self.reactor)
            self._task = self._owner.spawn(self._run, f"aster session of {self._hosted.service.name}")

    @property
    def _group_is_cancelled(self) -> bool:
        return self._context is not None and self._context.task_group.cancel_scope.cancel_called

    def _begin_call(self) -> None:
        # All that this end has written comes before the call: READY, and the ends of the calls before. A client that does not wait for it, and reads nothing,
        # could have ever more kept here, call by call.
        if self.stream.unsent:
            raise RemoteProtocolError("the peer began a call of a session before it could know that it may")
        if self._group_is_cancelled:
            # A background task has failed, and what it takes along has not unwound: the group begins nothing any more.
            self.end(_ABORTED)
        else:
            self._call = IncomingCall(self, _CallStream(self.stream, self._protocol), in_session=True)

    # The owner of its calls

    def admit(self, call: IncomingCall, header: Header) -> HostedMethod:
        """Find the method; refuse while draining."""
        assert self._hosted is not None
        service, version, name, pattern, mode = header.target
        if self._draining is not None:
            raise refused_while_draining()
        info = self._hosted.service
        if (service, version) != (info.name, info.version):
            raise RpcError(
                StatusCode.FAILED_PRECONDITION, f"a session of {info.name!r} version {info.version} was sent a call of {service!r} version {version}"
            )
        method = self._methods.get((name, mode))
        if method is None or method.info.pattern is not pattern:
            unbound = self._hosted.find(name, pattern, mode)
            self._owner.check_held(unbound.requires, unbound.label)
            bound = unbound.handler.__get__(self._instance, type(self._instance))
            self._methods[name, mode] = method = replace(unbound, handler=bound)
        return method

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a handler's task in the session's group."""
        context = self._context
        assert context is not None

        async def run() -> None:
            _CURRENT_SESSION.set(context)
            await function()

        return StartedTask(context.task_group, run, name, self.reactor)

    @property
    def interruption(self) -> Trailer:
        """The outcome of a call that was cancelled along with the session."""
        if self._ending is None:
            # The group is cancelled by what fails in it, or by the instance itself; else it is what surrounds it.
            return _ABORTED if self._group_is_cancelled else Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "the server is shutting down")
        if self._ending.status:
            return self._ending
        return Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "the session was ended by its client")

    def handler_ended(self) -> None:
        """The handler of the present call has unwound."""
        self._owner.handler_ended()

    def call_over(self, call: IncomingCall) -> None:
        """The present call is over."""
        self._call = None
        if self._draining is not None:
            self.drain(self._draining)

    # Ending

    def end(self, outcome: Trailer) -> None:
        """End the session, with the call that runs, and tell the client why. Without effect when it ends already."""
        if self._ending is not None or self._unwound:
            return
        self._ending = outcome
        if self._task is None:
            self._finish()
            return
        self._task.check(self._finish)
        self._awake.wake()
        if self._queueing is not None:
            self._queueing.cancel()

    def drain(self, reason: str) -> None:
        """End once no call runs."""
        self._draining = reason
        if self._call is None:
            # What has no instance yet was seen by nobody, and may begin elsewhere.
            origin = TrailerOrigin.REFUSED if self._context is None else TrailerOrigin.SERVER
            self.end(Trailer(StatusCode.UNAVAILABLE, origin, reason))

    async def _run(self) -> None:
        try:
            if self._ending is None:
                await self._live()
        finally:
            self._finish()

    async def _live(self) -> None:
        """Live, once there is a place for the session."""
        assert self._hosted is not None
        if self._hosted.gate is not None and self._place is not None:
            with anyio.CancelScope() as self._queueing:
                try:
                    await self._hosted.gate.enter(self._place)
                except RpcError as exc:
                    self._ending = Trailer(exc.code, TrailerOrigin.REFUSED, exc.message)
        if self._ending is None:
            await self._live_through(self._hosted)

    async def _live_through(self, hosted: HostedSession) -> None:
        """From the making of the instance to its hook."""
        raised: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                self._context = SessionContext(self.peer, self.capabilities, hosted.service.name, hosted.service.version, group)
                _CURRENT_SESSION.set(self._context)
                self._instance = self._made(hosted)
                if self._instance is not None:
                    self.stream.write(self._protocol.send_ready())
                await self._wait_for_the_end()
                group.cancel_scope.cancel()
        except BaseException as exc:
            raised = self._passing(exc)
        else:
            if self._ending is _ABORTED:
                logger.info("%s has ended itself: its task group was cancelled", self.label)
        if self._ending is None:
            self._ending = self.interruption
        await self._close()
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # by its traceback it leads back here

    async def _wait_for_the_end(self) -> None:
        try:
            while self._ending is None:
                await self._awake.wait()
        except anyio.get_cancelled_exc_class():
            self._ending = self.interruption
            raise

    def _made(self, hosted: HostedSession) -> object:
        """The instance; ``None`` when it could not be made, which ends the session."""
        try:
            return hosted.make(peer=self.peer.endpoint_id)
        except BaseException as exc:
            # Nothing is awaited here: cancellation, too, is raised by hand.
            if isinstance(exc, KeyboardInterrupt):
                raise
            self._ending = self._not_made(exc, hosted)
        return None

    def _not_made(self, exc: BaseException, hosted: HostedSession) -> Trailer:
        if isinstance(exc, RpcError):
            # Made anew: it may have been tampered with, or made without RpcError.__init__, and then it is a bug like any other.
            with contextlib.suppress(Exception):
                checked = RpcError(exc.code, exc.message)
                if exc.details:
                    # A session has no codec: which mode its calls will have is not known yet.
                    logger.error("%s was refused with details, which are left out: they travel with the errors of calls alone", self.label, exc_info=exc)
                return Trailer(checked.code, TrailerOrigin.HANDLER, checked.message)
        logger.error("an instance of %s cannot be made: %s", hosted.service.name, type(exc).__name__, exc_info=exc)
        message = shown(exc) if self.debug else "the session's instance cannot be made; the server's log has the reason"
        return Trailer(StatusCode.INTERNAL, TrailerOrigin.HANDLER, message)

    def _passing(self, exc: BaseException) -> BaseException | None:
        """Sort what came out of the task group: what failed is logged and ends the session, what is not the session's own is given back."""
        if parted(exc, KeyboardInterrupt)[0] is not None:
            return exc
        cancellation, failures = told_apart(exc)
        # asyncio's own cancellation of this one task ends the session, and no more than that.
        if failures is not None and not isinstance(failures, anyio.get_cancelled_exc_class()):
            spoilt = unreadable(failures)
            if spoilt is not None and parted(failures, RpcError)[0] is None:  # a row, by its peer: no bug
                logger.info("a background task of %s could not read a message, which ends it: %s", self.label, text_of(spoilt))
            else:
                failure = alone(failures)
                logger.error("a background task of %s raised %s, which ends it", self.label, type(failure).__name__, exc_info=failure)
            if self._ending is None:
                self._ending = _ABORTED
        return cancellation

    async def _close(self) -> None:
        """Call the instance's hook: shielded, and within the cleanup budget."""
        hook = getattr(self._instance, "on_session_close", None)
        if hook is None:
            return
        budget = self._owner.cleanup_budget
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + budget, shield=True) as scope:
                await hook()
        except BaseException as exc:
            if parted(exc, KeyboardInterrupt)[0] is not None:
                raise
            spoilt = unreadable(exc)
            if spoilt is not None:
                logger.info("on_session_close of %s could not read a message: %s", self.label, text_of(spoilt))
            else:
                logger.exception("on_session_close of %s raised %s", self.label, type(exc).__name__)
        else:
            if scope.cancelled_caught:
                logger.error("on_session_close of %s was cancelled: it did not end within %g s of cleanup", self.label, budget)

    def _finish(self) -> None:
        """All has unwound: end this half of the stream."""
        if self._unwound:
            return
        self._unwound = True
        # The stream may stay for as long as the client likes; its bound handlers hold the instance, too.
        self._instance = None
        self._methods.clear()
        if self._place is not None and self._hosted is not None and self._hosted.gate is not None:
            self._hosted.gate.leave(self._place)
        if self._reset_code is not None:
            self.stream.reset(self._reset_code)
        elif not self._lost:
            self.stream.write(self._end_frame(self._ending or self.interruption))
            self.stream.finish()
        if self._hosted is not None:
            self._owner.session_unwound()
        self._over_if_ended()

    def _end_frame(self, outcome: Trailer) -> bytes:
        try:
            return self._protocol.send_end(outcome)
        except LocalProtocolError as exc:
            # A text of the instance's own, beyond all reason.
            return self._protocol.send_end(Trailer(StatusCode.RESOURCE_EXHAUSTED, TrailerOrigin.REFUSED, str(exc)))

    def _over_if_ended(self) -> None:
        if self._unwound and self._peer_ended:
            self._owner.session_over(self)


class _CallStream(Stream):
    """What a call in a session has for a stream: its part of the session's."""

    __slots__ = ("_has_ended", "_protocol", "_stream")

    def __init__(self, stream: Stream, protocol: ServerSession) -> None:
        self._stream = stream
        self._protocol = protocol
        self._has_ended = False

    @property
    def id(self) -> int:
        return self._stream.id

    def write(self, data: bytes) -> None:
        if not self._is_over:
            self._stream.write(self._protocol.send_call(data))

    def finish(self) -> None:
        if not self._is_over:
            self._has_ended = True
            self._stream.write(self._protocol.send_call_end())

    def reset(self, code: int) -> None:
        """The confirmation of a cancel: what is still to be sent goes ahead of it."""
        self.finish()

    def stop(self, code: int) -> None:
        """The end of the call says it."""

    @property
    def unsent(self) -> int:
        return self._stream.unsent  # a call begins when nothing waits

    @property
    def _is_over(self) -> bool:
        return self._has_ended or self._protocol.ended
