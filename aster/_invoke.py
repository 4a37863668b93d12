"""How a client makes calls: the four patterns, their deadlines, and what a caller holds while a call runs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

import anyio
import anyio.lowlevel

from aster._channel import CallChannel, CallOwner, slot_of
from aster._outgoing import OutgoingCall, RemoteMethod
from aster._protocol.events import ResetCode
from aster._pump import close_requests
from aster._streams import ResponseStream
from aster._tasks import checkpoint_with_deadlines
from aster.errors import RpcError, StatusCode
from aster.types import Metadata

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CallSettings", "CallStream", "InteractiveCall", "RemoteResponseStream", "call_client_stream", "call_unary", "check_requests", "expired"]

Req = TypeVar("Req")
Res = TypeVar("Res")


_CLOCK_TOLERANCE = 1.0
"""Seconds by which a server may be ahead of a deadline that is a scope's: clocks drift apart by less in an hour. One that is further ahead is wrong, and its
word that the deadline has passed is a failure like others, not worth waiting for the scope."""


@dataclass(frozen=True, slots=True)
class CallSettings:
    """What a call may be told besides its request.

    Attributes:
        timeout: seconds; ``None`` for no limit but the ambient one.
        metadata: what to send along.
    """

    timeout: float | None
    metadata: Metadata

    def at(self, now: float) -> float:
        """When the time of a call that is made now is over; infinity when it has no limit."""
        return math.inf if self.timeout is None else now + self.timeout


class _Begun:
    """A call with the deadlines that it began under."""

    __slots__ = ("_ambient", "_own", "call")

    def __init__(self, call: OutgoingCall, own: float, ambient: float) -> None:
        self.call = call
        self._own = own
        self._ambient = ambient

    async def conclude(self) -> None:
        """Before an error is raised: if a scope around the call was cancelled or has expired, let that scope speak, also when the server saw it first."""
        await anyio.lowlevel.checkpoint()
        if self.call.ended_by_call_deadline and self._ambient < self._own and self._ambient - anyio.current_time() < _CLOCK_TOLERANCE:
            await _expire_natively(self._ambient)


async def _expire_natively(deadline: float) -> None:
    """Wait until the scope around the call that has this deadline has cancelled it; return if it does not, having been moved meanwhile."""
    await anyio.sleep_until(deadline)
    await checkpoint_with_deadlines()


async def _begin(channel: CallChannel, method: RemoteMethod, request: bytes | None, settings: CallSettings) -> _Begun:
    ambient = anyio.current_effective_deadline()
    own = settings.at(anyio.current_time())
    try:
        connection = channel.current
        if connection is None or not connection.has_slot:
            connection = await _queue(channel, method, own)
        deadline = min(own, ambient)
        if deadline <= connection.reactor.now():
            if ambient < own:
                await _expire_natively(ambient)
            raise expired(method.label)
        call = OutgoingCall(connection, method, channel.repeater)
        call.begin(request, settings.metadata, deadline, deadline=own if own <= ambient and own < math.inf else None)
    except RpcError:
        # Also a failure for which nothing was waited for is a checkpoint: who tries again and again lets others run, and can be cancelled.
        await anyio.lowlevel.checkpoint()
        raise
    return _Begun(call, own, ambient)


async def _queue(channel: CallChannel, method: RemoteMethod, own: float) -> CallOwner:
    with anyio.CancelScope(deadline=own):
        return await slot_of(channel)
    raise expired(method.label)


def expired(label: str) -> RpcError:
    """What a call fails with whose time was over before it began."""
    return RpcError(StatusCode.DEADLINE_EXCEEDED, f"the call of {label} did not begin within its timeout")


async def call_unary(
    channel: CallChannel, method: RemoteMethod, request: Any, settings: CallSettings, tell: Callable[[OutgoingCall], None] | None = None
) -> Any:
    """One request, one response. ``tell`` is told of the call once it has begun.

    Raises:
        TypeError, ValueError: the request is not a value of the declared type; nothing was sent.
        RpcError: the call failed.

    Cancellation returns at once, and reaches the handler.
    """
    begun = await _begin(channel, method, method.encode(request), settings)
    call = begun.call
    if tell is not None:
        tell(call)
    try:
        await call.wait_done()
    except BaseException:
        call.cancel(ResetCode.CANCELLED)
        raise
    if call.error is not None:
        await begun.conclude()
    return call.single_response()


async def call_client_stream(
    channel: CallChannel, method: RemoteMethod, requests: Any, settings: CallSettings, tell: Callable[[OutgoingCall], None] | None = None
) -> Any:
    """Requests from any iterable, one response. ``tell`` is told of the call once it has begun.

    Raises:
        TypeError: ``requests`` is not iterable.
        RpcError: the call failed.
        Exception: what ``requests`` raised.

    Cancellation returns as soon as the request iterable is closed, and reaches the handler.
    """
    check_requests(requests, method)
    try:
        begun = await _begin(channel, method, None, settings)
    except BaseException as exc:
        await close_requests(requests, method.label, exc)
        raise
    call = begun.call
    if tell is not None:
        tell(call)
    try:
        call.start_pump(requests)
        await call.wait_done()
    except BaseException:
        await call.abandon()
        raise
    await call.close_pump()
    if call.error is not None:
        await begun.conclude()
    return call.single_response()


def check_requests(requests: object, method: RemoteMethod) -> None:
    """Refuse what is no stream of requests, before anything is sent."""
    if not isinstance(requests, Iterable | AsyncIterable):
        expected = method.info.request_type.__name__
        raise TypeError(
            f"{method.label} takes an iterable or async iterable of {expected}, not {type(requests).__name__}; for a single one write [{expected}(...)]"
        )


class CallStream(ResponseStream[Res]):
    """The responses of a call that may have requests, which are closed in any case."""

    _requests: Any
    """The request iterable, until a call takes it over."""
    _label: str

    async def _close_requests(self, because: BaseException | None = None) -> None:
        """Close the request iterable of a call that has not begun; else the call does it."""
        requests, self._requests = self._requests, None
        if requests is not None:
            await close_requests(requests, self._label, because)


class RemoteResponseStream(CallStream[Res]):
    """The responses of a call over the wire. The call begins with the first step of the iteration, or with the ``async with`` block.

    A caller that is cancelled while it waits for the next response has cancelled the call; inside an ``async with`` block the call
    lives on until the block ends.
    """

    _begun: _Begun | None = None
    _closed = False
    _managed = False
    _starting = False

    def __init__(self, channel: CallChannel, method: RemoteMethod, request: bytes | None, requests: Any, settings: CallSettings) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._requests = requests
        self._settings = settings
        self._label = method.label
        self._abandon: Callable[[Callable[[], None]], None] | None = None

    async def __aenter__(self) -> Self:
        self._managed = True
        if self._closed:
            raise anyio.ClosedResourceError
        if self._begun is None:
            await self._start()
        return self

    async def begin(self) -> OutgoingCall:
        """Begin as the block does, and give the call."""
        await self.__aenter__()
        assert self._begun is not None
        return self._begun.call

    async def __anext__(self) -> Res:
        if self._closed:
            raise anyio.ClosedResourceError
        begun = self._begun
        if begun is None:
            begun = await self._start()
        call = begun.call
        try:
            payload = await call.receive()
            if payload is not None:
                return call.decode(payload)
        except RpcError:
            call.held = False
            if self._closed:
                raise anyio.ClosedResourceError from None
            await call.close_pump()
            await begun.conclude()
            raise
        except anyio.BusyResourceError:
            # Another task is iterating, whose call goes on.
            raise
        except BaseException:
            if not self._managed:
                call.held = False
                await call.abandon()
            raise
        call.held = False
        await call.close_pump()
        raise StopAsyncIteration

    async def _start(self) -> _Begun:
        if self._starting:
            raise anyio.BusyResourceError("beginning")
        self._starting = True
        try:
            begun = await _begin(self._channel, self._method, self._request, self._settings)
        except BaseException as exc:
            # One object is one call at the most: what could not begin has had its outcome.
            self._closed = True
            await self._close_requests(exc)
            raise
        finally:
            self._starting = False
        if self._closed:
            # Another task closed the stream while the call waited for its turn.
            begun.call.cancel(ResetCode.CANCELLED)
            raise anyio.ClosedResourceError
        self._begun = begun
        begun.call.held = True
        self._abandon = begun.call.call_soon_threadsafe
        if self._requests is not None:
            begun.call.start_pump(self._requests)
            self._requests = None
        self._request = None
        return begun

    async def aclose(self) -> None:
        """Cancel the call if it runs, and wait, shielded, until the request iterable is closed. Idempotent.

        Raises:
            Exception: what the request iterable raised, unless a call on this stream raised it before.
        """
        self._closed = True
        if self._begun is not None:
            self._begun.call.held = False
            self._begun.call.cancel(ResetCode.CANCELLED)
            await self._begun.call.close_pump()
        await self._close_requests()

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if exc is not None and self._begun is not None:
            await self._begun.call.abandon()
        await self.aclose()

    def __del__(self) -> None:
        # From whatever thread the collector runs in: only ask the loop to look.
        if self._begun is not None:
            self._begun.call.held = False
            if not self._begun.call.done and self._abandon is not None:
                self._abandon(partial(self._begun.call.cancel, ResetCode.CANCELLED))

    @property
    def metadata(self) -> Metadata:
        return self._begun.call.metadata if self._begun is not None else Metadata()

    @property
    def trailers(self) -> Metadata:
        return self._begun.call.trailers if self._begun is not None else Metadata()


class InteractiveCall(Generic[Req, Res]):
    """A call whose messages are sent and received one by one, in any order: what ``aster.open_call`` gives.

    ::

        async with aster.open_call(tasks.execute) as call:
            await call.send(Command("build"))
            print(await call.receive())
            await call.end()

    Leaving the block after ``end`` and the outcome is silent; leaving it before that cancels the call. One task may send while another receives.

    Raises:
        RpcError: on entering, the call could not begin: UNAVAILABLE, there is no connection; DEADLINE_EXCEEDED, its timeout was over before it had one;
            FAILED_PRECONDITION, the server that is there now has no such service; RESOURCE_EXHAUSTED, its metadata is above the server's limit.
        RuntimeError: it is entered twice.

    Cancellation while it is entered sends nothing.
    """

    def __init__(self, channel: CallChannel, method: RemoteMethod, settings: CallSettings) -> None:
        self._channel = channel
        self._method = method
        self._settings = settings
        self._begun: _Begun | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        self._enter_once()
        await self._begin()
        return self

    def _enter_once(self) -> None:
        if self._entered:
            raise RuntimeError("this call was entered before: use open_call again for another one")
        # Set before the wait for its turn, in which another task might enter it.
        self._entered = True

    async def _begin(self) -> OutgoingCall:
        self._begun = await _begin(self._channel, self._method, None, self._settings)
        self._begun.call.held = True
        return self._begun.call

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._call.held = False
        self._call.cancel(ResetCode.CANCELLED)

    @property
    def _call(self) -> OutgoingCall:
        if self._begun is None:
            self._refuse_outside()
        return self._begun.call

    def _refuse_outside(self) -> NoReturn:
        raise RuntimeError("the call has not begun: use it inside `async with aster.open_call(...) as call`")

    async def send(self, request: Req) -> None:
        """Send one request; waits while the server has not taken enough of the earlier ones.

        Raises:
            TypeError, ValueError: it is not a value of the declared type; nothing was sent.
            BrokenResourceError: the call has ended and takes no more; ``receive`` has its outcome.
            BusyResourceError: another task is sending.
            RpcError: it is above the server's size limit.
            RuntimeError: the requests were ended before, or the block was not entered.

        Cancellation while waiting sends nothing.
        """
        call = self._call
        payload = self._method.encode(request)
        if call.requests_ended:
            self._refuse_ended()
        if not await call.send(payload):
            assert self._begun is not None
            await self._begun.conclude()
            raise anyio.BrokenResourceError
        if not self._method.info.pattern.streams_requests:
            call.end_requests()

    def _refuse_ended(self) -> NoReturn:
        raise RuntimeError(f"the requests of {self._method.label} were ended: nothing can be sent after that")

    async def receive(self) -> Res:
        """The next response; a single response comes by this too.

        Raises:
            EndOfStream: the call ended well, and all its responses were received.
            BusyResourceError: another task is receiving.
            RpcError: the call failed.
            RuntimeError: the block was not entered.

        Cancellation loses nothing.
        """
        call = self._call
        try:
            payload = await call.receive()
        except RpcError:
            assert self._begun is not None
            await self._begun.conclude()
            raise
        if payload is None:
            raise anyio.EndOfStream
        return call.decode(payload)

    async def end(self) -> None:
        """Tell the server that no more requests follow. Idempotent; without effect once the call has ended.

        Raises:
            RuntimeError: the method takes exactly one request, and it was not sent.
        """
        await anyio.lowlevel.checkpoint()
        call = self._call
        if not (self._method.info.pattern.streams_requests or call.requests_ended or call.done):
            raise RuntimeError(f"{self._method.label} takes exactly one request: send it, which also ends the requests")
        call.end_requests()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Res:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    @property
    def metadata(self) -> Metadata:
        """What the handler sent ahead of its first response; empty until it has arrived."""
        return self._call.metadata

    @property
    def trailers(self) -> Metadata:
        """What the handler sent after its last response; empty until it has arrived."""
        return self._call.trailers
