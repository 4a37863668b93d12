"""Aster: a service of dataclasses over QUIC, encrypted, both ends authenticated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aster
from aster.codec import wire_type
from aster.decorators import client_stream, rpc, server_stream, service
from tests.benchmark.workloads import TINY, Calls

__all__ = ["connect", "serve"]


@wire_type("benchmark/Tiny")
@dataclass
class Tiny:
    number: int = 0
    text: str = ""


@wire_type("benchmark/Chunk")
@dataclass
class Chunk:
    data: bytes = b""


@service("Benchmark")
class Benchmark:
    @rpc
    async def echo(self, request: Tiny) -> Tiny:
        return request

    @server_stream
    async def watch(self, request: Tiny) -> AsyncIterator[Tiny]:
        for number in range(request.number):
            yield Tiny(number, request.text)

    @client_stream
    async def upload(self, chunks: AsyncIterator[Chunk]) -> Tiny:
        count = 0
        async for _ in chunks:
            count += 1
        return Tiny(count)


@asynccontextmanager
async def serve() -> AsyncGenerator[str]:
    async with aster.serve([Benchmark()], listen="127.0.0.1:0") as server:
        yield server.address


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Calls]:
    async with aster.connect(address) as client:
        stub = await client.client(Benchmark)
        text = "x" * TINY

        async def unary() -> None:
            await stub.echo(Tiny(1, text))

        async def watch(count: int) -> None:
            received = 0
            async for _ in stub.watch(Tiny(count, text)):
                received += 1
            assert received == count

        async def upload(count: int, size: int) -> None:
            data = bytes(size)
            result = await stub.upload(Chunk(data) for _ in range(count))
            assert result.number == count

        yield Calls(unary, watch, upload)
