"""A client's calls inside its interceptors.

A call with one response runs in its caller's task, interceptors and all. What a stream's caller does between two steps is not the interceptors' business, and
may happen in several tasks: so for streams they run in a task of their own, which is told how the call ended, and has the last word.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import anyio
import anyio.lowlevel

from aster._channel import CallChannel, slot_of
from aster._failures import told_apart
from aster._invoke import CallSettings, CallStream, InteractiveCall, RemoteResponseStream, call_client_stream, call_unary, expired
from aster._outgoing import OutgoingCall, RemoteMethod
from aster._protocol.events import ResetCode
from aster._pump import close_requests
from aster._streams import ResponseStream
from aster._tasks import outlast
from aster.errors import RpcError, StatusCode
from aster.interceptors import CallState, Interception, composed
from aster.types import Metadata, MetadataValue

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["client_stream_call", "open_interactive_call", "response_stream", "unary_call"]

logger = logging.getLogger("aster")

Req = TypeVar("Req")
Res = TypeVar("Res")


class _Interception(CallState):
    """A call as the interceptors of the client share it."""

    side = "client"

    def __init__(self, interception: Interception, method: RemoteMethod, settings: CallSettings) -> None:
        now = anyio.current_time()
        self.expires = settings.at(now)
        self._deadline = min(self.expires, anyio.current_effective_deadline())
        super().__init__(interception.interceptors, method, interception.peer)
        self.call: OutgoingCall | None = None
        self._remote = method
        self._metadata = settings.metadata

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def metadata(self) -> Metadata:
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Metadata) -> None:
        if self.call is not None:
            raise RuntimeError(f"the metadata of {self.method.label} has been sent: change it ahead of the yield")
        self._metadata = metadata

    @property
    def trailers(self) -> Metadata:
        return Metadata() if self.call is None else self.call.trailers

    def add_trailer(self, key: str, value: MetadataValue) -> None:
        raise RuntimeError("trailers are sent by servers: a client's interceptor can read them, and add to the metadata")

    def began(self, call: OutgoingCall) -> None:
        """The call is under way."""
        self.call = call

    def let_go(self) -> None:
        """They have ended: the call, which goes on for nobody if it does, is not kept by what its messages pass."""
        call, self.call = self.call, None
        if call is not None:
            call.cancel(ResetCode.CANCELLED)

    @property
    def remote(self) -> RemoteMethod:
        """The method with messages passing through the hooks; a request that stands alone has passed already."""
        method = self._remote
        seen = replace(method, decode=composed(self.response, method.decode))
        if method.info.pattern.streams_requests and self.has_request_hooks:
            seen = replace(seen, encode=self._encoded)
        return seen

    def _encoded(self, request: Any) -> bytes:
        """One of many requests, once it has passed the hooks. What is wrong with it is its caller's to know ahead of that, and blamed on no hook."""
        self._remote.encode(request)
        return self._remote.encode(self.request(request))

    @property
    def settings(self) -> CallSettings:
        """What is left of the time, and the metadata."""
        return CallSettings(None if self.expires == math.inf else self.expires - anyio.current_time(), self._metadata)


# Calls with one response


async def unary_call(channel: CallChannel, method: RemoteMethod, request: Any, settings: CallSettings) -> Any:
    """As ``call_unary``, inside the channel's interceptors if it has some."""
    if channel.interception is None:
        return await call_unary(channel, method, request, settings)
    method.encode(request)  # what is wrong with it is its caller's to know, before anything else happens
    state = _Interception(channel.interception, method, settings)

    async def call() -> Any:
        passed = state.request(request)
        return None if state.answered is not None else await call_unary(channel, state.remote, passed, state.settings, state.began)

    return await _single(state, call)


async def client_stream_call(channel: CallChannel, method: RemoteMethod, requests: Any, settings: CallSettings) -> Any:
    """As ``call_client_stream``, inside the channel's interceptors if it has some."""
    method = method.for_one_call()
    if channel.interception is None:
        return await call_client_stream(channel, method, requests, settings)
    state = _Interception(channel.interception, method, settings)
    began = False

    async def call() -> Any:
        nonlocal began
        began = True
        return await call_client_stream(channel, state.remote, requests, state.settings, state.began)

    try:
        response = await _single(state, call)
    except BaseException as exc:
        if not began:
            await close_requests(requests, method.label, exc)
        raise
    if not began:
        await close_requests(requests, method.label)
    return response


