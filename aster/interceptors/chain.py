"""One call on its way through the interceptors of one end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

import anyio

from aster._failures import alone
from aster.codec import is_exactly
from aster.interceptors.base import InterceptedCall, Interceptor
from aster.types import Metadata, MetadataValue, MethodInfo, Peer, ServiceInfo

__all__ = ["CallState", "composed"]

_Hook = tuple[int, Callable[[Any], Any]]


class _Method(Protocol):
    @property
    def service(self) -> ServiceInfo: ...

    @property
    def info(self) -> MethodInfo: ...

    @property
    def label(self) -> str: ...


class CallState(ABC):
    """What the interceptors of one end share of one call, the outermost first.

    Attributes:
        answered: the responses that one of them gave in place of what is further in.
        inside: the call has come through all of them.
    """

    side: Literal["client", "server"]

    def __init__(self, interceptors: Sequence[Interceptor], method: _Method, peer: Peer) -> None:
        self.method = method
        self.peer = peer
        self.answered: Sequence[Any] | None = None
        self._interceptors = interceptors
        self._request_hooks: list[_Hook] = []
        self._response_hooks: list[_Hook] = []
        self.inside = False
        self._may_answer = True
        self._refusal: Exception | None = None

    @property
    @abstractmethod
    def deadline(self) -> float:
        """When the call expires."""

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """What the client sends along."""

    @metadata.setter
    @abstractmethod
    def metadata(self, metadata: Metadata) -> None: ...

    @property
    @abstractmethod
    def trailers(self) -> Metadata:
        """What the server sends last."""

    @abstractmethod
    def add_trailer(self, key: str, value: MetadataValue) -> None:
        """Add one pair to them."""

    # Messages

    def add_request_hook(self, level: int, hook: Callable[[Any], Any]) -> None:
        """Have requests pass through it after those of the interceptors further out."""
        insort(self._request_hooks, (level, self._checked(hook, "on_request")), key=_level)

    def add_response_hook(self, level: int, hook: Callable[[Any], Any]) -> None:
        """Have responses pass through it before those of the interceptors further out."""
        insort(self._response_hooks, (level, self._checked(hook, "on_response")), key=_level)

    @property
    def has_request_hooks(self) -> bool:
        """Whether requests pass any; once the call is ``inside``, that does not change."""
        return bool(self._request_hooks)

    def _checked(self, hook: Callable[[Any], Any], method: str) -> Callable[[Any], Any]:
        if self.inside:
            raise RuntimeError(f"the call of {self.method.label} has begun, and a hook might miss messages: use {method} ahead of the yield")
        if not callable(hook):
            raise TypeError(f"{method} takes a function of one message, not {hook!r}")
        return hook

    def request(self, message: Any) -> Any:
        """A request on its way in."""
        # Of many each may come at any time, also while an interceptor makes up its mind about what the call has failed with.
        is_only = not self.method.info.pattern.streams_requests
        if is_only:
            self._may_answer = True
        try:
            for _, hook in self._request_hooks:
                if self.answered is None:
                    message = self._passed(hook, message, "request")
        except Exception as exc:
            if self._refusal is None:
                self._refusal = exc
            raise
        if is_only:
            self._may_answer = False
        return message

    def response(self, message: Any) -> Any:
        """A response on its way out."""
        self._raise_refusal()
        return self._responded(message, math.inf) if self._response_hooks else message

    def _responded(self, message: Any, inside: float) -> Any:
        for level, hook in reversed(self._response_hooks):
            if level < inside:
                message = self._passed(hook, message, "response")
        return message

    def _passed(self, hook: Callable[[Any], Any], message: Any, kind: str) -> Any:
        passed = hook(message)
        expected = self.method.info.request_type if kind == "request" else self.method.info.response_type
        if not is_exactly(passed, expected):
            got = "None" if passed is None else f"a {type(passed).__name__}"
            raise TypeError(
                f"a {kind} hook of {self.method.label} returned {got} in place of a {expected.__name__}: return the message, or another one of its type"
            )
        return passed

    def answer(self, level: int, responses: Sequence[Any]) -> None:
        """As ``InterceptedCall.answer``, by the interceptor of a level."""
        if self.answered is not None:
            raise RuntimeError(f"the call of {self.method.label} has been answered")
        if not self._may_answer:
            raise RuntimeError(
                "answer() is for ahead of the yield, for a hook on the only request, and for a failure in its place; to change responses use on_response"
            )
        if not self.method.info.pattern.streams_responses and len(responses) != 1:
            raise TypeError(f"{self.method.label} has exactly one response, and answer() was given {len(responses)}")
        expected = self.method.info.response_type
        wrong = next((response for response in responses if not is_exactly(response, expected)), None)
        if wrong is not None:
            raise TypeError(f"{self.method.label} responds with a {expected.__name__}, and answer() was given a {type(wrong).__name__}")
        answered = [self._responded(response, level) for response in responses]
        for response in answered:
            self.check_answer(response)
        self.answered = answered

    def check_answer(self, response: Any) -> None:  # noqa: B027 (at a client nothing further is done with it)
        """Refuse what cannot be given as a response, while the interceptor that answers can still hear of it."""

    # The onion

    async def run(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run a call inside all of the interceptors; unless ``answered``, it has its outcome then."""
        try:
            await self._run(0, call)
        finally:
            self._refusal = None  # by its traceback it leads back here

    async def _run(self, level: int, call: Callable[[], Awaitable[None]]) -> None:
        if level == len(self._interceptors):
            self._may_answer, self.inside = False, True
            try:
                await self._innermost(call)
            except BaseException:
                self._may_answer = True
                raise
            return
        steps = self._interceptors[level].intercept(InterceptedCall(self, level))
        try:
            await anext(steps)
        except StopAsyncIteration:
            if self.answered is None:
                raise RuntimeError(f"{self._name(level)} ended ahead of its yield, without an answer: the call runs during the yield") from None
            return
        try:
            if self.answered is None:
                await self._run(level + 1, call)
        except BaseException as exc:
            await self._throw(level, steps, exc)
        else:
            await self._end(level, steps)

    async def _innermost(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except Exception:
            self._raise_refusal()
            raise
        self._raise_refusal()

    def _raise_refusal(self) -> None:
        """A request that a hook has refused is what the call fails with, whatever a handler makes of that: it reads the requests, and may have caught it."""
        if self._refusal is not None:
            raise self._refusal

    async def _end(self, level: int, steps: AsyncIterator[None]) -> None:
        try:
            await anext(steps)
        except StopAsyncIteration:
            return
        await self._refuse_second_yield(level, steps)

    async def _throw(self, level: int, steps: AsyncIterator[None], exc: BaseException) -> None:
        throw: Any = getattr(steps, "athrow")  # noqa: B009 (of an async generator, which __init_subclass__ has seen to)
        try:
            await throw(exc)
        except StopAsyncIteration:
            # Cancellation of a scope around the call goes on in any case, whatever was made of it here.
            if isinstance(exc, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf:
                raise exc from None
            if self.answered is None:
                message = f"{self._name(level)} swallowed what the call of {self.method.label} ended with, without an answer: raise it, or use call.answer(...)"
                raise RuntimeError(message) from exc
            return
        except BaseExceptionGroup as group:
            # A task group around the yield wraps what passes it; alone, that is still what the call has failed with.
            if alone(group) is exc:
                raise exc from None
            raise
        await self._refuse_second_yield(level, steps)

    async def _refuse_second_yield(self, level: int, steps: AsyncIterator[None]) -> None:
        close: Any = getattr(steps, "aclose")  # noqa: B009 (as above)
        await close()
        raise RuntimeError(f"{self._name(level)} yields more than once: the call runs during the one yield")

    def _name(self, level: int) -> str:
        return f"{type(self._interceptors[level]).__name__}.intercept"


def composed(second: Callable[[Any], Any], first: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Both functions, one after the other."""

    def both(value: Any) -> Any:
        return second(first(value))

    return both


def _level(hook: _Hook) -> int:
    return hook[0]
