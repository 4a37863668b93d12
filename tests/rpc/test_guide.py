"""The guide's service, as the guide writes it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.guide import Command, LogEntry, TaskRequest, TaskResult, TaskService, TaskUpdate, WatchRequest
from tests.rpc.conftest import Running

pytestmark = pytest.mark.anyio


async def test_the_guides_service_answers_on_all_four_patterns(running: Running) -> None:
    async def commands() -> AsyncIterator[Command]:
        for action in ("build", "test"):
            yield Command(action)

    async with running(TaskService()) as (_, client):
        tasks = await client.client(TaskService)
        assert await tasks.get_task(TaskRequest(task_id="1")) == TaskResult("1", "running")
        assert [update async for update in tasks.watch_tasks(WatchRequest())] == [TaskUpdate(f"task-{i}", "active") for i in range(5)]
        assert (await tasks.ingest_logs([LogEntry("a"), LogEntry("b")])).count == 2
        assert [result.output async for result in tasks.execute(commands())] == ["executed: build", "executed: test"]
