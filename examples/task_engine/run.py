"""Runs the task service's server and its client as two processes, on a backend each, over QUIC.

``python examples/task_engine/run.py [--server-backend trio|asyncio] [--client-backend asyncio|trio]``
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

HERE = Path(__file__).parent


async def read_line(output: BufferedByteReceiveStream) -> str:
    """One line of a process's output, or an empty string when it ended before that."""
    try:
        return (await output.receive_until(b"\n", 1_000)).decode()
    except anyio.IncompleteRead:
        return ""


async def show(name: str, output: ByteReceiveStream) -> None:
    """Print a process's output, each line with its name before it."""
    rest = ""
    async for text in TextReceiveStream(output):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            print(f"{name} | {line}", flush=True)


async def start(program: str, *arguments: str) -> Process:
    """Start a program of this folder. Leaving the process's block ends it, also when this one is cancelled."""
    return await anyio.open_process([sys.executable, str(HERE / program), *arguments], stderr=None)


async def main(server_backend: str, client_backend: str) -> int:
    print(f"a server on {server_backend}, a client on {client_backend}", flush=True)
    codes: list[int] = []
    async with await start("server.py", "--backend", server_backend) as server:
        assert server.stdout is not None
        server_output = BufferedByteReceiveStream(server.stdout)
        address = await read_line(server_output)
        if not address:
            return await server.wait() or 1
        async with anyio.create_task_group() as group:
            group.start_soon(show, "server", server_output)
            async with await start("client.py", address, "--backend", client_backend) as client:
                assert client.stdout is not None
                await show("client", client.stdout)
                codes.append(await client.wait())
            server.terminate()  # SIGTERM: the server drains
            codes.append(await server.wait())
    return 1 if any(codes) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server-backend", choices=["trio", "asyncio"], default="trio")
    parser.add_argument("--client-backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    if "trio" in (options.server_backend, options.client_backend) and importlib.util.find_spec("trio") is None:
        parser.error("trio is not installed: run `pip install '.[trio]'` in the repository, or choose asyncio for both")
    sys.exit(anyio.run(main, options.server_backend, options.client_backend))
