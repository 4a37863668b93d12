"""Aster in a program that is plain trio: no AnyIO in sight. ``python examples/native_trio.py``"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

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
        limit = aster.current_call().deadline - trio.current_time()
        print(f"handler of {req.name}: {'has no deadline' if limit == math.inf else 'has a deadline'}")
        try:
            for number in range(req.count):
                yield Tick(req.name, number)
            await trio.sleep_forever()
        finally:
            print(f"handler of {req.name}: stopped")


async def take(service: TickService, name: str, count: int) -> None:
    """Read ``count`` ticks, then leave: the end of the block cancels the call."""
    async with service.ticks(TicksRequest(name, count)) as ticks:
        for _ in range(count):
            tick = await anext(ticks)
            print(f"client: {tick.name} {tick.number}")


async def wait_in_vain(service: TickService) -> None:
    """The deadline of a trio scope travels with the call and is the handler's too."""
    with trio.move_on_after(0.2) as scope:
        async for _ in service.ticks(TicksRequest("silent", 0)):
            print("client: this never happens")
    if scope.cancelled_caught:
        print("client: timed out")


async def main() -> None:
    async with aster.serve(services=[TickService()]) as server, aster.connect(server.address) as client:
        service = await client.client(TickService)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, service, "left", 2)
            nursery.start_soon(take, service, "right", 2)
        await wait_in_vain(service)
    print("nothing runs any more")


if __name__ == "__main__":
    trio.run(main)
