"""Stubs: what ``await client.client(TaskService)`` gives. To a type checker a stub is the service class; its methods call over the wire."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from aster._channel import CallChannel
from aster._declarations import service_info
from aster._details import DetailCodec
from aster._intercepted import client_stream_call, open_interactive_call, response_stream, unary_call
from aster._invoke import CallSettings, InteractiveCall, check_requests
from aster._outgoing import RemoteMethod
from aster._signatures import request_parameter
from aster._streams import ResponseStream, refuse_function
from aster.codec import is_exactly, make_codec
from aster.codec.tags import described
from aster.types import Metadata, MethodInfo, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["Unset", "interactive_call", "make_stub", "with_settings"]

S = TypeVar("S")

_STATE = "__aster_stub__"


class Unset:
    """The default of options for which ``None`` means something."""


@dataclass(frozen=True, slots=True)
class _StubState:
    """What makes an object a stub: of what it is one, where its calls go, and how."""

    service: type
    channel: CallChannel
    methods: Mapping[str, RemoteMethod]
    settings: Mapping[str, CallSettings]


def make_stub(service: type[S], channel: CallChannel) -> S:
    """A stub of a service whose calls go through ``channel``.

    Raises:
        TypeError: ``service`` is not a service class.
        ValueError: it uses a serialization mode that cannot be had.
    """
    info = service_info(service)
    methods = {method.name: _remote(service, method.name, method.modes[0]) for method in info.methods.values()}
    settings = {method.name: CallSettings(method.timeout, Metadata()) for method in info.methods.values()}
    stub_class = _stub_class(service)
    return _made(stub_class, _StubState(service, channel, methods, settings))


def with_settings(stub: S, timeout: float | type[Unset] | None, metadata: Metadata | None, mode: SerializationMode | None) -> S:
    """A copy of a stub whose calls differ in what is given."""
    state = _state_of(stub)
    service = state.service
    info = service_info(service)
    methods = dict(state.methods)
    if mode is not None:
        methods.update({name: _remote(service, name, mode) for name in _methods_with(info, mode)})
    settings = dict(state.settings)
    for name, old in settings.items():
        new_timeout = old.timeout if timeout is Unset else cast("float | None", timeout)
        settings[name] = CallSettings(new_timeout, old.metadata if metadata is None else metadata)
    return _made(type(stub), replace(state, methods=methods, settings=settings))


def _made(stub_class: type[S], state: _StubState) -> S:
    stub = object.__new__(stub_class)
    # Past what the service class may do about attributes, such as being a frozen dataclass.
    object.__setattr__(stub, _STATE, state)
    return stub


class _Stub:
    """What stands before the service class in a stub: nothing that belongs to the service's own instances is to run for a stub."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Not the service's, which may need arguments or keep a register."""

    def __del__(self) -> None:
        """Not the service's, which gives back what only an instance has that was initialized."""

    def __repr__(self) -> str:
        info = service_info(self)
        return f"<stub of {info.name} version {info.version}>"


def interactive_call(method: object) -> InteractiveCall[Any, Any]:
    """The call of a stub's bound method, message by message."""
    stub, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    state = getattr(stub, _STATE, None)
    if not isinstance(state, _StubState) or name not in state.methods:
        raise TypeError(f"open_call takes a method of a stub, such as tasks.execute with tasks = await client.client(TaskService), not {method!r}")
    return open_interactive_call(state.channel, state.methods[name], state.settings[name])


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
    return RemoteMethod.create(info, method, mode, codec.encoder(method.request_type), codec.decoder(method.response_type), _details(service, mode))


@functools.lru_cache(maxsize=64)
def _codec(service: type, mode: SerializationMode) -> Any:
    return make_codec(mode, service_info(service).wire_tags)


@functools.lru_cache(maxsize=64)
def _details(service: type, mode: SerializationMode) -> DetailCodec:
    return DetailCodec(_codec(service, mode), service_info(service).wire_tags)


@functools.lru_cache(maxsize=256)
def _stub_class(service: type) -> Any:
    info = service_info(service)
    namespace = {method.name: _stub_method(service, method) for method in info.methods.values()}
    made: Any = types.new_class(service.__name__, (_Stub, service), exec_body=lambda body: body.update(namespace))
    made.__module__, made.__qualname__, made.__doc__ = service.__module__, service.__qualname__, service.__doc__
    # An interface may leave other things abstract; a stub answers for the methods alone.
    made.__abstractmethods__ = frozenset()
    return made


def _stub_method(service: type, method: MethodInfo) -> Callable[..., Any]:
    handler = getattr(service, method.name)
    name = method.name
    argument = _Argument(service, method, handler)

    async def unary(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: _StubState = getattr(self, _STATE)
        return await unary_call(state.channel, state.methods[name], argument(args, kwargs), state.settings[name])

    async def client_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: _StubState = getattr(self, _STATE)
        return await client_stream_call(state.channel, state.methods[name], argument(args, kwargs), state.settings[name])

    def server_stream(self: Any, *args: Any, **kwargs: Any) -> ResponseStream[Any]:
        state: _StubState = getattr(self, _STATE)
        return response_stream(state.channel, state.methods[name], argument(args, kwargs), None, state.settings[name])

    def bidi_stream(self: Any, *args: Any, **kwargs: Any) -> ResponseStream[Any]:
        state: _StubState = getattr(self, _STATE)
        remote, requests = state.methods[name], argument(args, kwargs)
        check_requests(requests, remote)
        return response_stream(state.channel, remote, None, requests, state.settings[name])

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


class _Argument:
    """Finds the one request among the arguments of a call, given by position or by its parameter's name, and says what to write when it is none."""

    def __init__(self, service: type, method: MethodInfo, handler: Any) -> None:
        self._name = method.name
        self._where = f"{service.__name__}.{method.name}"
        self._expected = method.request_type
        self._streams = method.pattern.streams_requests
        self._parameter = request_parameter(handler, self._where)
        parameters = inspect.signature(handler).parameters.values()
        self._handlers_own = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 1 and not kwargs:
            argument = args[0]
        elif not args and kwargs.keys() == {self._parameter}:
            argument = kwargs[self._parameter]
        else:
            got = f"got {len(args)} by position and {sorted(kwargs)} by name"
            raise TypeError(f"{self._where}() takes exactly one request, {self._parameter}; {got}{self._advice(args, kwargs)}")
        if self._streams:
            refuse_function(argument, self._where)
        elif type(argument) is not self._expected and not is_exactly(argument, self._expected):
            self._refuse(argument)
        return argument

    def _advice(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        fields = {field.name for field in dataclasses.fields(self._expected) if field.init}
        if kwargs and kwargs.keys() <= fields and not args and not self._streams:
            return f": write {self._name}({self._expected.__name__}({', '.join(f'{name}=...' for name in kwargs)}))"
        for name in kwargs:
            if name in self._handlers_own:
                return f": {name!r} stays with the handler, and no call can set it: leave it out, or make it a field of {self._expected.__name__}"
            if name in ("timeout", "metadata", "serialization"):
                return f": for {name} use aster.with_options(stub, {name}=...)"
        return ""

    def _refuse(self, value: object) -> None:
        name = self._expected.__name__
        if value is self._expected:
            raise TypeError(f"{self._where}: this call expects a {name}, not the class itself; write {name}(...)")
        raise TypeError(f"{self._where}: this call expects a {name}, not {described(value, self._expected)}; write {self._name}({name}(...))")
