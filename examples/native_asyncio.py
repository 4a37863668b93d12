"""Aster in a program that is plain asyncio: no AnyIO in sight. ``python examples/native_asyncio.py``"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aster


@aster.wire_type("example.ticks/TicksRequest")
@dataclass
class TicksRequest:
    name: str = ""
    count: int = 0


@aster.wire_type("example.ticks/Tick")
@dataclass
class Tick:
    name: str = ""
    number: int = 0


@aster.service("Ticks")
class TickService:
    @aster.server_stream
    async def ticks(self, req: TicksRequest) -> AsyncIterator[Tick]:
        """Send ``count`` ticks, then nothing more, without an end."""
        try:
            for number in range(req.count):
                yield Tick(req.name, number)
            await asyncio.Event().wait()
        finally:
            print(f"handler of {req.name}: stopped")


async def take(service: TickService, name: str, count: int) -> None:
    """Read ``count`` ticks, then leave: the end of the block cancels the call."""
    async with service.ticks(TicksRequest(name, count)) as ticks:
        for _ in range(count):
            tick = await anext(ticks)
            print(f"client: {tick.name} {tick.number}")


async def wait_in_vain(service: TickService) -> None:
    """asyncio's own timeout cancels the call like any other code.

    Aster cannot see when such a timeout will expire, so the handler is told only when it does. ``aster.with_options(service, timeout=...)``
    and AnyIO's scopes travel with the call and stop the handler even when the cancellation cannot reach it.
    """
    try:
        async with asyncio.timeout(0.2):
            async for _ in service.ticks(TicksRequest("silent", 0)):
                print("client: this never happens")
    except TimeoutError:
        print("client: timed out")


async def main() -> None:
    async with aster.serve(services=[TickService()]) as server, aster.connect(server.address) as client:
        service = await client.client(TickService)
        async with asyncio.TaskGroup() as group:
            group.create_task(take(service, "left", 2))
            group.create_task(take(service, "right", 2))
        await wait_in_vain(service)
    print("nothing runs any more")


if __name__ == "__main__":
    asyncio.run(main())
