"""Messages, services and streams of requests for tests that need none of their own."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from aster.codec import make_codec, wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.types import SerializationMode

__all__ = ["PATTERNS", "Brief", "Echo", "Item", "Nothing", "OpenEnded", "Requests", "encode_item", "numbers_of"]


@wire_type("tests.rpc/Item")
@dataclass
class Item:
    number: int = 0
    text: str = ""
    data: bytes = b""


@wire_type("tests.rpc/Nothing")
@dataclass
class Nothing:
    """A message without fields."""


@service("Echo")
class Echo:
    @rpc
    async def same(self, item: Item) -> Item:
        """The item itself."""
        return item

    @rpc
    async def nothing(self, nothing: Nothing) -> Nothing:
        """Nothing."""
        return nothing

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        """As many items as the number says."""
        for number in range(item.number):
            yield Item(number)

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        """The sum of the numbers, and the texts one after the other."""
        total = Item()
        async for item in items:
            total.number += item.number
            total.text += item.text
        return total

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """Each item itself, as it comes."""
        async for item in items:
            yield item


PATTERNS = {name: method.pattern for name, method in service_info(Echo).methods.items() if name != "nothing"}
"""A method of ``Echo`` for each pattern."""

encode_item = make_codec(SerializationMode.XLANG, service_info(Echo).wire_tags).encoder(Item)
"""The bytes of an item in a message."""


async def numbers_of(items: AsyncIterable[Item], into: list[int] | None = None) -> list[int]:
    """The numbers of all items; ``into`` has those that came before a failure."""
    numbers: list[int] = [] if into is None else into
    async for item in items:
        numbers.append(item.number)  # noqa: PERF401 (a comprehension would lose them in a failure)
    return numbers


@service("Open")
class OpenEnded:
    """Handlers that wait until they are cancelled, and say when they have begun and ended."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.endings = 0

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.endings += 1
            self.ended.set()

    @rpc
    async def single(self, item: Item) -> Item:
        await self._wait()
        return item

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        await self._wait()

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        try:
            last = Item()
            async for last in items:  # noqa: B007 (the last one is what it is for)
                self.begun.set()
            return last
        finally:
            self.endings += 1
            self.ended.set()

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item
        await self._wait()


@service("Brief")
class Brief:
    """Handlers that end before their requests do."""

    @client_stream
    async def first(self, items: AsyncIterator[Item]) -> Item:
        return await anext(items)

    @bidi_stream
    async def two(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        yield await anext(items)
        yield await anext(items)


class Requests:
    """An async iterator of requests that counts its closings; after the last one it ends, fails, or does something and waits for ever."""

    def __init__(self, *numbers: int, error: BaseException | None = None, at_end: Callable[[], None] | None = None) -> None:
        self._numbers = iter(numbers)
        self._error = error
        self._at_end = at_end
        self.closings = 0

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Item:
        await anyio.lowlevel.checkpoint()
        for number in self._numbers:
            return Item(number)
        if self._error is not None:
            raise self._error
        if self._at_end is not None:
            self._at_end()
            await anyio.sleep_forever()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        self.closings += 1
