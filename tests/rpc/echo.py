"""Messages and a service for tests that need no handler of their own: each method gives back what it was given, or counts it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service

__all__ = ["Echo", "Item", "Nothing", "numbers_of"]


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


async def numbers_of(items: AsyncIterable[Item], into: list[int] | None = None) -> list[int]:
    """The numbers of all items; ``into`` has those that came before a failure."""
    numbers: list[int] = [] if into is None else into
    async for item in items:
        numbers.append(item.number)  # noqa: PERF401 (a comprehension would lose them in a failure)
    return numbers
