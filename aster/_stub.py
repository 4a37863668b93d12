"""Stubs: what ``await client.client(TaskService)`` gives. To a type checker a stub is the service class; its methods call over the wire."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from aster._declarations import service_info
from aster._invoke import CallSettings, Channel, InteractiveCall, RemoteResponseStream, call_client_stream, call_unary, check_requests
from aster._outgoing import RemoteMethod
from aster._signatures import request_parameter
from aster.codec import make_codec
from aster.types import Metadata, MethodInfo, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["Unset", "interactive_call", "make_stub", "with_settings"]

S = TypeVar("S")

_STATE = "__aster_stub__"


class Unset:
    """The default of options for which ``None`` means something."""


@dataclass(frozen=True, slots=True)
class _StubState:
    """What makes an object a stub: where its calls go, and how."""

    channel: Channel
    methods: Mapping[str, RemoteMethod]
    settings: Mapping[str, CallSettings]


def make_stub(service: type[S], channel: Channel) -> S:
    """A stub of a service whose calls go through ``channel``.

    Raises:
        TypeError: ``service`` is not a service class.
        ValueError: it uses a serialization mode that cannot be had.
    """
    info = service_info(service)
    methods = {method.name: _remote(service, method.name, method.modes[0]) for method in info.methods.values()}
    settings = {method.name: CallSettings(method.timeout, Metadata()) for method in info.methods.values()}
    stub_class = _stub_class(service)
    stub: S = object.__new__(stub_class)
    setattr(stub, _STATE, _StubState(channel, methods, settings))
    return stub


def with_settings(stub: S, timeout: float | type[Unset] | None, metadata: Metadata | None, mode: SerializationMode | None) -> S:
    """A copy of a stub whose calls differ in what is given."""
    state = _state_of(stub)
    service = type(stub).__mro__[1]
    info = service_info(service)
    methods = dict(state.methods)
    if mode is not None:
        methods.update({name: _remote(service, name, mode) for name in _methods_with(info, mode)})
    settings = dict(state.settings)
    for name, old in settings.items():
        new_timeout = old.timeout if timeout is Unset else cast("float | None", timeout)
        settings[name] = CallSettings(new_timeout, old.metadata if metadata is None else metadata)
    copy = object.__new__(type(stub))
    setattr(copy, _STATE, replace(state, methods=methods, settings=settings))
    return copy


def interactive_call(method: object) -> InteractiveCall[Any, Any]:
    """The call of a stub's bound method, message by message."""
    stub, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    state = getattr(stub, _STATE, None)
    if not isinstance(state, _StubState) or name not in state.methods:
        raise TypeError(f"open_call takes a method of a stub, such as tasks.execute with tasks = await client.client(TaskService), not {method!r}")
    return InteractiveCall(state.channel, state.methods[name], state.settings[name])


def _state_of(stub: object) -> _StubState:
    state = getattr(stub, _STATE, None)
    if not isinstance(state, _StubState):
        raise TypeError(f"with_options takes a stub, which `await client.client(...)` gives, not {type(stub).__name__}")
    return state


def _methods_with(info: ServiceInfo, mode: SerializationMode) -> list[str]:
    """The methods that allow a mode; the others are fixed to another one, and go on in it."""
    names = [method.name for method in info.methods.values() if mode in method.modes]
    if not names:
        allowed = ", ".join(sorted({allowed.name for method in info.methods.values() for allowed in method.modes}))
        raise ValueError(f"no method of {info.name} allows the serialization mode {mode.name}; they allow {allowed}")
    return names


@functools.lru_cache(maxsize=256)
def _remote(service: type, name: str, mode: SerializationMode) -> RemoteMethod:
    info = service_info(service)
    method = info.methods[name]
    codec = _codec(service, mode)
    return RemoteMethod.create(info, method, mode, codec.encoder(method.request_type), codec.decoder(method.response_type))


@functools.lru_cache(maxsize=64)
def _codec(service: type, mode: SerializationMode) -> Any:
    return make_codec(mode, service_info(service).wire_tags)


@functools.lru_cache(maxsize=256)
def _stub_class(service: type) -> Any:
    info = service_info(service)
    namespace = {method.name: _stub_method(service, method) for method in info.methods.values()}
    made: Any = types.new_class(service.__name__, (service,), exec_body=lambda body: body.update(namespace))
    made.__module__, made.__qualname__, made.__doc__ = service.__module__, service.__qualname__, service.__doc__
    # An interface may leave other things abstract; a stub answers for the methods alone.
    made.__abstractmethods__ = frozenset()
    return made


def _stub_method(service: type, method: MethodInfo) -> Callable[..., Any]:
    handler = getattr(service, method.name)
    name = method.name
    argument = _argument_of(service, method, handler)

    async def unary(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: _StubState = getattr(self, _STATE)
        return await call_unary(state.channel, state.methods[name], argument(args, kwargs), state.settings[name])

    async def client_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: _StubState = getattr(self, _STATE)
        return await call_client_stream(state.channel, state.methods[name], argument(args, kwargs), state.settings[name])

    def server_stream(self: Any, *args: Any, **kwargs: Any) -> RemoteResponseStream[Any]:
        state: _StubState = getattr(self, _STATE)
        remote = state.methods[name]
        return RemoteResponseStream(state.channel, remote, remote.encode(argument(args, kwargs)), None, state.settings[name])

    def bidi_stream(self: Any, *args: Any, **kwargs: Any) -> RemoteResponseStream[Any]:
        state: _StubState = getattr(self, _STATE)
        remote, requests = state.methods[name], argument(args, kwargs)
        check_requests(requests, remote)
        return RemoteResponseStream(state.channel, remote, None, requests, state.settings[name])

    match method.pattern:
        case RpcPattern.UNARY:
            stub: Callable[..., Any] = unary
        case RpcPattern.CLIENT_STREAM:
            stub = client_stream
        case RpcPattern.SERVER_STREAM:
            stub = server_stream
        case RpcPattern.BIDI_STREAM:
            stub = bidi_stream
    functools.update_wrapper(stub, getattr(handler, "__wrapped__", handler))
    # A wrapper of the author's, or a second name for one method, may call its function otherwise; open_call goes by this name.
    stub.__name__, stub.__qualname__ = name, f"{service.__qualname__}.{name}"
    return stub


def _argument_of(service: type, method: MethodInfo, handler: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """Finds the one request among the arguments of a call, given by position or by its parameter's name."""
    parameter = request_parameter(handler, f"{service.__name__}.{method.name}")

    def argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 1 and not kwargs:
            return args[0]
        if not args and kwargs.keys() == {parameter}:
            return kwargs[parameter]
        raise TypeError(f"{service.__name__}.{method.name}() takes exactly one request, {parameter}; got {len(args)} by position and {sorted(kwargs)} by name")

    return argument
