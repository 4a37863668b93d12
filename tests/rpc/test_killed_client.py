"""A client whose process is killed sends nothing any more, not even its end: the server finds out by itself, and closes what it had."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import aster
from aster.testing import assert_no_orphans
from tests.rpc.probes import until
from tests.rpc.rooms import Lobby

pytestmark = pytest.mark.anyio

_IDLE, _KEEPALIVE = 1.0, 0.3
"""Seconds. They pass for real: the processes have no clock in common but the machine's."""

_CLIENT = """
import sys

import anyio

import aster
from tests.rpc.echo import Item
from tests.rpc.rooms import Room


async def main() -> None:
    async with aster.connect(sys.argv[1]) as client, client.session(Room) as room:
        await room.in_background(Item(1))
        print((await room.add(Item(3))).number, flush=True)
        await room.hang(Item(1))


anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("running", [True, False], ids=["in a call", "idle"])
async def test_the_session_of_a_killed_process_is_closed_once_after_its_call_and_its_tasks(anyio_backend_name: str, running: bool) -> None:
    lobby = Lobby()
    program = _CLIENT if running else _CLIENT.replace("await room.hang(Item(1))", "await anyio.sleep_forever()")
    async with aster.serve([lobby.service], idle_timeout=_IDLE, keepalive_interval=_KEEPALIVE) as server:
        command = [sys.executable, "-c", program, server.address, anyio_backend_name]
        async with await anyio.open_process(command, stderr=subprocess.STDOUT, cwd=Path(__file__).parent.parent.parent) as process:
            assert process.stdout is not None
            # A line may come in two pieces.
            assert (await process.stdout.receive()).strip() == b"3"
            if running:
                await until(lambda: "hangs" in lobby.log)
            # It stays open while the process lives, however long nothing is called.
            await anyio.sleep(_IDLE + 2 * _KEEPALIVE)
            assert lobby.closed == [0]
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            killed_at = anyio.current_time()
            await until(lambda: lobby.closed == [1])
            took = anyio.current_time() - killed_at
            # Law 11 shows in simulated time that it takes no longer than both together: here machines are busy. What ended it is silence, and nothing that
            # came earlier: the last packet was heard a keepalive before the kill, at the most, and half of one is left for clocks.
            assert took >= _IDLE - 1.5 * _KEEPALIVE
        await anyio.sleep(_KEEPALIVE)
        assert sorted(lobby.log[:-1]) == (["background ended", "hangs", "unwound"] if running else ["background ended"])
        assert (lobby.log[-1], lobby.closed) == ("closed", [1])
    assert_no_orphans()
