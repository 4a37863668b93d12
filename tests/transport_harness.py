"""What the transports' tests share: counting what must not be left behind."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

__all__ = ["nothing_left_behind", "open_sockets"]


def open_sockets() -> int:
    """How many sockets this process has."""
    count = 0
    for name in os.listdir("/dev/fd"):
        try:
            count += stat.S_ISSOCK(os.stat(int(name)).st_mode)
        except OSError:  # the descriptor of the listing itself
            continue
    return count


@asynccontextmanager
async def nothing_left_behind() -> AsyncGenerator[None]:
    """Fail if the block leaves a task or a socket."""
    sockets, tasks = open_sockets(), len(anyio.get_running_tasks())
    yield
    # A reactor's tasks end in the round after it was closed; its task group has waited for them, trio's bookkeeping has not.
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    assert open_sockets() == sockets, "a socket was left open"
    assert len(anyio.get_running_tasks()) == tasks, "a task was left running"
