"""The methods of a service: what stands in the class, and what a type checker sees on an instance."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from aster._signatures import readable
from aster._streams import LocalResponseStream, RequestIterator
from aster.types import RpcPattern

if TYPE_CHECKING:
    from typing import Self

    from aster._options import MethodOptions
    from aster._streams import ResponseStream

__all__ = ["BidiStreamMethod", "ClientStreamMethod", "Handler", "ServerStreamMethod", "UnaryMethod"]

P = ParamSpec("P")
Req_contra = TypeVar("Req_contra", contravariant=True)
Res_co = TypeVar("Res_co", covariant=True)
Method_co = TypeVar("Method_co", covariant=True)


class UnaryMethod(ABC, Generic[P, Res_co]):
    """A unary method of an instance or a stub: called as its handler is, it gives the response."""

    @abstractmethod
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Res_co]: ...


class ServerStreamMethod(ABC, Generic[P, Res_co]):
    """A server-streaming method of an instance or a stub: called as its handler is, it gives a stream of responses."""

    @abstractmethod
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResponseStream[Res_co]: ...


class ClientStreamMethod(ABC, Generic[Req_contra, Res_co]):
    """A client-streaming method of an instance or a stub: it takes any iterable of requests, and gives the response."""

    @abstractmethod
    def __call__(self, requests: Iterable[Req_contra] | AsyncIterable[Req_contra], /) -> Coroutine[Any, Any, Res_co]: ...


class BidiStreamMethod(ABC, Generic[Req_contra, Res_co]):
    """A bidirectional method of an instance or a stub: it takes any iterable of requests, and gives a stream of responses."""

    @abstractmethod
    def __call__(self, requests: Iterable[Req_contra] | AsyncIterable[Req_contra], /) -> ResponseStream[Res_co]: ...


class Handler(Generic[Method_co]):
    """A decorated method as it stands in the class: its declaration, and the function that serves it.

    Found on the class it is itself, with the function's name, docstring and signature. Found on an instance it is the method, which runs the handler here,
    without RPC: a streaming method then gives a local ``ResponseStream``, and a stream of requests may be any iterable. A client's stub puts methods that call
    over the wire in its place.

    Attributes:
        function: the handler as it was written.
        pattern: which sides are streams.
        options: what its decorator was told.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any], pattern: RpcPattern, options: MethodOptions) -> None:
        # Among what this copies is __isabstractmethod__, so that an abstract handler keeps its class abstract.
        functools.update_wrapper(self, function)
        self.function = function
        self.pattern = pattern
        self.options = options
        self._local = _local_method(function, pattern)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Method_co: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self._local, instance)

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``TaskService.get_task(instance, request)``, as with any function of a class."""
        return self._local(instance, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.pattern.name} handler {readable(self.function)}>"


def _local_method(function: Callable[..., Any], pattern: RpcPattern) -> Callable[..., Any]:
    """The handler with the widenings that its decorator's type promises."""
    where = readable(function)

    @functools.wraps(function)
    def server_stream(self: Any, /, *args: Any, **kwargs: Any) -> LocalResponseStream[Any]:
        return LocalResponseStream(function(self, *args, **kwargs))

    @functools.wraps(function)
    async def client_stream(self: Any, requests: Any, /, **kwargs: Any) -> Any:
        return await function(self, RequestIterator[Any].of(requests, where), **kwargs)

    @functools.wraps(function)
    def bidi_stream(self: Any, requests: Any, /, **kwargs: Any) -> LocalResponseStream[Any]:
        return LocalResponseStream(function(self, RequestIterator[Any].of(requests, where), **kwargs))

    match pattern:
        case RpcPattern.UNARY:
            return function
        case RpcPattern.SERVER_STREAM:
            return server_stream
        case RpcPattern.CLIENT_STREAM:
            return client_stream
        case RpcPattern.BIDI_STREAM:
            return bidi_stream
