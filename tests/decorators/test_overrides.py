"""A subclass may implement a service, and is checked when it is served."""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aster.decorators import bidi_stream, check_implementation, client_stream, handler_of, rpc, server_stream, service, service_info
from tests.decorators.messages import Answer, Ask, Item


@service
class Shop:
    @rpc(timeout=3)
    async def find(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @server_stream
    async def browse(self, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer(ask.text)

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Answer:
        return Answer(rank=sum([item.number async for item in items]))

    @bidi_stream
    async def double(self, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
        async for item in items:
            yield Answer(rank=2 * item.number)


@service(scoped="stream")
class Room:
    def __init__(self, peer: str | None = None) -> None:
        self.peer = peer

    @rpc
    async def say(self, ask: Ask) -> Answer:
        return Answer(ask.text)


def _subclass(base: type, **members: Any) -> Any:
    """A subclass whose methods are undecorated, which a type checker would object to."""
    for name, member in members.items():
        if inspect.isfunction(member):
            member.__name__, member.__qualname__ = name, f"Sub.{name}"
    return type("Sub", (base,), members)


@pytest.mark.parametrize("name", ["find", "browse", "total", "double"])
def test_a_handler_is_the_function_that_its_author_wrote(name: str) -> None:
    shop = Shop()
    handler: Any = handler_of(shop, name)
    assert handler.__func__ is getattr(Shop, name).function
    assert handler.__self__ is shop
    assert inspect.isasyncgenfunction(handler) == (name in ("browse", "double"))


def test_a_handler_is_the_override_of_a_subclass_decorated_or_not() -> None:
    async def find(self: object, ask: Ask) -> Answer: ...

    class Again(Shop):
        @rpc
        async def find(self, ask: Ask) -> Answer: ...

    plain: Any = handler_of(_subclass(Shop, find=find)(), "find")
    again: Any = handler_of(Again(), "find")
    assert plain.__func__ is find
    assert again.__func__ is Again.find.function


def test_a_handler_of_a_mixin_that_stands_first_wins() -> None:
    class Mixin:
        async def find(self, ask: Ask) -> Answer: ...

    made: Any = type("Mixed", (Mixin, Shop), {})()
    handler: Any = handler_of(made, "find")
    assert handler.__func__ is Mixin.find
    check_implementation(made)


def test_a_method_that_does_not_exist_has_no_handler() -> None:
    with pytest.raises(AttributeError, match="Shop has no method 'lose'"):
        handler_of(Shop(), "lose")


def test_a_subclass_is_served_under_the_service_of_its_base() -> None:
    class Again(Shop):
        @rpc
        async def find(self, ask: Ask) -> Answer: ...

        @server_stream
        async def browse(self, ask: Ask) -> AsyncIterator[Answer]:
            yield Answer()

        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Answer: ...

        @bidi_stream
        async def double(self, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
            yield Answer()

    check_implementation(Shop())
    check_implementation(Again())
    assert service_info(Again) is service_info(Shop)


def test_undecorated_overrides_need_no_annotations() -> None:
    async def one(self: Any, message: Any): ...

    async def many(self: Any, message: Any):
        yield

    for function in (one, many):
        del function.__annotations__["self"], function.__annotations__["message"]
    check_implementation(_subclass(Shop, find=one)())
    check_implementation(_subclass(Shop, browse=many)())
    check_implementation(_subclass(Shop, total=one)())
    check_implementation(_subclass(Shop, double=many)())


def test_annotations_that_agree_or_say_any_are_accepted_on_an_undecorated_override() -> None:
    async def exact(self: Any, ask: Ask) -> Answer: ...

    async def loose(self: Any, ask: Any) -> Any: ...

    async def stream(self: Any, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
        yield Answer()

    check_implementation(_subclass(Shop, find=exact)())
    check_implementation(_subclass(Shop, find=loose)())
    check_implementation(_subclass(Shop, double=stream)())


def test_an_override_wrapped_by_another_decorator_is_judged_by_what_it_wraps() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return await function(*args)

        return wrapper

    async def find(self: Any, ask: Ask) -> Answer: ...

    async def wrong(self: Any, ask: Item) -> Answer: ...

    check_implementation(_subclass(Shop, find=logged(find))())
    with pytest.raises(TypeError, match="'ask' is annotated as Item"):
        check_implementation(_subclass(Shop, find=logged(wrong))())


def test_an_annotation_whose_name_cannot_be_found_is_left_to_type_checkers() -> None:
    async def find(self: Any, ask: Any) -> Any: ...

    find.__annotations__["ask"] = "SomethingOfAFunctionThatHasReturned"
    check_implementation(_subclass(Shop, find=find)())


async def _coroutine(self: Any, message: Any) -> Any: ...


async def _generator(self: Any, message: Any) -> AsyncIterator[Answer]:
    yield Answer()


def _plain(self: Any, message: Any) -> Any: ...


async def _no_request(self: Any) -> Any: ...


async def _two_requests(self: Any, ask: Any, item: Any) -> Any: ...


async def _keyword(self: Any, ask: Any, *, deep: bool) -> Any: ...


async def _other_request(self: Any, ask: Item) -> Answer: ...


async def _other_result(self: Any, ask: Ask) -> Item: ...


async def _other_stream(self: Any, items: AsyncIterator[Ask]) -> Answer: ...


async def _unstreamed(self: Any, items: Item) -> Answer: ...


@pytest.mark.parametrize(
    ("name", "function", "parts"),
    [
        ("find", _plain, ["async def"]),
        ("find", _generator, ["async generator"]),
        ("find", _no_request, ["no request"]),
        ("find", _two_requests, ["2 arguments"]),
        ("find", _keyword, ["'deep'"]),
        ("find", _other_request, ["'ask'", "Item", "has Ask"]),
        ("find", _other_result, ["'return'", "Item", "has Answer"]),
        ("find", None, ["async def"]),
        ("find", staticmethod(_coroutine), ["async def"]),
        ("browse", _coroutine, ["yield"]),
        ("browse", _plain, ["async def"]),
        ("total", _other_stream, ["'items'", "AsyncIterator[", "Ask]", "has AsyncIterator[Item]"]),
        ("total", _unstreamed, ["'items'", "annotated as Item", "has AsyncIterator[Item]"]),
        ("double", _coroutine, ["yield"]),
    ],
)
def test_an_undecorated_override_that_does_not_fit_is_named(name: str, function: Any, parts: list[str]) -> None:
    implementation = _subclass(Shop, **{name: function})()
    with pytest.raises(TypeError) as caught:
        check_implementation(implementation)
    message = str(caught.value)
    assert [part for part in [f"Sub.{name}", f"Shop.{name}, which it overrides", *parts] if part not in message] == [], message


def _wrong_pattern() -> Any:
    async def find(self: Any, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer()

    return server_stream(find), ["@server_stream", "@rpc", "use the same"]


def _wrong_type() -> Any:
    async def find(self: Any, ask: Item) -> Answer: ...

    return rpc(find), ["'ask'", "Item", "has Ask"]


def _own_options() -> Any:
    async def find(self: Any, ask: Ask) -> Answer: ...

    return rpc(timeout=9)(find), ["options", "leave them out", "@service"]


@pytest.mark.parametrize("make", [_wrong_pattern, _wrong_type, _own_options])
def test_a_decorated_override_that_does_not_fit_is_named(make: Any) -> None:
    handler, parts = make()
    with pytest.raises(TypeError) as caught:
        check_implementation(_subclass(Shop, find=handler)())
    message = str(caught.value)
    assert [part for part in ["Sub.find", "Shop.find, which it overrides", *parts] if part not in message] == [], message


def test_a_decorated_override_may_repeat_the_options_of_its_base() -> None:
    class Again(Shop):
        @rpc(timeout=3)
        async def find(self, ask: Ask) -> Answer: ...

    check_implementation(Again())


def test_a_method_that_the_service_does_not_have_is_named() -> None:
    class More(Shop):
        @rpc
        async def lose(self, ask: Ask) -> Answer: ...

    with pytest.raises(TypeError, match=r"More\.lose is not a method of the service 'Shop'.*which the class inherits: decorate it with @service"):
        check_implementation(More())


def test_what_is_not_a_service_cannot_be_served() -> None:
    with pytest.raises(TypeError, match="int is not a service: decorate it"):
        check_implementation(3)


@pytest.mark.parametrize("form", [Shop, functools.partial(Shop)], ids=["class", "partial"])
def test_a_shared_service_is_served_as_an_instance(form: object) -> None:
    with pytest.raises(TypeError, match=r"Shop is shared.*write Shop\(\.\.\.\) instead of the class Shop"):
        check_implementation(form)


def test_a_session_is_served_as_its_class_or_a_partial_of_it() -> None:
    class Big(Room):
        def __init__(self, size: int, peer: str | None = None) -> None:
            super().__init__(peer)
            self.size = size

    check_implementation(Room)
    check_implementation(functools.partial(Room))
    check_implementation(functools.partial(Big, 3))
    check_implementation(functools.partial(functools.partial(Big), size=3))
    with pytest.raises(TypeError, match=r"Room is scoped='stream'.*the class itself"):
        check_implementation(Room())
    with pytest.raises(TypeError, match=r"Big is made with its peer alone.*'size'.*functools\.partial\(.*Big, \.\.\.\)"):
        check_implementation(Big)


def test_a_session_subclass_must_take_its_peer_and_have_an_async_hook() -> None:
    def hook(self: object) -> None: ...

    def init(self: object) -> None: ...

    with pytest.raises(TypeError, match="'peer'"):
        check_implementation(_subclass(Room, __init__=init))
    with pytest.raises(TypeError, match="on_session_close is not a coroutine function"):
        check_implementation(_subclass(Room, on_session_close=hook))


def test_an_abstract_session_is_served_by_a_subclass_that_implements_it() -> None:
    @service(scoped="stream")
    class Lobby(abc.ABC):
        @rpc
        @abc.abstractmethod
        async def say(self, ask: Ask) -> Answer: ...

        @server_stream
        @abc.abstractmethod
        def listen(self, ask: Ask) -> AsyncIterator[Answer]: ...

    class Hall(Lobby):
        def __init__(self, peer: str) -> None:
            self.peer = peer

        @rpc
        async def say(self, ask: Ask) -> Answer: ...

        @server_stream
        async def listen(self, ask: Ask) -> AsyncIterator[Answer]:
            yield Answer()

    class Silent(Lobby):
        @rpc
        async def say(self, ask: Ask) -> Answer: ...

    check_implementation(Hall)
    assert inspect.isasyncgenfunction(handler_of(Hall(""), "listen"))
    for abstract, missing in ((Lobby, "listen, say"), (Silent, "listen")):
        with pytest.raises(TypeError, match=f"abstract, it does not implement {missing}: serve a subclass"):
            check_implementation(abstract)
