"""What a stub shows of its service, and what with_options changes in a copy."""

from __future__ import annotations

import functools
import gc
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import pytest

import aster
from aster import SerializationMode
from aster.decorators import rpc, service
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item

pytestmark = pytest.mark.anyio


async def test_a_stub_keeps_names_docstrings_and_signatures(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert isinstance(echo, Echo)
        assert type(echo).__name__ == "Echo"
        for name in ("same", "nothing", "count", "total", "chat"):
            stub: Any = getattr(echo, name)
            here: Any = getattr(Echo(), name)
            assert stub.__name__ == name
            assert stub.__doc__ == here.__doc__
            assert stub.__doc__
            assert inspect.signature(stub) == inspect.signature(here)
        assert inspect.iscoroutinefunction(echo.same)
        assert inspect.iscoroutinefunction(echo.total)


def _logged(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def _unnamed(function: Callable[..., Any]) -> Any:
    async def wrapper(self: Any, item: Item) -> Item:
        return await function(self, item)

    return wrapper


@service
class Wrapped:
    @rpc
    @_logged
    async def logged(self, item: Item) -> Item:
        return Item(item.number + 1)

    @rpc
    @_unnamed
    async def unnamed(self, item: Item) -> Item:
        return Item(item.number + 2)

    @rpc
    async def first(self, item: Item) -> Item:
        return Item(item.number + 3)

    second = first


async def test_a_handler_under_a_wrapper_is_called_by_position_and_by_name(running: Running) -> None:
    async with running(Wrapped()) as (_, client):
        wrapped = await client.client(Wrapped)
        assert await wrapped.logged(Item(1)) == await wrapped.logged(item=Item(1)) == Item(2)
        assert await wrapped.unnamed(Item(1)) == Item(3)


@pytest.mark.parametrize("name", ["logged", "unnamed", "first", "second"])
async def test_an_open_call_is_of_the_method_whose_name_it_was_found_under(running: Running, name: str) -> None:
    methods: list[str] = []

    class Watched(Wrapped):
        @rpc
        async def first(self, item: Item) -> Item:
            methods.append(aster.current_call().method)
            return Item(item.number + 3)

        logged = unnamed = second = first

    async with running(Watched()) as (_, client):
        method: Any = getattr(await client.client(Wrapped), name)
        assert method.__name__ == name
        assert method.__qualname__ == f"Wrapped.{name}"
        async with aster.open_call(method) as call:
            await call.send(Item(1))
            assert await call.receive() == Item(4)
    assert methods == [name]


@service
class Demanding:
    def __init__(self, needed: str) -> None:
        self.needed = needed

    @rpc
    async def same(self, item: Item) -> Item:
        return item


async def test_a_stub_needs_nothing_that_the_services_constructor_needs(running: Running) -> None:
    hosted = Demanding("needed")
    async with running(hosted) as (_, client):
        stub = await client.client(Demanding)
        assert await stub.same(Item(1)) == Item(1)


@service(serialization=[SerializationMode.XLANG, SerializationMode.NATIVE])
class BothModes:
    @rpc
    async def same(self, item: Item) -> Item:
        return item

    @rpc(serialization=SerializationMode.NATIVE)
    async def native(self, item: Item) -> Item:
        return item


async def test_with_options_chooses_a_mode_for_the_methods_that_allow_it(running: Running) -> None:
    async with running(BothModes()) as (_, client):
        both = await client.client(BothModes)
        native = aster.with_options(both, serialization=SerializationMode.NATIVE)
        assert type(native) is type(both)
        again = aster.with_options(native, serialization=SerializationMode.XLANG)
        for stub in (both, native, again):
            assert await stub.same(Item(1)) == Item(1)
            assert await stub.native(Item(2)) == Item(2)
        with pytest.raises(ValueError, match=r"no method of BothModes allows the serialization mode ROW; they allow NATIVE, XLANG"):
            aster.with_options(both, serialization=SerializationMode.ROW)


@service("Same")
class Interface(ABC):
    @rpc
    @abstractmethod
    async def same(self, item: Item) -> Item: ...

    @abstractmethod
    def helper(self) -> None: ...


@service("Same")
class Described(Protocol):
    @rpc
    async def same(self, item: Item) -> Item: ...


@service("Same")
class Concrete:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


@pytest.mark.parametrize("interface", [Interface, Described])
async def test_an_interface_is_enough_for_a_stub(running: Running, interface: type[Concrete]) -> None:
    async with running(Concrete()) as (_, client):
        stub = await client.client(interface)
        assert await stub.same(item=Item(1)) == Item(1)


_registered: list[str] = []


@service
@dataclass(frozen=True)
class Personal:
    """A service whose instances are made, shown and ended in ways of their own."""

    name: str

    def __init_subclass__(cls, *, kind: str) -> None:
        _registered.append(kind)

    @rpc
    async def same(self, item: Item) -> Item:
        return item

    def __repr__(self) -> str:
        return f"Personal {self.name}"

    def __del__(self) -> None:
        assert self.name


async def test_a_stub_is_shown_and_ended_as_a_stub(running: Running) -> None:
    # An exception in __del__ is a warning, and warnings are errors.
    async with running(Personal("here")) as (_, client):
        stub = await client.client(Personal)
        copy = aster.with_options(stub, timeout=60)
        assert repr(stub) == repr(copy) == "<stub of Personal version 1>"
        assert await copy.same(Item(1)) == Item(1)
        del stub, copy
        gc.collect()
    assert _registered == []


@service
class Deep:
    @rpc
    async def find(self, item: Item, *, deep: bool = False) -> Item:
        return item if deep else Item(-item.number)


def _some() -> Iterator[Item]:
    yield Item(1)


async def _some_async() -> AsyncIterator[Item]:
    yield Item(1)


_MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda echo: echo.same("1"), r"^Echo\.same: this call expects a Item, not a str; write same\(Item\(\.\.\.\)\)$"),
    (lambda echo: echo.same(Item), r"^Echo\.same: this call expects a Item, not the class itself; write Item\(\.\.\.\)$"),
    (lambda echo: echo.count(None), r"^Echo\.count: this call expects a Item, not None; write count\(Item\(\.\.\.\)\)$"),
    (lambda echo: echo.same(type("Item", (), {})()), r"expects a Item, not an instance of another class of that name \(.*Item\): was it defined twice\?"),
    (lambda echo: echo.same(number=1, text=""), r"exactly one request, item; .*: write same\(Item\(number=\.\.\., text=\.\.\.\)\)$"),
    (lambda echo: echo.same(Item(), timeout=1), r": for timeout use aster\.with_options\(stub, timeout=\.\.\.\)$"),
    (lambda echo: echo.total([], metadata={}), r": for metadata use aster\.with_options\(stub, metadata=\.\.\.\)$"),
    (lambda echo: echo.total(_some), r"^Echo\.total takes a stream of requests, not the function _some that makes one: call it: _some\(\)$"),
    (lambda echo: echo.chat(_some_async), r"^Echo\.chat takes a stream of requests, .*: call it: _some_async\(\)$"),
    (lambda echo: echo.total(number=1), r"exactly one request, items; got 0 by position and \['number'\] by name$"),
]


