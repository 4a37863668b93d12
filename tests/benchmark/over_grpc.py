"""grpc.aio: plaintext, generic handlers of plain bytes, so that neither protoc nor any codec takes part."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from tests.benchmark.workloads import TINY, Calls

__all__ = ["connect", "serve"]

# Imported by name: type checks run where the bench extra is not installed.
_grpc: Any = import_module("grpc")
_aio: Any = import_module("grpc.aio")

_SERVICE = "benchmark.Benchmark"


async def _echo(request: bytes, context: object) -> bytes:
    return request


async def _watch(request: bytes, context: object) -> AsyncIterator[bytes]:
    message = bytes(TINY)
    for _ in range(int.from_bytes(request, "big")):
        yield message


async def _upload(requests: AsyncIterator[bytes], context: object) -> bytes:
    count = 0
    async for _ in requests:
        count += 1
    return count.to_bytes(8, "big")


@asynccontextmanager
async def serve() -> AsyncGenerator[str]:
    server = _aio.server()
    handlers = {
        "echo": _grpc.unary_unary_rpc_method_handler(_echo),
        "watch": _grpc.unary_stream_rpc_method_handler(_watch),
        "upload": _grpc.stream_unary_rpc_method_handler(_upload),
    }
    server.add_generic_rpc_handlers((_grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Calls]:
    async with _aio.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{_SERVICE}/echo")
        watch_method = channel.unary_stream(f"/{_SERVICE}/watch")
        upload_method = channel.stream_unary(f"/{_SERVICE}/upload")
        tiny = bytes(TINY)

        async def unary() -> None:
            await echo(tiny)

        async def watch(count: int) -> None:
            received = 0
            async for _ in watch_method(count.to_bytes(8, "big")):
                received += 1
            assert received == count

        async def upload(count: int, size: int) -> None:
            data = bytes(size)
            result = await upload_method(data for _ in range(count))
            assert int.from_bytes(result, "big") == count

        yield Calls(unary, watch, upload)
