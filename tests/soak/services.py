"""What the soak's server serves: handlers that do well, those that fail in the way that their request names, and a stranger's idea of the same service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.types import SerializationMode
from tests.rpc.echo import Item, Nothing
from tests.rpc.probes import kept_cancellation

__all__ = ["LARGE", "MESSAGE_LIMIT", "METADATA_LIMIT", "Stranger", "Troubled"]

MESSAGE_LIMIT = 65_536
"""Bytes of the largest message at both ends: one that is above it costs little."""

METADATA_LIMIT = 2_048
"""Bytes of metadata at both ends."""

LARGE = 50_000
"""Bytes of a large message: several chunks, and a good part of a window."""


async def _fail(item: Item) -> Item:
    """Fail as the item's text says; or, without an end, not at all."""
    match item.text:
        case "code":
            raise aster.RpcError(aster.StatusCode(item.number), "as it was told to")
        case "bug":
            raise LookupError(item.text)
        case "exit":
            raise SystemExit(item.number)
        case "cancellation":
            raise await kept_cancellation()
        case "metadata":
            aster.current_call().send_metadata({"much": "x" * METADATA_LIMIT})
        case "trailers":
            aster.current_call().add_trailer("much", "x" * METADATA_LIMIT)
        case "large":
            return Item(data=bytes(MESSAGE_LIMIT))
        case "type":
            return Nothing()  # type: ignore[return-value]  # pyright: ignore[reportReturnType] (that is the mistake)
        case _:
            await anyio.sleep_forever()
    return Item(-1)


@service("Troubled")
class Troubled:
    """Streaming handlers give as many responses as the number says before they fail."""

    @rpc
    async def single(self, item: Item) -> Item:
        return await _fail(item)

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        yield await _fail(item)

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        return await _fail(await anext(items))

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        item = await anext(items)
        for number in range(item.number):
            yield Item(number)
        yield await _fail(item)


@service("Echo", serialization=[SerializationMode.XLANG, SerializationMode.NATIVE])
class Stranger:
    """Another program's idea of ``Echo``: a method that it has not, a mode that it does not take, and patterns and types that are others."""

    @rpc
    async def absent(self, nothing: Nothing) -> Nothing:
        return nothing

    @rpc(serialization=SerializationMode.NATIVE)
    async def nothing(self, nothing: Nothing) -> Nothing:
        return nothing

    @rpc
    async def count(self, nothing: Nothing) -> Nothing:
        return nothing

    @rpc
    async def same(self, nothing: Nothing) -> Nothing:
        return nothing

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Nothing:
        return Nothing()

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Nothing]:
        yield Nothing()
