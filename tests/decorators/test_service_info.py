"""What ``@service`` reads from a class."""

from __future__ import annotations

import abc
import collections.abc
import functools
import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.interceptors import LoggingInterceptor
from aster.types import CapabilityRequirement, MethodInfo, RpcPattern, SerializationMode
from tests.decorators.messages import Answer, Ask, Basket, Item

XLANG, NATIVE, ROW = SerializationMode
_ADMIN = CapabilityRequirement("role", ("admin",))
_STAFF = CapabilityRequirement("any_of", ("admin", "clerk"))


@service
class Shop:
    """Sells things."""

    @rpc
    async def find(self, ask: Ask) -> Answer:
        """Find one thing."""
        return Answer(ask.text)

    @server_stream(timeout=2)
    async def browse(self, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer(ask.text)

    async def helper(self, ask: Ask) -> None: ...

    @client_stream(idempotent=True)
    async def fill(self, items: AsyncIterator[Item]) -> Basket:
        return Basket([item async for item in items])

    @bidi_stream(serialization=ROW, requires=_ADMIN)
    async def haggle(self, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
        async for item in items:
            yield Answer(rank=item.number)


def test_a_bare_service_takes_the_name_of_its_class_and_the_defaults() -> None:
    info = service_info(Shop)
    assert (info.name, info.version, info.modes, info.scoped) == ("Shop", 1, (XLANG,), "shared")
    assert (info.interceptors, info.max_concurrent_streams, info.requires) == ((), None, None)


def test_methods_are_described_in_the_order_of_their_definition() -> None:
    assert list(service_info(Shop).methods.items()) == [
        ("find", MethodInfo("find", RpcPattern.UNARY, Ask, Answer)),
        ("browse", MethodInfo("browse", RpcPattern.SERVER_STREAM, Ask, Answer, timeout=2)),
        ("fill", MethodInfo("fill", RpcPattern.CLIENT_STREAM, Item, Basket, idempotent=True)),
        ("haggle", MethodInfo("haggle", RpcPattern.BIDI_STREAM, Item, Answer, modes=(ROW,), requires=_ADMIN)),
    ]


def test_the_tags_of_all_types_that_the_methods_reach_are_listed() -> None:
    assert service_info(Shop).wire_tags == {cls: f"tests.decorators/{cls.__name__}" for cls in (Ask, Answer, Item, Basket)}


def test_a_description_cannot_be_changed() -> None:
    info = service_info(Shop)
    for mapping in (info.methods, info.wire_tags):
        with pytest.raises(TypeError):
            mapping["find"] = None  # pyright: ignore[reportIndexIssue]  # that it is read-only is the point


def test_a_description_is_found_by_class_subclass_instance_and_partial() -> None:
    class Corner(Shop):
        pass

    for form in (Shop, Shop(), Corner, Corner(), functools.partial(Shop)):
        assert service_info(form) is service_info(Shop)


@pytest.mark.parametrize("form", [int, 3, object(), functools.partial(print)], ids=repr)
def test_what_is_not_a_service_has_no_description(form: object) -> None:
    with pytest.raises(TypeError, match="is not a service: decorate it"):
        service_info(form)


def test_a_name_may_be_given_by_position() -> None:
    @service("corner.Shop-2_b")
    class Named(Shop):
        pass

    assert service_info(Named).name == "corner.Shop-2_b"
    assert service_info(Shop).name == "Shop"


def test_every_option_of_a_service_is_read() -> None:
    class First(LoggingInterceptor): ...

    class Second(LoggingInterceptor): ...

    @service(
        name="Corner",
        version=7,
        serialization=[NATIVE, XLANG],
        scoped="stream",
        interceptors=[First, Second],
        max_concurrent_streams=5,
        requires=_STAFF,
    )
    class Session(Shop):
        def __init__(self, peer: str | None = None) -> None: ...

    info = service_info(Session)
    assert (info.name, info.version, info.modes, info.scoped) == ("Corner", 7, (NATIVE, XLANG), "stream")
    assert (info.interceptors, info.max_concurrent_streams, info.requires) == ((First, Second), 5, _STAFF)


def test_a_name_and_options_may_be_combined() -> None:
    @service("Corner", version=2, serialization=ROW)
    class Named(Shop):
        pass

    info = service_info(Named)
    assert (info.name, info.version, info.modes) == ("Corner", 2, (ROW,))


def test_a_method_without_a_mode_of_its_own_allows_those_of_the_service() -> None:
    @service(serialization=[NATIVE, XLANG])
    class Named(Shop):
        pass

    assert {name: method.modes for name, method in service_info(Named).methods.items()} == {
        "find": (NATIVE, XLANG),
        "browse": (NATIVE, XLANG),
        "fill": (NATIVE, XLANG),
        "haggle": (ROW,),
    }


def test_two_versions_of_a_service_live_side_by_side() -> None:
    @service("Shop", version=2)
    class ShopV2(Shop):
        @rpc(timeout=9)
        async def find(self, ask: Item) -> Basket:  # pyright: ignore[reportIncompatibleVariableOverride]  # a new version may differ
            return Basket([ask])

    first, second = service_info(Shop), service_info(ShopV2)
    assert (first.name, first.version, second.name, second.version) == ("Shop", 1, "Shop", 2)
    assert first.methods["find"] == MethodInfo("find", RpcPattern.UNARY, Ask, Answer)
    assert second.methods["find"] == MethodInfo("find", RpcPattern.UNARY, Item, Basket, timeout=9)


def test_methods_of_bases_and_mixins_come_first_and_keep_their_place_when_overridden() -> None:
    class Mixin:
        @rpc
        async def ping(self, ask: Ask) -> Answer: ...

        @rpc
        async def pong(self, ask: Ask) -> Answer: ...

    @service
    class Big(Shop, Mixin):
        @rpc
        async def late(self, ask: Ask) -> Answer: ...

        @rpc(timeout=4)
        async def ping(self, ask: Ask) -> Answer: ...

    info = service_info(Big)
    assert list(info.methods) == ["ping", "pong", "find", "browse", "fill", "haggle", "late"]
    assert info.methods["ping"].timeout == 4


def test_what_a_service_and_its_methods_require_is_inherited_unless_given_anew() -> None:
    @service("Admin", requires=_ADMIN)
    class Admin:
        @rpc(requires=_STAFF)
        async def find(self, ask: Ask) -> Answer: ...

        @rpc(requires=_STAFF)
        async def lose(self, ask: Ask) -> Answer: ...

        @rpc
        async def keep(self, ask: Ask) -> Answer: ...

    class Between(Admin):
        @rpc
        async def lose(self, ask: Ask) -> Answer: ...

    @service("Admin", version=2)
    class Second(Between):
        @rpc(timeout=3)
        async def find(self, ask: Ask) -> Answer: ...

    @service("Admin", version=3, requires=_STAFF)
    class Third(Second):
        @rpc(requires=_ADMIN)
        async def find(self, ask: Ask) -> Answer: ...

    def required(cls: type) -> list[CapabilityRequirement | None]:
        info = service_info(cls)
        return [info.requires, *(method.requires for method in info.methods.values())]

    assert required(Second) == [_ADMIN, _STAFF, _STAFF, None]
    assert required(Third) == [_STAFF, _ADMIN, _STAFF, None]
    assert service_info(Second).methods["find"].timeout == 3


def test_an_undecorated_override_leaves_the_method_as_it_was_declared() -> None:
    @service
    class Corner(Shop):
        async def find(self, ask: Ask) -> Answer: ...  # pyright: ignore[reportIncompatibleVariableOverride]  # to a checker it is no handler

    assert service_info(Corner).methods["find"] == service_info(Shop).methods["find"]


@pytest.mark.parametrize(
    "stream",
    [
        typing.AsyncIterator[Item],
        typing.AsyncIterable[Item],
        typing.AsyncGenerator[Item, None],
        collections.abc.AsyncIterator[Item],
        collections.abc.AsyncIterable[Item],
        collections.abc.AsyncGenerator[Item, None],
    ],
    ids=str,
)
def test_a_stream_is_annotated_with_any_of_the_async_iterables(stream: Any) -> None:
    async def fill(self: object, items: Any) -> Answer: ...

    async def copy(self: object, items: Any) -> AsyncIterator[Any]:
        yield

    fill.__annotations__.update({"items": stream})
    copy.__annotations__.update({"items": stream, "return": stream})
    cls = service(type("Copier", (), {"fill": client_stream(fill), "copy": bidi_stream(copy)}))
    fill_info, copy_info = service_info(cls).methods.values()
    assert fill_info.request_type is copy_info.request_type is copy_info.response_type is Item


def test_annotated_messages_are_the_messages() -> None:
    @service
    class Noted:
        @rpc
        async def find(self, ask: Annotated[Ask, "a note"]) -> Annotated[Answer, "another"]: ...

    method = service_info(Noted).methods["find"]
    assert (method.request_type, method.response_type) == (Ask, Answer)


def test_a_keyword_argument_with_a_default_is_the_handlers_own_affair() -> None:
    @service
    class Clocked:
        @rpc
        async def find(self, ask: Ask, *, deep: bool = False) -> Answer: ...

    assert service_info(Clocked).methods["find"].request_type is Ask


@pytest.mark.anyio
async def test_a_handler_may_be_wrapped_by_another_decorator_underneath() -> None:
    def logged(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @service
    class Logged:
        @rpc
        @logged
        async def find(self, ask: Ask) -> Answer:
            return Answer(ask.text)

    assert service_info(Logged).methods["find"].response_type is Answer
    assert await Logged().find(Ask("tea")) == await Logged().find(ask=Ask("tea")) == Answer("tea")


def test_a_handler_on_the_class_looks_like_its_function() -> None:
    assert (Shop.find.__name__, Shop.find.__qualname__, Shop.find.__doc__, Shop.find.__module__) == ("find", "Shop.find", "Find one thing.", __name__)
    assert str(inspect.signature(Shop.find)) == "(self, ask: 'Ask') -> 'Answer'"
    assert inspect.unwrap(Shop.find) is Shop.find.function
    assert repr(Shop.find) == "<UNARY handler Shop.find>"


class AbstractShop(abc.ABC):
    @rpc
    @abc.abstractmethod
    async def find(self, ask: Ask) -> Answer: ...

    @server_stream
    @abc.abstractmethod
    def browse(self, ask: Ask) -> AsyncIterator[Answer]: ...

    @bidi_stream
    @abc.abstractmethod
    def haggle(self, items: AsyncIterable[Item]) -> AsyncGenerator[Answer, None]: ...


def test_abstract_handlers_keep_their_class_abstract() -> None:
    @service
    class Abstract(AbstractShop):
        pass

    cls: type[AbstractShop] = Abstract
    assert inspect.isabstract(cls)
    assert set(service_info(cls).methods) == {"find", "browse", "haggle"}
    with pytest.raises(TypeError, match="abstract"):
        cls()  # pyright: ignore[reportAbstractUsage]  # that it fails is the point


def test_an_abstract_session_leaves_its_peer_to_the_implementation() -> None:
    @service(scoped="stream")
    class AbstractSession(AbstractShop):
        pass

    assert service_info(AbstractSession).scoped == "stream"


@pytest.mark.parametrize("parameters", ["self, peer=None", "self, *, peer", "self, shop, peer", "self, **options"])
def test_a_session_takes_its_peer_by_keyword_in_any_way_it_likes(parameters: str) -> None:
    cls = type("Session", (Shop,), {"__init__": eval(f"lambda {parameters}: None")})
    assert service_info(service(scoped="stream")(cls)).scoped == "stream"


def _twins() -> type:
    """A service and its message as a notebook cell makes them, each time it is run."""

    @wire_type("tests.decorators/Twin")
    @dataclass
    class Twin:
        text: str = ""

    @service
    class Twins:
        @rpc
        async def find(self, ask: Twin) -> Answer: ...

    return Twins


def test_the_same_tag_in_two_services_is_no_conflict() -> None:
    first, second = (service_info(_twins()) for _ in range(2))
    assert list(first.wire_tags.values()) == list(second.wire_tags.values()) == ["tests.decorators/Twin", "tests.decorators/Answer"]
    assert first.methods["find"].request_type is not second.methods["find"].request_type


def test_a_tag_and_an_automatic_tag_that_are_one_name_to_fory_conflict() -> None:
    @dataclass
    class Plain:
        text: str = ""

    @wire_type(f"{__name__}/Plain")
    @dataclass
    class Tagged:
        text: str = ""

    with pytest.raises(ValueError, match="have one tag"):

        @service(serialization=NATIVE)
        class _Clash:
            @rpc
            async def find(self, ask: Plain) -> Tagged: ...


_MESSAGES = st.sampled_from([Ask, Answer, Item, Basket])
_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.none() | st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False) | st.integers(1, 10**9),
        "idempotent": st.booleans(),
        "serialization": st.none() | st.sampled_from(SerializationMode),
        "requires": st.sampled_from([None, _ADMIN, _STAFF]),
    },
)
_DECORATORS: dict[RpcPattern, Any] = {
    RpcPattern.UNARY: rpc,
    RpcPattern.SERVER_STREAM: server_stream,
    RpcPattern.CLIENT_STREAM: client_stream,
    RpcPattern.BIDI_STREAM: bidi_stream,
}
_METHODS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
    st.tuples(st.sampled_from(RpcPattern), _MESSAGES, _MESSAGES, _OPTIONS),
    min_size=1,
    max_size=8,
)


