"""The smallest program: a server and its client in one process. ``python examples/hello.py``"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

import aster


@aster.wire_type("example.hello/HelloRequest")
@dataclass
class HelloRequest:
    name: str = ""


@aster.wire_type("example.hello/HelloReply")
@dataclass
class HelloReply:
    greeting: str = ""


@aster.service("Hello")
class HelloService:
    @aster.rpc
    async def hello(self, req: HelloRequest) -> HelloReply:
        return HelloReply(greeting=f"Hello, {req.name}!")


async def main() -> None:
    async with aster.serve(services=[HelloService()]) as server, aster.connect(server.address) as client:
        service = await client.client(HelloService)
        reply = await service.hello(HelloRequest(name="world"))
        print(reply.greeting)


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
