"""Serves the task service until it is told to stop (SIGINT or SIGTERM). Its first line of output is its address."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

import anyio
from service import Command, CommandResult, TaskRequest, TaskResult, TaskService

import aster


class TaskEngine(TaskService):
    """The service as this process carries it out: some tasks take for ever, and ends are reported."""

    @aster.rpc
    async def get_task(self, req: TaskRequest) -> TaskResult:
        try:
            if req.task_id == "stuck":
                await anyio.sleep_forever()
            return await super().get_task(req)
        except anyio.get_cancelled_exc_class():
            print(f"get_task({req.task_id!r}) was stopped", flush=True)
            raise

    @aster.bidi_stream
    async def execute(self, commands: AsyncIterator[Command]) -> AsyncIterator[CommandResult]:
        count = 0
        try:
            async with super().execute(commands) as results:
                async for result in results:
                    count += 1
                    yield result
        finally:
            print(f"execute has ended after {count} results", flush=True)


async def main() -> None:
    async with aster.serve(services=[TaskEngine()], listen="127.0.0.1:0") as server:
        print(server.address, flush=True)
        await server.serve()
    print("drained", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    anyio.run(main, backend=parser.parse_args().backend)
