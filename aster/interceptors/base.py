"""The contract of interceptors, and what each one sees of a call."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from aster.types import Metadata, MetadataLike, MetadataValue, Peer, RpcPattern

if TYPE_CHECKING:
    from aster.interceptors.chain import CallState

__all__ = ["InterceptedCall", "Interception", "Interceptor", "check_intercepts", "checked_interceptors"]


class InterceptedCall:
    """A call as an interceptor sees it. One object for each interceptor and call."""

    __slots__ = ("_level", "_state")

    def __init__(self, state: CallState, level: int) -> None:
        self._state = state
        self._level = level

    def __repr__(self) -> str:
        return f"<{self.side} call of {self.service}.{self.method}>"

    @property
    def side(self) -> Literal["client", "server"]:
        """Which end of the call this is."""
        return self._state.side

    @property
    def service(self) -> str:
        """The service's name."""
        return self._state.method.service.name

    @property
    def version(self) -> int:
        """The service's version."""
        return self._state.method.service.version

    @property
    def method(self) -> str:
        """The method's name."""
        return self._state.method.info.name

    @property
    def pattern(self) -> RpcPattern:
        """Which sides of it are streams."""
        return self._state.method.info.pattern

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._state.peer

    @property
    def deadline(self) -> float:
        """When the call expires on the clock of ``anyio.current_time()``, in seconds; ``math.inf`` without a deadline.

        On a server it is the client's clock that counts where that has reached it first: what is raised by the ``yield`` after that is the deadline's doing.
        """
        return self._state.deadline

    @property
    def metadata(self) -> Metadata:
        """What the client sends along. What is put in its place before the ``yield`` is what the server, or the handler, sees.

        Raises:
            RuntimeError: it is set when they have it already.
            TypeError, ValueError: it is set to what ``Metadata`` does not take.
        """
        return self._state.metadata

    @metadata.setter
    def metadata(self, metadata: MetadataLike) -> None:
        self._state.metadata = Metadata(metadata)

    @property
    def trailers(self) -> Metadata:
        """What the server sends after its last response: on the server what was added so far, on the client what has arrived."""
        return self._state.trailers

    def add_trailer(self, key: str, value: MetadataValue) -> None:
        """Add one pair to what the server sends after its last response, on success and on failure alike.

        Raises:
            RuntimeError: this is the client's end.
            TypeError, ValueError: as ``Metadata`` does.
        """
        self._state.add_trailer(key, value)

    def on_request(self, hook: Callable[[Any], Any]) -> None:
        """Have each request pass through ``hook``, which returns it, or another one of its type. What the hook raises fails the call: also where the handler,
        to which it comes while it reads its requests, catches it, and then at its next response or its end.

        Raises:
            RuntimeError: the call has begun.
            TypeError: the hook cannot be called.
        """
        self._state.add_request_hook(self._level, hook)

    def on_response(self, hook: Callable[[Any], Any]) -> None:
        """Have each response pass through ``hook``, which returns it, or another one of its type. What the hook raises fails the call.

        Raises:
            RuntimeError, TypeError: as ``on_request`` does.
        """
        self._state.add_response_hook(self._level, hook)

    def answer(self, *responses: Any) -> None:
        """Give the responses here, instead of asking further.

        Ahead of the ``yield``, or from a hook on the only request: nothing further in sees the call, and the ``yield`` returns at once. After the ``yield`` has
        raised what the call itself has failed with: in place of that failure, which is to be swallowed then; what was received before stays.

        Raises:
            RuntimeError: the call has been answered, or this is another moment.
            TypeError: the method has one response, and it was not exactly one that was given; or one is of another type.
            TypeError, ValueError, RpcError: on a server, one cannot be sent, or is above the client's limit (RESOURCE_EXHAUSTED).
        """
        self._state.answer(self._level, responses)


class Interceptor:
    """Wraps calls. Subclass it, and say in ``intercept`` what happens before and after each call.

    ::

        class Timing(aster.Interceptor):
            async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
                began = anyio.current_time()
                try:
                    yield
                finally:
                    print(call.method, anyio.current_time() - began)

    One instance serves all calls, many at a time: what belongs to one call stays in the local variables of ``intercept``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        intercept = inspect.getattr_static(cls, "intercept")
        if not inspect.isasyncgenfunction(intercept):
            raise TypeError(
                f"{cls.__name__}.intercept must be an async generator with one yield, during which the call runs: "
                "write 'async def intercept(self, call)' and 'yield' in it"
            )
        try:
            inspect.signature(intercept).bind(None, None)
        except TypeError as exc:
            raise TypeError(f"{cls.__name__}.intercept is called with the call alone: {exc}; write 'async def intercept(self, call)'") from exc
        if inspect.iscoroutinefunction(inspect.getattr_static(cls, "__init__")):
            raise TypeError(f"{cls.__name__}.__init__ is async, which Python does not await: write 'def __init__(...)'")

    async def intercept(self, call: InterceptedCall, /) -> AsyncIterator[None]:
        """An async generator with exactly one ``yield``, during which the call runs, streams included.

        What the call fails with is raised by the ``yield``: an ``RpcError``, on a server whatever the handler raised, and cancellation as cancellation. Let it
        pass, raise something else in its place, or swallow it and ``call.answer(...)``. Cancel scopes and task groups may be held across the ``yield``.

        On a server and for a client's calls with one response it runs in the task of the handler or caller; for a client's streams, and for ``open_call``,
        in a task of its own, whose outcome is waited for when the stream ends.
        """
        yield


@dataclass(frozen=True, slots=True)
class Interception:
    """What wraps each call of a client, the outermost first, and the server that it calls."""

    interceptors: tuple[Interceptor, ...]
    peer: Peer


def checked_interceptors(interceptors: object, made: dict[type, Interceptor] | None = None) -> tuple[Interceptor, ...]:
    """The instances of what was given as ``interceptors``.

    Args:
        interceptors: a list of instances, or of classes that are called without arguments.
        made: instances by class; those of classes are taken from here, or made and put here.

    Raises:
        TypeError: it is something else, or a class cannot be made so.
    """
    if not isinstance(interceptors, Iterable) or isinstance(interceptors, (str, bytes)):
        raise TypeError(f"interceptors must be a list of interceptors, not {interceptors!r}")
    return tuple(_instance(given, {} if made is None else made) for given in cast("Iterable[object]", interceptors))


def check_intercepts(cls: type[Interceptor]) -> None:
    """Check that a class does something with calls: one whose ``intercept`` is misspelled would let all of them pass, which nobody would notice.

    Raises:
        TypeError: it does not.
    """
    if cls.intercept is Interceptor.intercept:
        raise TypeError(f"the interceptor {cls.__name__} has no intercept of its own, so it would do nothing: write 'async def intercept(self, call)' in it")


def _instance(given: object, made: dict[type, Interceptor]) -> Interceptor:
    if isinstance(given, Interceptor):
        check_intercepts(type(given))
        return given
    if not (isinstance(given, type) and issubclass(given, Interceptor)):
        raise TypeError(f"each of interceptors must be an aster.Interceptor, or a class of them, not {given!r}")
    check_intercepts(given)
    if given not in made:
        try:
            made[given] = given()
        except TypeError as exc:
            raise TypeError(f"the interceptor {given.__name__} cannot be made without arguments: {exc}; give an instance, or its arguments defaults") from exc
    return made[given]