@pytest.mark.parametrize(("call", "says"), _MISTAKES)
async def test_arguments_that_are_no_request_are_refused_with_what_to_write(running: Running, call: Callable[[Any], Any], says: str) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(TypeError, match=says):
            await call(echo)


async def test_an_option_of_the_handler_stays_with_the_handler(running: Running) -> None:
    async with running(Deep()) as (_, client):
        deep = await client.client(Deep)
        with pytest.raises(TypeError, match=r"'deep' stays with the handler, and no call can set it: leave it out, or make it a field of Item$"):
            await deep.find(Item(1), deep=True)
        assert await deep.find(Item(1)) == Item(-1)


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
async def test_responses_that_are_not_read_as_a_stream_say_how_to_read_them(running: Running, remote: bool) -> None:
    async with running(Echo()) as (_, client):
        echo: Any = await client.client(Echo) if remote else Echo()
        with pytest.raises(TypeError, match=r"^Echo\.count streams its responses: write 'async for response in \.\.\.count\(\.\.\.\)'$"):
            await echo.count(Item(1))
        with pytest.raises(TypeError, match=r"^Echo\.chat streams its responses: write 'async for response in \.\.\.chat\(\.\.\.\)'$"):
            list(echo.chat([Item(1)]))
        with pytest.raises(TypeError, match=r"^Echo\.count streams its responses: write 'async with \.\.\.count\(\.\.\.\) as responses'$"), echo.count(Item()):
            pass


