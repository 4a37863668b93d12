"""Calls the task service in all the ways there are: ``client.py <address>``."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator

import anyio
from service import Command, LogEntry, TaskRequest, TaskService, WatchRequest

import aster


async def all_four_patterns(tasks: TaskService) -> None:
    result = await tasks.get_task(TaskRequest(task_id="1"))
    print(f"unary: task {result.task_id} is {result.status}")

    async for update in tasks.watch_tasks(WatchRequest()):
        print(f"server stream: {update.task_id} is {update.status}")

    # Requests come from any iterable...
    total = await tasks.ingest_logs(LogEntry(line) for line in ("one", "two", "three"))
    print(f"client stream: {total.count} lines ingested")

    # ...or async iterable, and both directions flow at once.
    async def commands() -> AsyncIterator[Command]:
        for action in ("build", "test"):
            yield Command(action)

    async for output in tasks.execute(commands()):
        print(f"both ways: {output.output}")


async def a_timeout(tasks: TaskService) -> None:
    """A call's timeout fails it with DEADLINE_EXCEEDED, and stops the handler."""
    hurried = aster.with_options(tasks, timeout=0.3)
    try:
        await hurried.get_task(TaskRequest(task_id="stuck"))
    except aster.RpcError as exc:
        print(f"timeout: {exc.code.name}")


async def a_cancellation(tasks: TaskService) -> None:
    """Cancelling the scope around a call cancels the handler."""
    with anyio.CancelScope() as scope:
        async with aster.open_call(tasks.execute) as call:
            await call.send(Command("deploy"))
            print(f"cancellation: {(await call.receive()).output}")
            scope.cancel()
            await call.receive()
    print("cancellation: cancelled" if scope.cancelled_caught else "cancellation: it had ended before")


async def main(address: str) -> None:
    async with aster.connect(address) as client:
        tasks = await client.client(TaskService)
        await all_four_patterns(tasks)
        await a_timeout(tasks)
        await a_cancellation(tasks)
    print("every handler has ended")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="what the server prints")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    anyio.run(main, options.address, backend=options.backend)
