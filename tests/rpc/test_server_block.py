"""How the server's own block ends: whether cancellation comes out, who gets a grace, and what its services suppress. On both backends alike."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import rpc
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Endless, Witness, backend_for, on_asyncio, until

pytestmark = pytest.mark.anyio

LONG = 60.0
"""Seconds that are not meant to pass: longer than a test may take."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


@asynccontextmanager
async def calling(address: str, transport: Transport) -> AsyncGenerator[list[aster.StatusCode]]:
    """One call, made by a task of its own, and with which codes it failed; the task has ended once this is left."""
    codes = list[aster.StatusCode]()

    async def call() -> None:
        async with aster.connect(address, transport=transport) as client:
            try:
                await (await client.client(Echo)).same(Item())
            except aster.RpcError as exc:
                codes.append(exc.code)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        yield codes


# Cancellation


async def test_cancellation_as_the_last_thing_in_an_idle_block_comes_out_of_it(transport: Transport) -> None:
    async with assert_no_orphans():
        with anyio.CancelScope() as scope:
            async with aster.serve([Echo()], transport=transport):
                scope.cancel()
        assert scope.cancelled_caught


async def test_a_scope_that_expired_before_the_end_of_an_idle_block_is_heard_at_its_end(transport: Transport) -> None:
    async with assert_no_orphans():
        with anyio.CancelScope() as scope:
            async with aster.serve([Echo()], transport=transport):
                scope.deadline = anyio.current_time()
        assert scope.cancelled_caught


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
async def test_a_scope_whose_expiry_the_loop_had_no_time_to_notice_is_heard_too(transport: Transport) -> None:
    async with assert_no_orphans():
        with anyio.CancelScope() as scope:
            async with aster.serve([Echo()], transport=transport):
                scope.deadline = anyio.current_time() + 0.001
                time.sleep(0.002)  # noqa: ASYNC251 (a body that keeps the loop busy past the deadline is what this is about)
        assert scope.cancelled_caught