async def _single(state: _Interception, call: Callable[[], Any]) -> Any:
    responses: list[Any] = []

    async def run() -> None:
        # Meanwhile the call keeps its time itself.
        scope.deadline = math.inf
        responses.append(await call())
        scope.deadline = state.expires

    with anyio.CancelScope(deadline=state.expires) as scope:
        try:
            await state.run(run)
        finally:
            if state.call is None:
                # It has had its outcome without the network, maybe without any wait: a loop of such calls is not to keep everything else waiting.
                await anyio.lowlevel.checkpoint()
            state.let_go()
        return responses[0] if state.answered is None else state.answered[0]
    raise _overdue(state) if responses else _expired(state)


def _overdue(state: _Interception) -> RpcError:
    return RpcError(StatusCode.DEADLINE_EXCEEDED, f"the call of {state.method.label} did not end within its timeout: its interceptors took too long")


def _expired(state: _Interception) -> RpcError:
    """Of a call that has not begun: they have not come to it, or have answered it and went on."""
    return expired(state.method.label) if state.answered is None else _overdue(state)


# Streams


async def _refuse_after_the_end(channel: CallChannel) -> None:
    """Let a call that is made after the block around it fail as it does without interceptors: nothing of it can run any more.

    Raises:
        RpcError: UNAVAILABLE, the block was left.
    """
    if channel.around.is_over:
        await slot_of(channel)


class _Around:
    """The interceptors of one stream, in a task of their own: begun ahead of the call, told how it ended, and with the last word on that."""

    def __init__(self, channel: CallChannel, method: RemoteMethod, settings: CallSettings) -> None:
        assert channel.interception is not None
        self.state = _Interception(channel.interception, method, settings)
        self.answers = deque[Any]()
        """What they have answered, and nobody has taken."""
        self.has_verdict = False
        """Whether it is known what has become of the call: ``answers`` and then the end, or what ``conclude`` raises."""
        self._entered = anyio.Event()
        self._outcome_known = anyio.Event()
        self._outcome: BaseException | None = None
        self._over = anyio.Event()
        self._raised: BaseException | None = None
        self._beginning: anyio.CancelScope | None = None
        self._task = channel.around.start(self._run, f"aster interceptors of {method.label}", self._end)

    async def enter(self) -> None:
        """Wait until they let the call begin, or have answered it.

        Raises:
            RpcError: DEADLINE_EXCEEDED, that took as long as the call may; CANCELLED, the block around the call was left.
            BaseException: what one of them raised.
        """
        try:
            with anyio.CancelScope(deadline=self.state.expires) as scope:
                await self._entered.wait()
        except BaseException:
            await self.abandon()
            raise
        if scope.cancelled_caught:
            await self.abandon()
            raise _expired(self.state)
        if self._over.is_set():
            self._take_verdict(self._cancelled())

    async def begin(self, begin: Callable[[], Awaitable[OutgoingCall]]) -> bool:
        """Begin the call. They may end meanwhile, as by a scope of theirs that has expired, and take it along.

        Returns:
            Whether it has begun; if not, there are ``answers``.

        Raises:
            BaseException: what they made of a call that has not begun.
        """
        outcome: Exception | None = None
        call: OutgoingCall | None = None
        try:
            with anyio.CancelScope() as self._beginning:
                if self._over.is_set():
                    self._beginning.cancel()
                call = await begin()
        except Exception as exc:
            outcome = exc
        except BaseException:
            await self.abandon()
            raise
        if call is None:
            await self.conclude(outcome or self._cancelled())
            return False
        self.state.call = call
        if self._over.is_set():
            self.state.let_go()
        return True

    async def conclude(self, outcome: Exception | None, *, is_late: bool = False) -> None:
        """Tell them how the call has ended, and wait for what they make of it: ``answers``, or nothing to add. Cancellation loses nothing: conclude again.

        Args:
            outcome: what it has failed with.
            is_late: its time is over by now, which is no fault of theirs.

        Raises:
            BaseException: what they made of it, also when this is asked again.
        """
        if not self._outcome_known.is_set():
            self._outcome = outcome
            self._outcome_known.set()
        # What failed is late as it is; but a call that went well has not ended within its time if they take longer.
        with anyio.CancelScope(deadline=self.state.expires if outcome is None and not is_late else math.inf) as scope:
            await self._over.wait()
        if scope.cancelled_caught:
            self.cancel()
            await outlast(self._over)
            self._raised = _overdue(self.state)
        self._take_verdict(outcome)

    def _cancelled(self) -> RpcError:
        return RpcError(StatusCode.CANCELLED, f"the call of {self.state.method.label} was cancelled by this side")

    def _take_verdict(self, outcome: Exception | None) -> None:
        if not self.has_verdict:
            self.has_verdict = True
            if self._raised is None and self.state.answered is not None:
                self.answers.extend(self.state.answered)
            elif self._raised is None:
                # They may have heard nothing of a failure: the block around the call was left, which has ended them.
                self._raised = outcome
        if self._raised is not None:
            raise self._raised

    async def next_response(self, receive: Callable[[], Awaitable[Any]], end: type[Exception]) -> Any:
        """The next response of the call by ``receive``, which raises ``end`` after the last one; or of what they made of its outcome.

        Raises:
            Exception: ``end``, there are no more; or what they made of a call that has failed.
        """
        if not self.has_verdict:
            outcome: Exception | None = None
            try:
                return await receive()
            except end:
                pass
            except anyio.BusyResourceError:
                raise
            except Exception as exc:
                outcome = exc
            await self.conclude(outcome)
        if self.answers:
            return self.answers.popleft()
        await self.conclude(None)
        raise end

    async def abandon(self) -> None:
        """Cancel them, and wait, shielded, until they have unwound. What they raise then is logged. Idempotent."""
        self.cancel()
        await outlast(self._over)
        raised, self._raised = self._raised, None
        if raised is not None and raised is not self._outcome and not self.has_verdict:
            logger.info("an interceptor of %s raised while its call was ended early", self.state.method.label, exc_info=raised)

    def cancel(self) -> None:
        """Cancel them; without effect when they are over."""
        self._task.cancel(self._end)

    async def _run(self) -> None:
        try:
            await self.state.run(self._wait_for_the_outcome)
        except BaseException as exc:
            cancellation, self._raised = told_apart(exc)
            if cancellation is not None:
                raise cancellation from None
        finally:
            self._end()

    async def _wait_for_the_outcome(self) -> None:
        self._entered.set()
        await self._outcome_known.wait()
        if self._outcome is not None:
            raise self._outcome

    def _end(self) -> None:
        self._over.set()
        self._entered.set()
        if self._beginning is not None:
            self._beginning.cancel()
        self.state.let_go()


