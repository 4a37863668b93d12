"""Turn an annotated class into an RPC service.

::

    @service("TaskEngine", version=1)
    class TaskService:
        @rpc(timeout=10.0, idempotent=True)
        async def get_task(self, req: TaskRequest) -> TaskResult: ...

        @server_stream
        async def watch_tasks(self, req: WatchRequest) -> AsyncIterator[TaskUpdate]:
            yield TaskUpdate(...)

        @client_stream
        async def ingest_logs(self, stream: AsyncIterator[LogEntry]) -> IngestResult: ...

        @bidi_stream
        async def execute(self, commands: AsyncIterator[Command]) -> AsyncIterator[CommandResult]:
            yield CommandResult(...)

Requests and responses are dataclasses. Every mistake that can be seen in the class is a ``TypeError`` or ``ValueError`` where it is decorated.

The class is both ends' signature. A client's stub is, to a type checker, an instance of it; on an instance made here the methods run the handlers themselves,
without RPC. A subclass may override methods, undecorated or decorated again, and is served under the service of its base.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, cast, overload

from aster._declarations import check_implementation, declare, handler_of, service_info
from aster._methods import BidiStreamMethod, ClientStreamMethod, Handler, ServerStreamMethod, UnaryMethod
from aster._options import MethodOptions, Modes, ServiceOptions, check_known
from aster._signatures import DECORATOR_OF, check_handler, readable
from aster.interceptors import Interceptor
from aster.types import CapabilityRequirement, RpcPattern, SerializationMode

__all__ = [
    "BidiStreamMethod",
    "ClientStreamMethod",
    "Handler",
    "ServerStreamMethod",
    "UnaryMethod",
    "bidi_stream",
    "check_implementation",
    "client_stream",
    "handler_of",
    "rpc",
    "server_stream",
    "service",
    "service_info",
]

P = ParamSpec("P")
Req = TypeVar("Req")
Res = TypeVar("Res")
Cls = TypeVar("Cls", bound=type)

_Unary: TypeAlias = Callable[Concatenate[Any, P], Coroutine[Any, Any, Res]]
_ServerStream: TypeAlias = Callable[Concatenate[Any, P], AsyncIterable[Res]]
# A generator is what every annotation of a request stream accepts: AsyncIterator, AsyncIterable and AsyncGenerator.
_ClientStream: TypeAlias = Callable[[Any, AsyncGenerator[Req, None]], Coroutine[Any, Any, Res]]
_BidiStream: TypeAlias = Callable[[Any, AsyncGenerator[Req, None]], AsyncIterable[Res]]


@overload
def rpc(handler: _Unary[P, Res], /) -> Handler[UnaryMethod[P, Res]]: ...
@overload
def rpc(
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    serialization: SerializationMode | None = None,
    requires: CapabilityRequirement | None = None,
) -> Callable[[_Unary[P, Res]], Handler[UnaryMethod[P, Res]]]: ...
def rpc(handler: object = None, /, **options: Any) -> Any:
    """One request, one response: ``async def method(self, req: Request) -> Response``.

    Args:
        handler: the method, when the decorator is used bare.
        timeout: the default time limit of a call in seconds; ``None`` for no limit.
        idempotent: whether a client may repeat a call that failed.
        serialization: the mode of this method, instead of the service's.
        requires: what a caller must hold, besides what the service asks; by default what the method that it overrides requires.

    Raises:
        TypeError: the method is not of this shape, or an option not of its type.
        ValueError: an option is out of range.
    """
    return _decorate(RpcPattern.UNARY, handler, options)


@overload
def server_stream(handler: _ServerStream[P, Res], /) -> Handler[ServerStreamMethod[P, Res]]: ...
@overload
def server_stream(
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    serialization: SerializationMode | None = None,
    requires: CapabilityRequirement | None = None,
) -> Callable[[_ServerStream[P, Res]], Handler[ServerStreamMethod[P, Res]]]: ...
def server_stream(handler: object = None, /, **options: Any) -> Any:
    """One request, any number of responses: ``async def method(self, req: Request) -> AsyncIterator[Response]``, which yields them.

    Options and errors are those of ``rpc``.
    """
    return _decorate(RpcPattern.SERVER_STREAM, handler, options)


@overload
def client_stream(handler: _ClientStream[Req, Res], /) -> Handler[ClientStreamMethod[Req, Res]]: ...
@overload
def client_stream(
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    serialization: SerializationMode | None = None,
    requires: CapabilityRequirement | None = None,
) -> Callable[[_ClientStream[Req, Res]], Handler[ClientStreamMethod[Req, Res]]]: ...
def client_stream(handler: object = None, /, **options: Any) -> Any:
    """Any number of requests, one response: ``async def method(self, stream: AsyncIterator[Request]) -> Response``.

    Options and errors are those of ``rpc``.
    """
    return _decorate(RpcPattern.CLIENT_STREAM, handler, options)


@overload
def bidi_stream(handler: _BidiStream[Req, Res], /) -> Handler[BidiStreamMethod[Req, Res]]: ...
@overload
def bidi_stream(
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    serialization: SerializationMode | None = None,
    requires: CapabilityRequirement | None = None,
) -> Callable[[_BidiStream[Req, Res]], Handler[BidiStreamMethod[Req, Res]]]: ...
def bidi_stream(handler: object = None, /, **options: Any) -> Any:
    """Both sides stream at once: ``async def method(self, stream: AsyncIterator[Request]) -> AsyncIterator[Response]``, which yields the responses.

    Options and errors are those of ``rpc``.
    """
    return _decorate(RpcPattern.BIDI_STREAM, handler, options)


@overload
def service(cls: Cls, /) -> Cls: ...
@overload
def service(
    name: str,
    /,
    *,
    version: int = 1,
    serialization: Modes = SerializationMode.XLANG,
    scoped: Literal["shared", "stream"] = "shared",
    interceptors: Sequence[type[Interceptor]] = (),
    max_concurrent_streams: int | None = None,
    requires: CapabilityRequirement | None = None,
    errors: Sequence[type] = (),
) -> Callable[[Cls], Cls]: ...
@overload
def service(
    *,
    name: str | None = None,
    version: int = 1,
    serialization: Modes = SerializationMode.XLANG,
    scoped: Literal["shared", "stream"] = "shared",
    interceptors: Sequence[type[Interceptor]] = (),
    max_concurrent_streams: int | None = None,
    requires: CapabilityRequirement | None = None,
    errors: Sequence[type] = (),
) -> Callable[[Cls], Cls]: ...
def service(target: object = None, /, *, name: object = None, **options: Any) -> Any:
    """Make a class an RPC service: ``@service``, ``@service("Name")`` or ``@service(name=..., ...)``.

    Args:
        target: the class, or the service's name.
        name: the service's name on the wire; by default the name of the class.
        version: distinct versions are separate services.
        serialization: the mode, or a list of the modes, that its methods allow; a client uses the first. By default ``[XLANG]``.
        scoped: ``"shared"`` for one instance that serves all callers, ``"stream"`` for one a session: the server makes it when a client enters
            ``client.session(...)``, with ``peer=``, the caller's endpoint id. Its ``async def on_session_close(self)``, if it has one, runs once, when all else
            of the session has ended: shielded, and for no longer than the server's ``cleanup_budget``.
        interceptors: subclasses of ``Interceptor`` that wrap each call on the server, the outermost first; a server makes one instance of each, without
            arguments. Those of the service that it inherits from come further out.
        max_concurrent_streams: the most calls at a time, over all connections, of which an open session is one; more of them wait, within their deadlines and
            in their order, peers in turn. ``None`` for no limit of the service's own.
        requires: what a caller of any method must hold; by default what the service that it inherits from requires.
        errors: dataclasses that its handlers give as ``details`` of an ``RpcError``, besides the types of its messages, which need no mention; those of the
            services that it inherits from are added.

    Raises:
        TypeError: the class, a method, an annotation or an option is not of the shape that it must have.
        ValueError: an option is out of range, or two types of the service have one tag.

    Warns:
        AutoTagWarning: a type has no ``@wire_type``, and the service speaks another mode than ``NATIVE``.
    """
    if isinstance(target, str):
        if name is not None:
            raise TypeError(f"@service has two names, {target!r} and name={name!r}: keep one")
        name, target = target, None

    def decorate(cls: object) -> object:
        _declare(cls, name, options, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # the documented way to the caller's frame
        return cls

    if target is None:
        return decorate
    _declare(target, name, options, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # as above
    return target


def _declare(cls: object, name: object, options: dict[str, Any], frame: Any) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"@service decorates a class, and takes a name or keyword options, not {cls!r}")
    check_known(options, ServiceOptions, "@service", readable(cls))
    checked = ServiceOptions(name=cast("str", cls.__name__ if name is None else name), **options)
    checked.check(readable(cls))
    declare(cls, checked, frame)


def _decorate(pattern: RpcPattern, handler: object, options: dict[str, Any]) -> Any:
    def decorate(function: object) -> Handler[Any]:
        where = readable(function)
        checked = _checked_function(function, where, DECORATOR_OF[pattern])
        check_known(options, MethodOptions, DECORATOR_OF[pattern], where)
        declared = MethodOptions(**options)
        declared.check(where)
        check_handler(checked, pattern, where)
        return Handler(checked, pattern, declared)

    return decorate if handler is None else decorate(handler)


def _checked_function(function: object, where: str, decorator: str) -> Callable[..., Any]:
    if isinstance(function, Handler):
        raise TypeError(f"{where} has two decorators, {DECORATOR_OF[cast('Handler[Any]', function).pattern]} and {decorator}: keep one")
    if isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"{where} is a {type(cast('object', function)).__name__}, but a handler is called on an instance: write a plain method with self")
    if not inspect.isfunction(function):
        raise TypeError(f"{decorator} decorates an async method, and its options are given by keyword, as in {decorator}(timeout=30.0); it cannot take {where}")
    return function