async def test_asyncios_own_cancellation_as_the_last_thing_in_an_idle_block_comes_out_of_it(transport: Transport) -> None:
    if not on_asyncio():
        return

    async def serve() -> None:
        async with aster.serve([Echo()], transport=transport):
            task.cancel()

    async with assert_no_orphans():
        task = asyncio.create_task(serve())
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancellation_while_a_shielded_handler_is_waited_for_comes_out_afterwards(transport: Transport) -> None:
    witness = Witness()

    class Shielded(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            with witness.watch():
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        scope.cancel()
                        for _ in range(10):
                            await anyio.lowlevel.checkpoint()
            return item

    async with assert_no_orphans(), anyio.create_task_group() as group:
        started = anyio.Event()
        address = list[str]()

        async def call() -> None:
            await started.wait()
            async with calling(address[0], transport):
                pass

        group.start_soon(call)
        with anyio.CancelScope() as scope:
            async with aster.serve([Shielded()], transport=transport, drain_grace=0) as server:
                address.append(server.address)
                started.set()
                await until(lambda: witness.began)
        assert scope.cancelled_caught
        assert witness.unwound == 1


async def test_an_uncancelled_block_ends_without_a_word_and_a_cancelled_scope_around_it_gives_no_grace(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aster")
    endless = Endless()
    async with assert_no_orphans():
        async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:
            pass
        assert not _waits(caplog)
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:
                    group.start_soon(_call, server.address, transport)
                    await until(lambda: endless.witness.began)
                    scope.cancel()
            assert scope.cancelled_caught
        assert not _waits(caplog)


def _waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aster" and "may take up to" in record.getMessage()]


async def _call(address: str, transport: Transport) -> None:
    async with calling(address, transport):
        pass


# Grace


async def test_an_exception_of_the_body_waits_for_the_grace_and_says_so(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster")
    go_on, witness, logged = anyio.Event(), Witness(), list[str]()

    class Slow(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            with witness.watch():
                await go_on.wait()
            return item

    async def let_go_on() -> None:
        await until(lambda: _waits(caplog))
        logged.extend(_waits(caplog))
        go_on.set()

    async with assert_no_orphans(), anyio.create_task_group() as group:
        with pytest.raises(LookupError):  # noqa: PT012 (the block is what raises it)
            async with aster.serve([Slow()], transport=transport, drain_grace=LONG) as server:
                group.start_soon(_call, server.address, transport)
                await until(lambda: witness.began)
                group.start_soon(let_go_on)
                raise LookupError
        assert witness.cancelled == 0
    assert logged == ["the server's block was left by LookupError; running calls and sessions (1) may take up to 60 s to end"]


class Stop(BaseException):
    """Neither an Exception nor any that Python itself raises."""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), Stop()], ids=lambda error: type(error).__name__)
async def test_what_ends_the_program_gives_no_grace(transport: Transport, error: BaseException) -> None:
    endless = Endless()
    async with assert_no_orphans(), anyio.create_task_group() as group:
        began = 0.0
        with pytest.raises(type(error)):  # noqa: PT012 (the block is what raises it)
            async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:
                group.start_soon(_call, server.address, transport)
                await until(lambda: endless.witness.began)
                began = anyio.current_time()
                raise error
        assert anyio.current_time() - began < LONG / 2
        assert endless.witness.cancelled == 1


async def test_past_the_grace_of_a_block_that_is_left_its_handlers_are_cancelled(transport: Transport) -> None:
    grace, took, endless = 0.3, 0.0, Endless()
    async with assert_no_orphans(), anyio.create_task_group() as group:
        async with aster.serve([endless], transport=transport, drain_grace=grace) as server:
            group.start_soon(_call, server.address, transport)
            await until(lambda: endless.witness.began)
            left = anyio.current_time()
        took = anyio.current_time() - left
        assert endless.witness.cancelled == endless.witness.unwound == 1
    assert took == pytest.approx(grace) if isinstance(transport, MemoryTransport) else took >= grace


# What services suppress


class Suppressing(Echo):
    """Has a task group for its background work, whose scope it cancels when it is told to."""

    async def __aenter__(self) -> Suppressing:
        self.group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        return await self.group.__aexit__(*exc_info)

    @rpc
    async def same(self, item: Item) -> Item:
        self.group.cancel_scope.cancel()
        return item


async def test_the_scope_of_a_services_own_task_group_ends_the_block_quietly(transport: Transport) -> None:
    async with assert_no_orphans():
        with anyio.CancelScope() as outer:
            async with aster.serve([Suppressing()], transport=transport) as server:
                async with calling(server.address, transport):
                    pass
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        assert not outer.cancelled_caught


@pytest.mark.parametrize("raised", [LookupError, KeyError])
async def test_what_a_service_suppresses_does_not_come_out_of_the_block(transport: Transport, raised: Callable[[], Exception]) -> None:
    seen = list[object]()

    class Tolerant(Echo):
        async def __aenter__(self) -> Tolerant:
            return self

        async def __aexit__(self, kind: object, *rest: object) -> bool:
            seen.append(kind)
            return kind is KeyError

    async def serve() -> None:
        async with aster.serve([Tolerant()], transport=transport):
            raise raised()

    async with assert_no_orphans():
        if raised is KeyError:
            await serve()
        else:
            with pytest.raises(LookupError):
                await serve()
    assert seen == [raised]


# Signals


TWO_SERVERS = """
import logging, os, signal, sys
import anyio, aster
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Endless, until

async def call(address):
    async with aster.connect(address) as client:
        try:
            await (await client.client(Echo)).same(Item())
        except aster.RpcError as exc:
            print(exc.code.name, flush=True)

async def run(name, hosted, group, waiting):
    async with aster.serve([hosted], drain_grace=60) as server:
        if isinstance(hosted, Endless):
            group.start_soon(call, server.address)
            await until(lambda: hosted.witness.began)
        waiting.append(name)
        await server.serve()
    print(name, "left", flush=True)

async def round(hosted, signals):
    async with anyio.create_task_group() as group:
        waiting = []
        for name, service in zip("AB", hosted):
            group.start_soon(run, name, service, group, waiting)
        await until(lambda: len(waiting) == 2)
        for text in signals:
            await anyio.wait_all_tasks_blocked()
            heard.clear()
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: heard == ["SIGTERM: " + text] * 2)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "the last server to leave listens no more"

async def main():
    await round([Echo(), Echo()], ["draining"])
    await round([Endless(), Endless()], ["draining", "cancelling what still runs"])

heard = []

class Hearing(logging.Handler):
    def emit(self, record):
        if "SIGTERM" in record.getMessage():
            heard.append(record.getMessage())

logging.getLogger("aster").addHandler(Hearing())
logging.getLogger("aster").setLevel(logging.INFO)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
def test_a_signal_drains_every_server_of_the_process_and_a_second_one_cancels_what_runs_in_all(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    # In a process of its own, since signals concern all of one.
    done = subprocess.run([sys.executable, "-W", "error", "-c", TWO_SERVERS, anyio_backend[0]], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.split("\n")) == ["", *["A left"] * 2, *["B left"] * 2, *["UNAVAILABLE"] * 2]


ONE_AFTER_THE_OTHER = """
import os, signal, sys
import anyio, aster
from tests.rpc.echo import Echo

async def run(name, waiting, scope):
    async with aster.serve([Echo()]) as server:
        with scope:
            waiting.set()
            await server.serve()
    print(name, flush=True)

async def main():
    scopes = [anyio.CancelScope() for _ in range(2)]
    async with anyio.create_task_group() as group:
        for number, scope in enumerate(scopes):
            waiting = anyio.Event()
            group.start_soon(run, number, waiting, scope)
            await waiting.wait()
            await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
def test_a_server_hears_signals_after_the_one_that_waited_before_it_has_left(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    program = [sys.executable, "-W", "error", "-c", ONE_AFTER_THE_OTHER, anyio_backend[0]]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == ["0", "1"]
    assert done.returncode == 0


async def test_a_service_that_suppresses_the_failure_of_a_start_does_not_let_the_body_run(transport: Transport) -> None:
    class Quiet(Echo):
        async def __aenter__(self) -> Quiet:
            return self

        async def __aexit__(self, *_: object) -> bool:
            return True

    async with assert_no_orphans(), aster.serve([Echo()], transport=transport) as server:
        taken = server.address.rpartition("@")[2]
        with pytest.raises(OSError, match="cannot listen at"):
            async with aster.serve([Quiet()], listen=taken, transport=transport):
                raise AssertionError