def response_stream(channel: CallChannel, method: RemoteMethod, request: Any, requests: Any, settings: CallSettings) -> ResponseStream[Any]:
    """The responses of a call to ``request`` or, if that is ``None``, to ``requests``; inside the channel's interceptors if it has some."""
    method = method.for_one_call()
    # What is wrong with a request is its caller's to know, before anything else happens.
    payload = None if request is None else method.encode(request)
    if channel.interception is None:
        return RemoteResponseStream(channel, method, payload, requests, settings)
    return _InterceptedStream(channel, method, request, requests, settings)


class _InterceptedStream(CallStream[Res]):
    """A stream with interceptors around it; as ``RemoteResponseStream`` in all that its caller sees."""

    def __init__(self, channel: CallChannel, method: RemoteMethod, request: Any, requests: Any, settings: CallSettings) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._requests = requests
        self._settings = settings
        self._label = method.label
        self._around: _Around | None = None
        self._inner: RemoteResponseStream[Res] | None = None
        self._starting = False
        self._managed = False
        self._closed = False

    async def __aenter__(self) -> Self:
        self._managed = True
        await self._start()
        return self

    async def _start(self) -> _Around:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._starting:
            raise anyio.BusyResourceError("beginning")
        if self._around is None:
            self._starting = True
            try:
                await _refuse_after_the_end(self._channel)
                self._around = around = _Around(self._channel, self._method, self._settings)
                await self._enter(around)
            except BaseException as exc:
                # One object is one call at the most: what could not begin has had its outcome.
                self._closed = True
                await self._close_requests(exc)
                raise
            finally:
                self._starting = False
        return self._around

    async def _enter(self, around: _Around) -> None:
        try:
            await around.enter()
            if not self._closed:
                await self._begin(around)
        except Exception as exc:
            # What comes of it where another task has closed the stream meanwhile is no outcome of a call.
            if self._closed:
                raise anyio.ClosedResourceError from exc
            raise
        if self._closed:
            await self.aclose()
            raise anyio.ClosedResourceError

    async def _begin(self, around: _Around) -> None:
        state = around.state
        if state.answered is None:
            try:
                request = None if self._request is None else state.request(self._request)
                payload = None if request is None or state.answered is not None else self._method.encode(request)
            except Exception as exc:
                await around.conclude(exc)
                return
            if state.answered is None:
                requests, self._requests = self._requests, None
                self._inner = RemoteResponseStream[Res](self._channel, state.remote, payload, requests, state.settings)
                await around.begin(self._inner.begin)
                return
            await around.conclude(None)
        await self._close_requests()

    async def __anext__(self) -> Res:
        around = await self._start()
        try:
            return await around.next_response(self._receive, StopAsyncIteration)
        except (StopAsyncIteration, anyio.ClosedResourceError):
            raise
        except Exception as exc:
            if self._closed:  # by another task, as in _enter
                raise anyio.ClosedResourceError from exc
            raise
        except BaseException:
            # Cancellation, or an interrupt of the program: no outcome of the call.
            if not self._managed:
                await self.aclose()
            raise

    async def _receive(self) -> Res:
        if self._inner is None:
            raise StopAsyncIteration  # what has not begun has been answered
        return await anext(self._inner)

    async def aclose(self) -> None:
        self._closed = True
        try:
            if self._inner is not None:
                await self._inner.aclose()
        finally:
            if self._around is not None:
                await self._around.abandon()
        await self._close_requests()

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self._inner is not None:
                await self._inner.__aexit__(exc_type, exc, traceback)
        finally:
            await self.aclose()

    def __del__(self) -> None:
        # As of the stream inside, from whatever thread the collector runs in; the call's end ends them, and theirs the call.
        if self._around is not None and self._around.state.call is not None:
            self._around.state.call.call_soon_threadsafe(self._around.cancel)

    @property
    def metadata(self) -> Metadata:
        return self._inner.metadata if self._inner is not None else Metadata()

    @property
    def trailers(self) -> Metadata:
        return self._inner.trailers if self._inner is not None else Metadata()


