"""What may be a handler: its kind, its parameters, and the types of its messages.

Everything here only looks and complains, with a ``TypeError``. ``where`` names the culprit as its author knows it, ``TaskService.get_task``, and begins every
message.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias

from aster.codec.hints import is_class, objection_to
from aster.types import RpcPattern

__all__ = [
    "DECORATOR_OF",
    "check_close_hook",
    "check_handler",
    "check_override",
    "check_peer",
    "is_type",
    "message_types",
    "readable",
    "request_parameter",
]

_Function: TypeAlias = Callable[..., Any]

DECORATOR_OF: Mapping[RpcPattern, str] = {
    RpcPattern.UNARY: "@rpc",
    RpcPattern.SERVER_STREAM: "@server_stream",
    RpcPattern.CLIENT_STREAM: "@client_stream",
    RpcPattern.BIDI_STREAM: "@bidi_stream",
}
_FLIPPED: Mapping[RpcPattern, RpcPattern] = {
    RpcPattern.UNARY: RpcPattern.SERVER_STREAM,
    RpcPattern.SERVER_STREAM: RpcPattern.UNARY,
    RpcPattern.CLIENT_STREAM: RpcPattern.BIDI_STREAM,
    RpcPattern.BIDI_STREAM: RpcPattern.CLIENT_STREAM,
}
"""The pattern with the same requests and the other kind of response."""

_STREAM_ORIGINS = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def readable(function: object) -> str:
    """The name of a function or class as its author knows it: ``TaskService.get_task``, without the functions around it."""
    name = getattr(function, "__qualname__", None) or repr(function)
    return str(name).rpartition("<locals>.")[2]


# --- The shape of a handler ---


def check_handler(function: _Function, pattern: RpcPattern, where: str) -> None:
    """Check that a function is of the kind that its pattern needs, and takes ``self`` and one request.

    Raises:
        TypeError: it does not.
    """
    _check_kind(function, pattern, where)
    request_parameter(function, where)


def _check_kind(function: _Function, pattern: RpcPattern, where: str) -> None:
    yields, awaits = inspect.isasyncgenfunction(function), inspect.iscoroutinefunction(function)
    decorator, other = DECORATOR_OF[pattern], DECORATOR_OF[_FLIPPED[pattern]]
    if not pattern.streams_responses:
        if yields:
            raise TypeError(f"{where} is an async generator, but {decorator} gives one response: return it instead of yielding, or use {other}")
        if not awaits:
            raise TypeError(f"{where} is not a coroutine function: write 'async def'")
    elif getattr(function, "__isabstractmethod__", False):
        # The body that would yield is elsewhere, and to a type checker 'async def' without one is a coroutine.
        if awaits:
            raise TypeError(f"{where} is abstract and never yields, so to a type checker it is a coroutine: write 'def' instead of 'async def'")
    elif awaits:
        raise TypeError(
            f"{where} never yields, but {decorator} needs an async generator: yield each response, or use {other} to return one; "
            f"a method that subclasses implement is written '{decorator} @abstractmethod def', in this order and without 'async'"
        )
    elif not yields:
        raise TypeError(
            f"{where} is not an async generator: write 'async def' and yield each response; "
            f"a method that subclasses implement has {decorator} above @abstractmethod, so swap the two"
        )


def request_parameter(function: _Function, where: str) -> str:
    """The name of the parameter that takes the request, once the others are found to be in order.

    Raises:
        TypeError: they are not.
    """
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in _VARIADIC:
            raise TypeError(f"{where} takes *args or **kwargs: write 'self' and one annotated request")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{where} needs a keyword argument {parameter.name!r}, which no caller sends: give it a default, or make it a field of the request")
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    if len(positional) < 2:
        raise TypeError(f"{where} takes no request: write 'self' and one annotated request; if there is nothing to say, an empty dataclass")
    if len(positional) > 2:
        raise TypeError(f"{where} takes {len(positional) - 1} arguments besides self, but a call has one request: make them fields of one dataclass")
    request = positional[1]
    if request.default is not inspect.Parameter.empty:
        raise TypeError(f"{where} has a default for its request {request.name!r}, but a caller always sends one: remove the default")
    return request.name


def check_peer(cls: type, where: str) -> None:
    """Check that the class of a session takes ``peer`` by keyword, which is how the server passes it, and can be made at all.

    Raises:
        TypeError: it does not.
    """
    if inspect.iscoroutinefunction(inspect.getattr_static(cls, "__init__")):
        raise TypeError(f"{where}.__init__ is async, which Python does not await: write 'def __init__(...)', and do what has to be awaited in a call")
    parameters = inspect.signature(cls).parameters
    peer = parameters.get("peer")
    by_keyword = peer is not None and peer.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not by_keyword and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise TypeError(f"{where} is scoped='stream', but its __init__ takes no 'peer' keyword: write 'def __init__(self, peer: str | None = None)'")


def check_close_hook(cls: type, where: str) -> None:
    """Check that ``on_session_close``, where there is one, can be awaited without arguments.

    Raises:
        TypeError: it cannot.
    """
    hook = getattr(cls, "on_session_close", None)
    if hook is None:
        return
    if not inspect.iscoroutinefunction(hook):
        raise TypeError(f"{where}.on_session_close is not a coroutine function: write 'async def on_session_close(self) -> None'")
    needed = [parameter for parameter in inspect.signature(hook).parameters.values() if parameter.default is inspect.Parameter.empty]
    if len([parameter for parameter in needed if parameter.kind not in _VARIADIC]) > 1:
        raise TypeError(f"{where}.on_session_close takes arguments, but is called without: write 'async def on_session_close(self) -> None'")


# --- The types of messages ---


def message_types(function: _Function, pattern: RpcPattern, where: str, namespace: Mapping[str, Any]) -> tuple[type, type]:
    """The dataclasses of a handler's request and response, from its annotations.

    Raises:
        NameError: an annotation refers to a name that does not exist (yet).
        TypeError: an annotation is missing, or is not what the pattern needs.
    """
    parameter = request_parameter(function, where)
    if parameter not in function.__annotations__:
        raise TypeError(f"{where} has no annotation for its request {parameter!r}: write '{parameter}: {_example(pattern.streams_requests)}'")
    if "return" not in function.__annotations__:
        raise TypeError(f"{where} has no return annotation: write '-> {_example(pattern.streams_responses)}'")
    request, result = (_hint(function, name, where, namespace) for name in (parameter, "return"))
    return (
        _message_type(request, pattern.streams_requests, f"{where}: its request {parameter!r}", pattern),
        _message_type(result, pattern.streams_responses, f"{where}: its result", pattern),
    )


def _hint(function: _Function, name: str, where: str, namespace: Mapping[str, Any] | None = None) -> object:
    """One annotation of a function, resolved; the others may be whatever they like.

    Raises:
        NameError: it refers to a name that does not exist (yet).
        TypeError: it cannot be resolved.
    """
    annotation: object = function.__annotations__[name]
    alone = types.SimpleNamespace(__annotations__={name: annotation}, __wrapped__=function)
    try:
        return typing.get_type_hints(alone, localns=None if namespace is None else dict(namespace))[name]
    except NameError:
        raise
    except Exception as exc:  # an annotation is any expression, and raises what it likes
        what = "its result" if name == "return" else f"its request {name!r}"
        raise TypeError(f"{where}: the annotation of {what}, {annotation!r}, cannot be resolved: {exc!r}; write the name of a dataclass") from exc


def is_type(value: object) -> bool:
    """Whether a value is one that an annotation may name: a class or a type alias, rather than a method that happens to have the name."""
    return isinstance(value, type) or typing.get_origin(value) is not None or type(value).__module__ == "typing"


def check_override(function: _Function, pattern: RpcPattern, expected: tuple[type, type], where: str, base: str) -> None:
    """Check that an undecorated override can stand in for the method that it overrides.

    Its annotations count where it has any. Names that only the function around it knew cannot be resolved any more; they are left to type checkers.

    Raises:
        TypeError: it is of another kind, takes other arguments or is annotated with other types.
    """
    try:
        check_handler(function, pattern, where)
    except TypeError as exc:
        raise TypeError(f"{exc}, like {base}, which it overrides") from exc.__cause__
    parameter = request_parameter(function, where)
    sides = ((parameter, pattern.streams_requests, expected[0]), ("return", pattern.streams_responses, expected[1]))
    for name, streams, declared in sides:
        try:
            hint = _hint(function, name, where) if name in getattr(function, "__annotations__", {}) else Any
        except NameError:
            continue
        if hint is not Any and not _agrees(hint, streams, declared):
            wanted = f"AsyncIterator[{declared.__qualname__}]" if streams else declared.__qualname__
            raise TypeError(f"{where}: {name!r} is annotated as {_shown(hint)}, but {base}, which it overrides, has {wanted}: write that")


def _agrees(hint: object, streams: bool, declared: type) -> bool:
    if not streams:
        return hint is declared
    return typing.get_origin(hint) in _STREAM_ORIGINS and typing.get_args(hint)[0] is declared


def _example(streams: bool) -> str:
    return "AsyncIterator[SomeDataclass]" if streams else "SomeDataclass"


def _message_type(hint: object, streams: bool, what: str, pattern: RpcPattern) -> type:
    is_stream = (typing.get_origin(hint) or hint) in _STREAM_ORIGINS
    decorator = DECORATOR_OF[pattern]
    if is_stream and not streams:
        raise TypeError(f"{what} is a stream, {_shown(hint)}, but {decorator} has one message there: name the dataclass itself, or use another decorator")
    if streams and not is_stream:
        raise TypeError(f"{what} is {_shown(hint)}, but {decorator} has a stream there: write AsyncIterator[...] around a dataclass, or use another decorator")
    if not streams:
        return _checked_dataclass(hint, what)
    arguments = typing.get_args(hint)
    if not arguments:
        raise TypeError(f"{what} is a stream of unnamed type: write AsyncIterator[SomeDataclass]")
    return _checked_dataclass(arguments[0], what)


def _checked_dataclass(hint: object, what: str) -> type:
    if not is_class(hint) or issubclass(hint, Enum) or hint.__module__ == "builtins":
        raise TypeError(f"{what} is {_shown(hint)}, not a dataclass; {_advice(hint)}")
    objection = objection_to(hint)
    if objection is not None:
        raise TypeError(f"{what} is {_shown(hint)}, which {objection}")
    return hint


def _advice(hint: object) -> str:
    """What to do about a message that is no dataclass."""
    if hint in (None, types.NoneType):
        return "a message is never None: declare an empty dataclass, which leaves room for fields later"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "a message has one type: declare a dataclass with a field for the choice"
    if typing.get_origin(hint) in (abc.Awaitable, abc.Coroutine):
        return f"name {_shown(typing.get_args(hint)[-1])} itself: the annotation of an 'async def' is what awaiting it gives"
    if isinstance(hint, typing.TypeVar):
        return "redeclare the method here with concrete types"
    if typing.get_origin(hint) is not None:
        return "declare a dataclass with a field of that type; generic dataclasses are written out, one for each argument"
    if not isinstance(hint, type):
        return "name one class that is decorated with @dataclass"
    if issubclass(hint, Enum):
        return "an enum may be a field: declare a dataclass that holds it"
    return "declare a dataclass with a field of that type"


def _shown(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) and typing.get_origin(hint) is None else str(hint).replace("collections.abc.", "").replace("typing.", "")
