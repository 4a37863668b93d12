"""The client's end of a session: a stream on which the calls of one stub follow each other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from aster._outgoing import OutgoingCall
from aster._protocol.call import CallLimits
from aster._protocol.events import ResetCode, Trailer, TrailerOrigin
from aster._protocol.session import CallBytes, CallEnded, ClientSession, ResponseEvent, SessionReady
from aster._reactor import Condition, Reactor
from aster._slots import SlotQueue
from aster._tasks import StartedTask, TaskSet
from aster.errors import AsterError, RemoteProtocolError, RpcError, StatusCode
from aster.interceptors import Interception
from aster.transports.base import Stream
from aster.types import ServiceInfo

__all__ = ["OutgoingSession", "OutgoingSessionOwner"]


class OutgoingSessionOwner(Protocol):
    """What an outgoing session needs of its connection."""

    limits: CallLimits
    reactor: Reactor
    peer_metadata_limit: int
    peer_message_limit: int

    def open_session(self, session: OutgoingSession) -> Stream:
        """Open a stream; a slot must have been acquired."""
        ...

    def session_over(self, session: OutgoingSession) -> None:
        """Both halves of the session's stream have ended."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task of a call."""
        ...


class OutgoingSession:
    """The client's end of one session.

    It is to its calls what a connection is to others: where they wait for their turn, and whom their stream belongs to; and to its stub the channel that leads
    there. ``error`` says that it is over for its calls; it stays with its connection until the server has confirmed that its instance is closed.
    """

    repeater = None
    """Nothing of a session is repeated: what a lost call has done to the instance is unknown, and with the session the instance is gone."""

    def __init__(self, owner: OutgoingSessionOwner, service: ServiceInfo, interception: Interception | None, around: TaskSet) -> None:
        self.interception = interception
        self.around = around
        self.limits = owner.limits
        self.reactor = owner.reactor
        self.peer_metadata_limit = owner.peer_metadata_limit
        self.peer_message_limit = owner.peer_message_limit
        self.label = f"the session of {service.name}"
        self.error: RpcError | None = None
        self.was_turned_away = False
        """Whether the server takes no new sessions since it drains."""
        self._owner = owner
        self._service = service
        self._protocol = ClientSession(owner.limits.metadata)
        self._ready = False
        self._call: OutgoingCall | None = None
        self._call_stream: _CallStream | None = None
        self._holders: dict[OutgoingCall, set[object]] = {}
        self._slots = SlotQueue(self.reactor, self._free, self._is_open)
        self._answered = Condition(self.reactor)
        self._is_over = False
        self._on_over: Callable[[], None] | None = None
        self._stream: Stream

    # Opening

    def open(self) -> None:
        """Open the stream, and ask for an instance; a slot must have been acquired."""
        self._stream = self._owner.open_session(self)
        self._stream.write(self._protocol.send_open(self._service.name, self._service.version))

    async def wait_answer(self) -> None:
        """Wait until the server has made the instance, or it is known that there will be none; ``current`` tells."""
        await self._answered.wait_for(lambda: self._ready or self.error is not None)

    # The channel of a stub, and the owner of its calls

    @property
    def current(self) -> OutgoingSession:
        """Itself.

        Raises:
            RpcError: it is over.
        """
        if self.error is not None:
            # A copy: by its traceback a raised exception leads to its caller's frames, and this one is kept.
            raise RpcError(self.error.code, self.error.message, trailers=self.error.trailers) from self.error.__cause__
        return self

    async def connection(self) -> OutgoingSession:
        """As ``current``: there is nothing to wait for."""
        return self.current

    @property
    def has_slot(self) -> bool:
        """Whether a call may begin now.

        Raises:
            RuntimeError: this task holds another one open.
        """
        self._check_holders()
        return self._slots.has_slot

    async def acquire_slot(self) -> bool:
        """Wait for the calls that came before. Begin the call before the next await.

        Returns:
            Whether it may begin; false when the session is over instead.
        """
        return await self._slots.acquire()

    def _check_holders(self) -> None:
        """Refuse a call that would wait for one which its own task holds open.

        Also when the server has ended that one: whether it has is a question of time, and the same program would work today and wait for ever tomorrow.
        """
        if not self._holders:
            return
        task = self.reactor.current_task()
        for call, holders in list(self._holders.items()):
            if not _is_open(call):
                del self._holders[call]
            elif task in holders:
                raise RuntimeError(
                    f"{self.label} makes one call at a time, and this task is in the middle of one of {call.method.label}, "
                    "so that another would wait for ever: end that one first, by its block or aclose()"
                )

    def _free(self) -> int:
        return 0 if self._call is not None else 1

    def _is_open(self) -> bool:
        return self.error is None

    def open_call(self, call: OutgoingCall) -> Stream:
        """The stream of a call, which is a part of the session's."""
        self._protocol.begin_call()
        self._call = call
        self._holders[call] = {self.reactor.current_task()}
        self._call_stream = _CallStream(self._stream, self._protocol)
        return self._call_stream

    def call_over(self, call: OutgoingCall) -> None:
        """The server's half of a call has ended."""
        self._call = self._call_stream = None
        if not _is_open(call):
            # Tasks know more than anybody should keep.
            self._holders.pop(call, None)
        self._slots.grant()

    def will_refuse(self, stream: Stream) -> bool:
        """A go-away lets open sessions end by themselves."""
        return False

    def refused(self, reason: str) -> None:
        """Nothing is repeated, so that nobody is to be told."""

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task of the present call; it holds the call as the task that began it does."""
        assert self._call is not None
        holders = self._holders[self._call]

        async def run() -> None:
            holders.add(self.reactor.current_task())
            await function()

        return self._owner.spawn(run, name)

    # Ending

    def leave(self) -> None:
        """End the session from here: what runs is cancelled, and the server closes the instance. Without effect once it is over."""
        if self.error is not None:
            self.around.cancel()
            return
        if not self._ready:
            # Torn down, since there is no SESSION_END before the server's answer: what it is making would be made for nobody.
            self.abandon()
            return
        if self._call is not None:
            self._call.cancel(ResetCode.CANCELLED)
        self.around.cancel()
        self._end(self._left())
        self._stream.write(self._protocol.send_end())

    def abandon(self) -> None:
        """Tear the stream down, and do not wait for the server any more."""
        self._end(self._left())
        self._stream.reset(ResetCode.CANCELLED)

    def when_over(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the server has closed the instance, or the connection is lost; at once if that has happened."""
        if self._is_over:
            callback()
        else:
            self._on_over = callback

    def _left(self) -> RpcError:
        return RpcError(StatusCode.UNAVAILABLE, f"{self.label} is over, its block was left: open another one to make more calls")

    def _end(self, error: RpcError) -> None:
        if self.error is None:
            self.error = error
            self._slots.turn_away()
            self._answered.notify_all()

    def _end_call(self) -> None:
        """The call that still runs, or whose end was not confirmed, will hear no more."""
        if self._call is not None:
            assert self.error is not None
            self._call.end(self.error)

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the server's half."""
        if self.error is not None:
            return
        try:
            for event in self._protocol.receive_data(data):
                self._receive(event)
        except RemoteProtocolError as exc:
            self._broken(exc)

    def _receive(self, event: ResponseEvent) -> None:
        if isinstance(event, CallBytes):
            assert self._call is not None
            self._call.data_received(event.data)
        elif isinstance(event, CallEnded):
            assert self._call is not None
            assert self._call_stream is not None
            self._call_stream.ended()
            self._call.finished()
        elif isinstance(event, SessionReady):
            self._ready = True
            self._answered.notify_all()
        else:
            self.was_turned_away = event.outcome.origin is TrailerOrigin.REFUSED and event.outcome.status is StatusCode.UNAVAILABLE
            self._end(self._ended_by_server(event.outcome))
            self._end_call()

    def _ended_by_server(self, outcome: Trailer) -> RpcError:
        if not outcome.status:
            return RpcError(StatusCode.UNAVAILABLE, f"{self.label} is over, its server has ended it: open another one to make more calls")
        message = f"{self.label} is over: {outcome.message}" if self._ready else outcome.message
        return RpcError(outcome.status, message, trailers=outcome.metadata)

    def _broken(self, exc: RemoteProtocolError) -> None:
        if self.error is None:
            error = RpcError(exc.code, f"{self.label} is over, its server broke a rule: {exc}")
            error.__cause__ = exc
            self._end(error)
            self._end_call()
            self._stream.reset(ResetCode.PROTOCOL)

    def finished(self) -> None:
        """The server's half ended."""
        self._broken(RemoteProtocolError("the stream ended without SESSION_END"))
        self._over()

    def was_reset(self, code: int) -> None:
        """The server's half was torn down: the confirmation of an abandoned session, or a broken server."""
        self._broken(RemoteProtocolError(f"the stream was torn down without SESSION_END (code {code})"))
        self._over()

    def was_stopped(self, code: int) -> None:
        """Servers stop no session's stream."""
        self._broken(RemoteProtocolError(f"the server reads no more of it (code {code})"))

    def connection_lost(self, error: AsterError) -> None:
        """The connection is gone, and with it the instance."""
        what = "was lost with its connection, and its state is gone; open another one" if self._ready else "was not opened, its connection is lost"
        lost = RpcError(StatusCode.UNAVAILABLE, f"{self.label} {what}: {error}")
        lost.__cause__ = error
        self._end(lost)
        self._over()

    def _over(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._end_call()
        self._stream.finish()
        self._owner.session_over(self)
        if self._on_over is not None:
            self._on_over()


def _is_open(call: OutgoingCall) -> bool:
    """Whether whoever made a call is still in the middle of it. A stream is open until its outcome was seen or it was closed."""
    return call.held or not (call.done or call.method.info.pattern.streams_responses)


class _CallStream(Stream):
    """What a call in a session has for a stream: its part of the session's."""

    __slots__ = ("_ahead", "_has_ended", "_protocol", "_stream", "_was_reset", "_written")

    def __init__(self, stream: Stream, protocol: ClientSession) -> None:
        self._stream = stream
        self._protocol = protocol
        self._ahead = stream.unsent
        self._written = 0
        self._has_ended = False
        self._was_reset = False

    @property
    def id(self) -> int:
        return self._stream.id

    def write(self, data: bytes) -> None:
        if self._is_open:
            frames = self._protocol.send_call(data)
            self._written += len(frames)
            self._stream.write(frames)

    def finish(self) -> None:
        """The end of the server's half ends this one too."""

    def reset(self, code: int) -> None:
        if self._is_open:
            self._was_reset = True
            frame = self._protocol.send_cancel(code)
            self._written += len(frame)
            self._stream.write(frame)

    def stop(self, code: int) -> None:
        """Clients stop no call's responses."""

    @property
    def unsent(self) -> int:
        return max(0, self._stream.unsent - self._ahead)

    @property
    def _is_open(self) -> bool:
        return not (self._has_ended or self._was_reset or self._protocol.ended)

    def ended(self) -> None:
        """The server's half has ended.

        Raises:
            RemoteProtocolError: the call has not even left this machine. A server that says so could have ever more kept here, call by call.
        """
        self._has_ended = True
        if self._stream.unsent > self._written:
            raise RemoteProtocolError("the peer ended a call that it has not received")
