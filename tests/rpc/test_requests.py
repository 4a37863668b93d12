"""Values of the wrong type: a request never leaves the client, a response fails its call, and a payload that is none is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import StatusCode
from aster._protocol.events import SUCCESS, Header
from aster._protocol.frames import encode_message, encode_trailer
from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.types import RpcPattern
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, numbers_of
from tests.rpc.probes import error_of
from tests.rpc.raw import END, manifest_of, raw_client, raw_server, target_of

pytestmark = pytest.mark.anyio


class SubItem(Item):
    """Not an Item to the wire: what it adds would be lost."""


@wire_type("tests.rpc/Even")
@dataclass
class Even:
    number: int = 0

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


@service
class Counting:
    """Says of each call that it began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    @rpc
    async def single(self, item: Item) -> Item:
        self.begun.append("single")
        return item

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        self.begun.append("stream")
        yield item

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        return [item async for item in items][-1]

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item

    @rpc
    async def half(self, even: Even) -> Item:
        self.begun.append("half")
        return Item(even.number // 2)


def wrong(value: object) -> Any:
    """A value that a type checker would have refused."""
    return value


WRONG = [
    (lambda: None, TypeError, "Item"),
    (lambda: 5, TypeError, "Item"),
    (Nothing, TypeError, "Item"),
    (lambda: SubItem(1), TypeError, "Item"),
    (lambda: Item, TypeError, "Item"),
    (lambda: Item(number=wrong("1")), TypeError, r"Item\.number"),
    (lambda: Item(number=wrong(True)), TypeError, r"Item\.number"),
    (lambda: Item(text=wrong(None)), TypeError, r"Item\.text"),
    (lambda: Item(data=wrong("text")), TypeError, r"Item\.data"),
    (lambda: Item(number=2**63), ValueError, r"Item\.number"),
    (lambda: Item(text="\ud800"), ValueError, r"Item\.text"),
]


@pytest.mark.parametrize(("make", "error", "names"), WRONG)
async def test_a_request_of_the_wrong_type_never_leaves_the_client(running: Running, make: Callable[[], object], error: type[Exception], names: str) -> None:
    counting = Counting()
    async with running(counting) as (_, client):
        stub = await client.client(Counting)
        value = wrong(make())
        with pytest.raises(error, match=names):
            await stub.single(value)
        with pytest.raises(error, match=names):
            stub.stream(value)
        with pytest.raises(error, match=names):
            await stub.collect([Item(), value])
        with pytest.raises(error, match=names):
            await numbers_of(stub.talk([Item(), value]))
        assert counting.begun == []
        async with aster.open_call(stub.talk) as call:
            with pytest.raises(error, match=names):
                await call.send(value)
            await call.send(Item(1))
            assert await call.receive() == Item(1)


async def test_the_requests_before_one_of_the_wrong_type_may_have_been_answered(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        got: list[int] = []
        with pytest.raises(TypeError, match=r"Item\.number"):
            await numbers_of(echo.chat([Item(1), Item(2), Item(wrong("3"))]), got)
        assert got in ([], [1], [1, 2])
        assert await echo.same(Item(4)) == Item(4)


@pytest.mark.parametrize("arguments", [(), (Item(), Item())])
async def test_a_call_takes_exactly_one_request(running: Running, arguments: tuple[Item, ...]) -> None:
    async with running(Echo()) as (_, client):
        echo = cast("Any", await client.client(Echo))
        with pytest.raises(TypeError, match=r"Echo\.same\(\) takes exactly one request, item"):
            await echo.same(*arguments)
        with pytest.raises(TypeError, match=r"Echo\.count\(\) takes exactly one request, item"):
            echo.count(*arguments)
        with pytest.raises(TypeError, match=r"Echo\.chat\(\) takes exactly one request, items"):
            echo.chat(*arguments)


async def test_a_request_may_be_given_by_its_parameters_name(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.same(item=Item(3)) == Item(3)
        assert await numbers_of(echo.count(item=Item(2))) == [0, 1]
        with pytest.raises(TypeError, match="exactly one request"):
            await echo.same(thing=Item(3))  # pyright: ignore[reportCallIssue] (callers without a type checker)


# Responses


def responses_of(make: Callable[[], object]) -> object:
    @service("Wrong")
    class Wrong:
        @rpc
        async def single(self, item: Item) -> Item:
            return wrong(make())

        @server_stream
        async def stream(self, item: Item) -> AsyncIterator[Item]:
            yield Item(1)
            yield Item(2)
            yield wrong(make())

        @client_stream
        async def collect(self, items: AsyncIterator[Item]) -> Item:
            return wrong(make())

        @bidi_stream
        async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield Item(1)
            yield Item(2)
            yield wrong(make())

    return Wrong()


async def test_a_handler_that_forgets_an_await_is_told_so_in_the_log(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def answer() -> Item:
        raise AssertionError

    forgotten = answer()
    hosted = responses_of(lambda: forgotten)
    async with running(hosted) as (_, client):
        assert (await error_of(cast("Counting", await client.client(type(hosted))).single(Item()))).code is StatusCode.INTERNAL
    forgotten.close()
    assert re.search(r"Wrong\.single returned a coroutine that cannot be sent: .*; an await is missing", caplog.text)


@pytest.mark.parametrize(("make", "names"), [(make, names) for make, _, names in WRONG])
async def test_a_response_of_the_wrong_type_is_internal_and_the_log_names_method_and_type(
    running: Running, caplog: pytest.LogCaptureFixture, make: Callable[[], object], names: str
) -> None:
    hosted = responses_of(make)
    async with running(hosted, Echo()) as (_, client):
        stub = cast("Counting", await client.client(type(hosted)))
        got: list[int] = []
        calls = {
            "single": stub.single(Item()),
            "stream": numbers_of(stub.stream(Item()), got),
            "collect": stub.collect([]),
            "talk": numbers_of(stub.talk([]), got),
        }
        for name, call in calls.items():
            caplog.clear()
            error = await error_of(call)
            assert error.code is StatusCode.INTERNAL
            assert f"Wrong.{name}" in error.message
            (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert record.name == "aster"
            assert f"Wrong.{name} returned a {type(make()).__name__}" in record.getMessage()
            assert names.replace("\\", "") in record.getMessage()
        assert got == [1, 2, 1, 2]
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


# Payloads that are no values


@pytest.mark.parametrize("payload", [b"", b"\x00", b"garbage", bytes(1000), bytes(range(256))], ids=["empty", "zero", "text", "zeros", "ramp"])
@pytest.mark.parametrize("method", ["same", "count", "total", "chat"])
async def test_a_payload_that_cannot_be_decoded_is_an_invalid_argument(running: Running, transport: Transport, method: str, payload: bytes) -> None:
    patterns = {"same": RpcPattern.UNARY, "count": RpcPattern.SERVER_STREAM, "total": RpcPattern.CLIENT_STREAM, "chat": RpcPattern.BIDI_STREAM}
    async with running(Echo()) as (server, client), raw_client(server.address, transport) as raw:
        trailer = await raw.outcome_of(target_of(method, pattern=patterns[method]), encode_message(payload) + END)
        assert trailer.status is StatusCode.INVALID_ARGUMENT
        assert f"Echo.{method}" in trailer.message
        again = await raw.outcome_of(target_of(method, pattern=patterns[method]), encode_message(payload) + END)
        assert again == trailer
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


@settings(max_examples=30)
@given(payloads=st.lists(st.binary(max_size=100), min_size=1, max_size=20))
async def test_no_payload_disturbs_the_server(payloads: list[bytes]) -> None:
    transport = MemoryTransport()
    async with aster.serve([Echo()], transport=transport) as server, raw_client(server.address, transport) as raw:
        for payload in payloads:
            trailer = await raw.outcome_of(target_of("same"), encode_message(payload) + END)
            assert trailer.status is StatusCode.INVALID_ARGUMENT
        async with aster.connect(server.address, transport=transport) as client:
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_a_request_that_its_own_class_refuses_is_an_invalid_argument(running: Running) -> None:
    counting = Counting()
    even = Even(2)
    even.number = 3
    async with running(counting) as (_, client):
        stub = await client.client(Counting)
        error = await error_of(stub.half(even))
        assert error.code is StatusCode.INVALID_ARGUMENT
        assert "3 is odd" in error.message
        assert counting.begun == []
        assert await stub.half(Even(4)) == Item(2)


async def test_a_response_that_cannot_be_decoded_is_internal(transport: Transport) -> None:
    def answer(stream: Stream, header: Header) -> None:
        stream.write(encode_message(b"garbage") + encode_trailer(SUCCESS))
        stream.finish()

    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        for name, call in {"same": echo.same(Item()), "count": numbers_of(echo.count(Item())), "total": echo.total([])}.items():
            error = await error_of(call)
            assert error.code is StatusCode.INTERNAL
            assert f"a response of Echo.{name} cannot be decoded" in error.message


async def test_a_response_that_cannot_be_decoded_is_the_calls_only_outcome(transport: Transport) -> None:
    """Also when there is more, and when the server goes on."""

    def answer(stream: Stream, header: Header) -> None:
        stream.write(encode_message(b"garbage") + encode_message(b"and more of it"))

    async with raw_server((manifest_of(Echo),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as call:
            stream = echo.count(Item())
            first = [await error_of(call.receive()), await error_of(anext(stream))]
            again = [await error_of(call.receive()), await error_of(anext(stream))]
            assert all("cannot be decoded: these 7 bytes" in error.message for error in first)
            assert [error.message for error in again] == [error.message for error in first]