def _handler(name: str, pattern: RpcPattern, request: type, response: type, options: dict[str, Any]) -> Any:
    async def one(self: object, request: Any) -> Any: ...

    async def many(self: object, request: Any) -> Any:
        yield

    function = many if pattern.streams_responses else one
    function.__name__ = name
    function.__annotations__ = {
        "request": AsyncIterator[request] if pattern.streams_requests else request,
        "return": AsyncIterator[response] if pattern.streams_responses else response,
    }
    decorator = _DECORATORS[pattern]
    return decorator(**options)(function) if options else decorator(function)


@given(
    methods=_METHODS,
    split=st.integers(0, 8),
    modes=st.lists(st.sampled_from(SerializationMode), min_size=1, unique=True),
    version=st.integers(1, 2**31 - 1),
    name=st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True),
)
def test_any_mixture_of_methods_and_options_is_read_as_it_was_written(
    methods: dict[str, tuple[RpcPattern, type, type, dict[str, Any]]], split: int, modes: list[SerializationMode], version: int, name: str
) -> None:
    handlers = [(method, _handler(method, *declared)) for method, declared in methods.items()]
    base = type("Base", (), dict(handlers[:split]))
    info = service_info(service(name, version=version, serialization=modes)(type("Made", (base,), dict(handlers[split:]))))
    expected = {
        method: MethodInfo(
            method,
            pattern,
            request,
            response,
            options.get("timeout"),
            options.get("idempotent", False),
            tuple(modes) if options.get("serialization") is None else (options["serialization"],),
            options.get("requires"),
        )
        for method, (pattern, request, response, options) in methods.items()
    }
    assert (info.name, info.version, info.modes) == (name, version, tuple(modes))
    assert list(info.methods.items()) == list(expected.items())
    direct = {cls for method in expected.values() for cls in (method.request_type, method.response_type)}
    assert set(info.wire_tags) == direct | ({Item, Answer} if Basket in direct else set())