# Message by message


def open_interactive_call(channel: CallChannel, method: RemoteMethod, settings: CallSettings) -> InteractiveCall[Any, Any]:
    """A call whose messages are sent and received one by one, inside the channel's interceptors if it has some."""
    method = method.for_one_call()
    if channel.interception is None:
        return InteractiveCall(channel, method, settings)
    return _InterceptedInteractiveCall(channel, method, settings)


class _InterceptedInteractiveCall(InteractiveCall[Req, Res]):
    """The same with interceptors around it."""

    def __init__(self, channel: CallChannel, method: RemoteMethod, settings: CallSettings) -> None:
        super().__init__(channel, method, settings)
        self._encode = method.encode
        self._around: _Around | None = None

    async def __aenter__(self) -> Self:
        self._enter_once()
        await _refuse_after_the_end(self._channel)
        self._around = around = _Around(self._channel, self._method, self._settings)
        await around.enter()
        if around.state.answered is not None:
            return self
        # The requests pass their hooks on their way in here, of which one may answer; from here on they are bytes.
        self._settings, self._method = around.state.settings, replace(around.state.remote, encode=bytes)
        await around.begin(self._begin)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        around, call = self._inside()
        try:
            if exc is None and call is not None and call.is_completed and not around.has_verdict:
                # Who has a single response knows the outcome, and need not ask for it; nor need the block end in the call's time.
                await around.conclude(None, is_late=anyio.current_time() >= around.state.expires)
        finally:
            if call is not None:
                await super().__aexit__(exc_type, exc, traceback)
            await around.abandon()

    def _inside(self) -> tuple[_Around, OutgoingCall | None]:
        """The interceptors, and the call unless they have answered it.

        Raises:
            RuntimeError: the block was not entered.
        """
        begun = self._begun
        if self._around is None or (begun is None and self._around.state.answered is None):
            self._refuse_outside()
        return self._around, begun.call if begun is not None else None

    async def send(self, request: Req) -> None:
        around, call = self._inside()
        payload = self._encode(request)  # what is wrong with it is its caller's to know, and no interceptor hears of it
        if call is not None and call.requests_ended:
            self._refuse_ended()
        if call is None or around.state.answered is not None or around.has_verdict:
            raise anyio.BrokenResourceError
        outcome: Exception | None = None
        try:
            if around.state.has_request_hooks:
                payload = self._passed(around.state, request)
        except Exception as exc:
            outcome = exc
        else:
            if around.state.answered is None:
                await super().send(cast("Req", payload))
                return
        call.cancel(ResetCode.CANCELLED)
        await around.conclude(outcome)

    def _passed(self, state: _Interception, request: Req) -> bytes:
        """What the hooks make of a request. Also one that comes back may have been changed."""
        passed = state.request(request)
        return self._encode(passed) if state.answered is None else b""

    async def receive(self) -> Res:
        around, _ = self._inside()
        return await around.next_response(super().receive, anyio.EndOfStream)

    async def end(self) -> None:
        _, call = self._inside()
        if call is None:
            await anyio.lowlevel.checkpoint()
        else:
            await super().end()

    @property
    def metadata(self) -> Metadata:
        _, call = self._inside()
        return Metadata() if call is None else call.metadata

    @property
    def trailers(self) -> Metadata:
        _, call = self._inside()
        return Metadata() if call is None else call.trailers
