"""What the guide promises of the decorators, a test for each promise that has no plainer one elsewhere: ``docs/reference/guide-coverage.md`` is the list."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from aster.codec import make_codec, wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.errors import AutoTagWarning, DecodeError
from aster.types import CapabilityRequirement, MethodInfo, SerializationMode
from tests.decorators.messages import Answer, Ask

XLANG, NATIVE, ROW = SerializationMode
_ADMIN = CapabilityRequirement("role", ("admin",))

# Wire types


@wire_type("myapp/TaskRequest")
@dataclass
class TaskRequest:
    task_id: str = ""
    priority: int = 0


def test_the_tag_and_not_the_class_is_the_identity_on_the_wire() -> None:
    @wire_type("myapp/TaskRequest")
    @dataclass
    class RenamedAndMoved:
        task_id: str = ""
        priority: int = 0

    sent = make_codec(XLANG, {TaskRequest: "myapp/TaskRequest"}).encoder(TaskRequest)(TaskRequest("7", 2))
    assert make_codec(XLANG, {RenamedAndMoved: "myapp/TaskRequest"}).decoder(RenamedAndMoved)(sent) == RenamedAndMoved("7", 2)


def _moved(name: str, module: str) -> type[Any]:
    cls = dataclasses.make_dataclass(name, [("text", str, "")])
    cls.__module__ = module
    return cls


def _service_of(message: type[Any], **options: Any) -> type[Any]:
    async def find(self: object, ask: Any) -> Any: ...

    find.__annotations__.update({"ask": message, "return": message})
    return service(**options)(type("Shop", (), {"find": rpc(find)}))


def _automatic_tag(message: type[Any]) -> str:
    with pytest.warns(AutoTagWarning):
        return service_info(_service_of(message)).wire_tags[message]


def test_without_a_tag_the_decorator_derives_module_and_class_name_and_warns() -> None:
    assert _automatic_tag(_moved("TaskRequest", "myapp.tasks")) == "myapp.tasks.TaskRequest"


@pytest.mark.parametrize(("name", "module"), [("TaskQuestion", "myapp.tasks"), ("TaskRequest", "myapp.work")], ids=["renamed", "moved"])
def test_renaming_or_moving_an_untagged_class_changes_its_identity_and_breaks_its_consumers(name: str, module: str) -> None:
    before, after = _moved("TaskRequest", "myapp.tasks"), _moved(name, module)
    tags = {cls: _automatic_tag(cls) for cls in (before, after)}
    assert tags[before] != tags[after]
    sent = make_codec(XLANG, {before: tags[before]}).encoder(before)(before("x"))
    with pytest.raises(DecodeError):
        make_codec(XLANG, {after: tags[after]}).decoder(after)(sent)


def test_explicit_tags_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert service_info(_service_of(TaskRequest)).wire_tags == {TaskRequest: "myapp/TaskRequest"}


def test_the_decorator_validates_the_types_of_its_methods() -> None:
    @wire_type("myapp/Unsendable")
    @dataclass
    class Unsendable:
        callback: Callable[[], None]

    with pytest.raises(TypeError, match=r"Unsendable.*callback"):
        _service_of(Unsendable)


# The calling forms


def test_the_bare_decorator_names_the_service_after_its_class() -> None:
    @service
    class TaskService:
        @rpc
        async def get(self, ask: Ask) -> Answer: ...

    assert service_info(TaskService).name == "TaskService"


def test_the_decorator_takes_a_name_by_position() -> None:
    @service("TaskEngine")
    class TaskService:
        @rpc
        async def get(self, ask: Ask) -> Answer: ...

    assert (service_info(TaskService).name, service_info(TaskService).version) == ("TaskEngine", 1)


def test_the_decorator_takes_options_by_name() -> None:
    @service(name="TaskEngine", version=2)
    class TaskService:
        @rpc
        async def get(self, ask: Ask) -> Answer: ...

    assert (service_info(TaskService).name, service_info(TaskService).version) == ("TaskEngine", 2)


# Methods

_Decorator = Any
_FOUR: dict[str, _Decorator] = {"rpc": rpc, "server_stream": server_stream, "client_stream": client_stream, "bidi_stream": bidi_stream}


async def _unary(self: object, ask: Ask) -> Answer: ...


async def _server_stream(self: object, ask: Ask) -> AsyncIterator[Answer]:
    yield Answer()


async def _client_stream(self: object, asks: AsyncIterator[Ask]) -> Answer: ...


async def _bidi_stream(self: object, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
    yield Answer()


_HANDLERS: dict[str, Any] = {"rpc": _unary, "server_stream": _server_stream, "client_stream": _client_stream, "bidi_stream": _bidi_stream}


def _method(decorator: _Decorator, handler: Any) -> MethodInfo:
    return service_info(service(type("Shop", (), {"find": decorator(handler)}))).methods["find"]


@pytest.mark.parametrize("name", _FOUR)
def test_each_method_decorator_is_written_bare_or_with_options(name: str) -> None:
    assert _method(_FOUR[name], _HANDLERS[name]) == _method(_FOUR[name](), _HANDLERS[name])


@pytest.mark.parametrize("name", _FOUR)
def test_the_options_of_each_method_decorator_have_the_guides_defaults(name: str) -> None:
    info = _method(_FOUR[name], _HANDLERS[name])
    assert (info.timeout, info.idempotent, info.modes, info.requires) == (None, False, (XLANG,), None)


@pytest.mark.parametrize("name", _FOUR)
def test_each_method_decorator_takes_all_of_the_guides_options(name: str) -> None:
    info = _method(_FOUR[name](timeout=30.0, idempotent=True, serialization=NATIVE, requires=_ADMIN), _HANDLERS[name])
    assert (info.timeout, info.idempotent, info.modes, info.requires) == (30.0, True, (NATIVE,), _ADMIN)


@pytest.mark.parametrize(("name", "handler"), [("server_stream", _unary), ("bidi_stream", _client_stream)])
def test_a_streaming_method_must_be_an_async_generator(name: str, handler: Any) -> None:
    with pytest.raises(TypeError, match=r"async generator|yield"):
        service(type("Shop", (), {"find": _FOUR[name](handler)}))


# Serialization and sessions


def test_there_are_three_serialization_modes() -> None:
    assert [mode.name for mode in SerializationMode] == ["XLANG", "NATIVE", "ROW"]


def test_the_guides_service_of_two_modes_with_a_method_of_a_third_can_be_declared() -> None:
    @service(serialization=[XLANG, NATIVE])
    class AnalyticsService:
        @rpc(serialization=ROW)
        async def query(self, req: Ask) -> Answer: ...

        @rpc
        async def other(self, req: Ask) -> Answer: ...

    info = service_info(AnalyticsService)
    assert info.modes == (XLANG, NATIVE)
    assert {name: method.modes for name, method in info.methods.items()} == {"query": (ROW,), "other": (XLANG, NATIVE)}


def test_the_init_of_a_session_must_accept_its_peer() -> None:
    with pytest.raises(TypeError, match="takes no 'peer' keyword"):

        @service("ChatRoom", scoped="stream")
        class ChatRoomService:
            def __init__(self) -> None: ...

            @rpc
            async def get(self, ask: Ask) -> Answer: ...