@service
class Unwritten:
    """A service whose methods are still to come."""


async def test_a_client_takes_the_class_of_a_service_that_has_methods(running: Running) -> None:
    async with running(Echo()) as (_, client):
        with pytest.raises(TypeError, match=r"^client\(\) takes the class of a service, not a str$"):
            await client.client("Echo")  # pyright: ignore[reportArgumentType, reportCallIssue] (callers without a type checker)
        with pytest.raises(TypeError, match=r"^client\(\) takes the class of a service, not an instance of Echo$"):
            await client.client(Echo())  # pyright: ignore[reportArgumentType, reportCallIssue] (callers without a type checker)
        with pytest.raises(TypeError, match=r"^Unwritten has no methods: decorate at least one with @rpc, "):
            await client.client(Unwritten)


class Extended(Echo):
    """More than the service that it inherits, and none of its own."""

    @rpc
    async def more(self, item: Item) -> Item:
        return item


async def test_a_class_with_methods_that_its_service_does_not_have_is_neither_called_nor_served(running: Running) -> None:
    says = r"Extended\.more is not a method of the service 'Echo', which the class inherits: decorate it with @service"
    async with running(Echo()) as (_, client):
        with pytest.raises(TypeError, match=says):
            await client.client(Extended)
    with pytest.raises(TypeError, match=says):
        aster.serve([Extended()])


def test_a_service_without_methods_is_not_served() -> None:
    with pytest.raises(TypeError, match=r"^Unwritten has no methods: decorate at least one with @rpc, "):
        aster.serve([Unwritten()])


@service("BothModes", serialization=SerializationMode.NATIVE)
class NativeOnly:
    """The server's side of BothModes, which takes one mode alone."""

    @rpc
    async def same(self, item: Item) -> Item:
        return item

    @rpc
    async def native(self, item: Item) -> Item:
        return item


async def test_a_mode_that_was_chosen_is_the_mode_of_the_call(running: Running) -> None:
    async with running(NativeOnly()) as (_, client):
        both = await client.client(BothModes)
        native = aster.with_options(both, serialization=SerializationMode.NATIVE)
        assert await native.same(Item(1)) == Item(1)
        for stub in (both, aster.with_options(native, serialization=SerializationMode.XLANG)):
            assert await stub.native(Item(2)) == Item(2)
            with pytest.raises(aster.RpcError, match="does not allow the serialization mode XLANG"):
                await stub.same(Item(1))


async def test_with_options_refuses_what_makes_no_sense(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for timeout in (0, -1, math.nan, 10**400):
            with pytest.raises(ValueError, match="timeout must be positive and finite"):
                aster.with_options(echo, timeout=timeout)
        with pytest.raises(ValueError, match=r"no method of Echo allows the serialization mode ROW; they allow XLANG"):
            aster.with_options(echo, serialization=SerializationMode.ROW)
        for misfit in (int, "3", True):
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                aster.with_options(echo, timeout=misfit)  # pyright: ignore[reportArgumentType] (callers without a type checker)
        for wrong in (Echo(), Echo, None):
            with pytest.raises(TypeError, match="with_options takes a stub"):
                aster.with_options(wrong, timeout=1.0)


async def test_with_options_sets_and_lifts_the_time_limit_of_a_copy(running: Running) -> None:
    deadlines: list[float] = []

    @service
    class Timed:
        @rpc(timeout=100.0)
        async def ask(self, item: Item) -> Item:
            deadlines.append(aster.current_call().deadline - anyio.current_time())
            return item

    async with running(Timed()) as (_, client):
        timed = await client.client(Timed)
        short = aster.with_options(timed, timeout=50.0)
        unlimited = aster.with_options(timed, timeout=None)
        for stub in (timed, short, unlimited, aster.with_options(short, metadata={})):
            await stub.ask(Item())
    assert 50 < deadlines[0] <= 100
    assert deadlines[1] <= 50
    assert deadlines[2] == math.inf
    assert deadlines[3] <= 50
