"""What a handler gives that cannot be sent, wherever it gives it: its call fails with INTERNAL, and the log names the method and what it was."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import aster
from aster import RpcError, StatusCode
from aster.decorators import bidi_stream, client_stream, rpc, server_stream
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, numbers_of

pytestmark = pytest.mark.anyio


class Evasive(Item):
    """An item only by what it says of itself."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (that is the trouble)
        return Item


UNSENDABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "another class": (Nothing, "Nothing"),
    "none": (lambda: None, "NoneType"),
    "a class that poses as the right one": (Evasive, "Evasive"),
    "a list of items": (lambda: [Item()], "list"),
    "a field of another type": (lambda: Item(number="1"), "Item"),  # pyright: ignore[reportArgumentType] (that is the trouble)
    "a field that is too large": (lambda: Item(number=2**63), "Item"),
    "a field that is None": (lambda: Item(number=None), "Item"),  # pyright: ignore[reportArgumentType] (the same)
}


class Unsendable(Echo):
    """Gives what cannot be sent after so many items as the request's number says; single responses are given at once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.closed = 0

    @rpc
    async def same(self, item: Item) -> Item:
        return self._make()

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        try:
            for number in range(item.number):
                yield Item(number)
            yield self._make()
            raise AssertionError("a handler goes on behind what could not be sent")
        finally:
            self.closed += 1

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        return self._make()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        try:
            async for item in items:
                if item.number < 0:
                    yield self._make()
                    raise AssertionError("a handler goes on behind what could not be sent")
                yield item
        finally:
            self.closed += 1


async def internal_error_of(call: Awaitable[object]) -> str:
    with pytest.raises(RpcError) as caught:
        await call
    assert caught.value.code is StatusCode.INTERNAL
    return caught.value.message


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR and record.name == "aster"]


@pytest.mark.parametrize(("make", "kind"), UNSENDABLE.values(), ids=list(UNSENDABLE))
async def test_a_response_that_cannot_be_sent_fails_its_call_at_its_place_and_the_log_names_method_and_type(
    running: Running, caplog: pytest.LogCaptureFixture, make: Callable[[], Any], kind: str
) -> None:
    unsendable = Unsendable(make)
    async with running(unsendable) as (_, client):
        echo, got = await client.client(Echo), list[int]()
        calls: list[tuple[str, Awaitable[object], list[int]]] = [
            ("same", echo.same(Item()), []),
            ("total", echo.total([]), []),
            ("count", numbers_of(echo.count(Item(0)), got), []),
            ("count", numbers_of(echo.count(Item(3)), got), [0, 1, 2]),
            ("chat", numbers_of(echo.chat([Item(-1)]), got), []),
            ("chat", numbers_of(echo.chat([Item(7), Item(8), Item(-1), Item(9)]), got), [7, 8]),
        ]
        for method, call, ahead in calls:
            assert f"the response of Echo.{method} cannot be encoded" in await internal_error_of(call)
            (logged,) = errors_in(caplog)
            assert f"Echo.{method} returned a {kind} that cannot be sent: " in logged
            assert got == ahead
            got.clear()
            caplog.clear()
        assert unsendable.closed == 4
        assert await echo.nothing(Nothing()) == Nothing()


class Beside(Echo):
    """Sends what is no metadata beside its response: ahead of it, or behind it."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send

    @rpc
    async def same(self, item: Item) -> Item:
        self._send()
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        self._send()


def _metadata(metadata: Any) -> Callable[[], None]:
    return lambda: aster.current_call().send_metadata(metadata)


def _trailer(key: Any, value: Any) -> Callable[[], None]:
    return lambda: aster.current_call().add_trailer(key, value)


BESIDE: dict[str, tuple[Callable[[], None], str, str]] = {
    "metadata with a number": (_metadata({"k": 1}), "TypeError", "must be a str or bytes, not int"),
    "metadata that is none": (_metadata(5), "TypeError", ""),
    "metadata with a malformed key": (_metadata({"a b": "c"}), "ValueError", "metadata key 'a b'"),
    "a trailer with a number": (_trailer("k", 1), "TypeError", "must be a str or bytes, not int"),
    "a trailer with none": (_trailer("k", None), "TypeError", "must be a str or bytes, not NoneType"),
    "a trailer whose key is no text": (_trailer(1, "x"), "TypeError", ""),
    "a trailer with a reserved key": (_trailer("aster-x", "x"), "ValueError", "reserved"),
    "a trailer that is no text": (_trailer("k", "\ud800"), "ValueError", "lone surrogate"),
}


@pytest.mark.parametrize(("send", "error", "says"), BESIDE.values(), ids=list(BESIDE))
async def test_metadata_or_a_trailer_that_cannot_be_sent_is_internal_and_the_log_names_the_method_and_what_is_wrong(
    running: Running, caplog: pytest.LogCaptureFixture, send: Callable[[], None], error: str, says: str
) -> None:
    async with running(Beside(send)) as (_, client):
        echo, got = await client.client(Echo), list[int]()
        for method, call in (("same", echo.same(Item())), ("count", numbers_of(echo.count(Item(2)), got))):
            await internal_error_of(call)
            assert errors_in(caplog) == [f"the handler of Echo.{method} raised {error}"]
            assert says in caplog.text, "by its traceback"
            caplog.clear()
        assert got == [0, 1]
        assert await echo.nothing(Nothing()) == Nothing()
