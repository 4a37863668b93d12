"""Event loops that users bring along: uvloop, and asyncio with eager tasks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

import aster
from aster.transports.base import Transport
from tests.guide import Command, LogEntry, TaskRequest, TaskResult, TaskService, WatchRequest


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType] (3.12)
    return loop


@pytest.fixture(params=["uvloop", "eager"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs an async function under one of the loops."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        return partial(anyio.run, backend="asyncio", backend_options={"use_uvloop": True})
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks came with CPython 3.12")
    return partial(anyio.run, backend="asyncio", backend_options={"loop_factory": _eager_loop})


def test_all_four_patterns_and_a_cancellation_work(run: Callable[..., Any], transport: Transport) -> None:
    async def main() -> None:
        async with (
            aster.serve([TaskService()], transport=transport) as server,
            aster.connect(server.address, transport=transport) as client,
        ):
            tasks = await client.client(TaskService)
            assert await tasks.get_task(TaskRequest("1")) == TaskResult("1", "running")
            assert len([update async for update in tasks.watch_tasks(WatchRequest())]) == 5
            assert (await tasks.ingest_logs([LogEntry(str(number)) for number in range(100)])).count == 100
            assert [result.output async for result in tasks.execute([Command("a")])] == ["executed: a"]
            async with aster.open_call(tasks.execute) as call:
                with anyio.move_on_after(0):
                    await call.receive()
                await call.send(Command("b"))
                assert (await call.receive()).output == "executed: b"

    run(main)
