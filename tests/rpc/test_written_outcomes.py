"""Endings on the page of the laws that no other test shows: cancelled handlers that do not behave, and request iterables that end the program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import rpc, server_stream
from aster.errors import RpcError, StatusCode
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Witness, backend_for, calls_are_over, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


def _errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has at ERROR, with a traceback."""
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR" and record.exc_info]


class Misbehaving(Echo):
    """Its handlers wait until they are cancelled, and end as they should not."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.witness = Witness()

    @rpc
    async def same(self, item: Item) -> Item:
        """Raises, or returns as if nothing had been."""
        if item.number:
            with self.witness.watch():
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                    if self.error is not None:
                        raise self.error
                    return item  # noqa: B012 (that is the misbehaviour)
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        """Yields on, whoever closes it."""
        try:
            yield item
            await anyio.sleep_forever()
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            try:
                yield item
            except GeneratorExit:
                yield item


async def _cancelled(client: aster.AsterClient, misbehaving: Misbehaving, echo: Echo) -> None:
    """A unary call that is cancelled while its handler runs: its caller sees that and nothing else."""
    before = misbehaving.witness.began
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(echo.same, Item(1))
            await until(lambda: misbehaving.witness.began > before)
            scope.cancel()
    assert scope.cancelled_caught
    await calls_are_over(client)
    assert misbehaving.witness.running == 0
    assert await echo.same(Item(0)) == Item(0)


async def test_what_a_cancelled_handler_returns_from_its_shield_is_dropped_without_a_word(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    misbehaving = Misbehaving()
    async with assert_no_orphans(), running(misbehaving) as (_, client):
        await _cancelled(client, misbehaving, await client.client(Echo))
    assert _errors_in(caplog) == []


async def test_a_bug_of_a_cancelled_handlers_cleanup_is_logged_once_and_its_caller_sees_cancellation(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    misbehaving = Misbehaving(LookupError("the cleanup is broken"))
    async with assert_no_orphans(), running(misbehaving) as (_, client):
        await _cancelled(client, misbehaving, await client.client(Echo))
    assert _errors_in(caplog) == ["the handler of Echo.same raised LookupError"]


async def test_an_rpc_error_of_a_cancelled_handler_is_dropped_without_a_word(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    misbehaving = Misbehaving(RpcError(StatusCode.ABORTED, "too late to say"))
    async with assert_no_orphans(), running(misbehaving) as (_, client):
        await _cancelled(client, misbehaving, await client.client(Echo))
    assert _errors_in(caplog) == []


async def test_a_generator_that_yields_on_when_it_is_closed_is_a_bug_in_the_log_alone(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    misbehaving = Misbehaving()
    async with running(misbehaving) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item(1)) as items:
            assert await anext(items) == Item(1)
        await calls_are_over(client)
        assert await echo.same(Item(0)) == Item(0)
    assert _errors_in(caplog) == ["the handler of Echo.count raised RuntimeError"]


async def test_a_bug_in_the_tasks_of_a_cancelled_handler_is_logged_once_and_its_caller_sees_cancellation(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """On trio the group that comes out of the handler holds cancellation, too, which goes its own way."""
    witness = Witness()

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("the task is broken")

    class Grouped(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            with witness.watch():
                async with anyio.create_task_group() as group:
                    group.start_soon(fail)
                    await anyio.sleep_forever()
            return item

    async with assert_no_orphans(), running(Grouped()) as (_, client):
        echo = await client.client(Echo)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(echo.same, Item(1))
                await until(lambda: witness.began)
                scope.cancel()
        assert scope.cancelled_caught
        await calls_are_over(client)
    assert _errors_in(caplog) == ["the handler of Echo.same raised ExceptionGroup"]


async def test_a_request_iterable_that_ends_the_program_ends_the_clients_block_and_not_the_server(transport: Transport) -> None:
    """Bare, asyncio itself would end its loop with it; in a group, as of the iterable's own tasks, it takes the way of all that is no Exception."""
    ended = list[BaseException]()

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        await anyio.lowlevel.checkpoint()
        raise BaseExceptionGroup("of a task group", [SystemExit(3)])

    async def call(echo: Echo) -> None:
        try:
            await echo.total(requests())
        except BaseException as exc:
            ended.append(exc)
            raise

    async with assert_no_orphans(), aster.serve([Echo()], transport=transport) as server:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with aster.connect(server.address, transport=transport) as client:
                await call(await client.client(Echo))
        assert [type(exc) for exc in caught.value.exceptions] == [SystemExit]
        assert [type(exc) for exc in ended] == [anyio.get_cancelled_exc_class()]
        async with aster.connect(server.address, transport=transport) as client:
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)


_BARE = """
import builtins, logging, sys
import anyio
import aster
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.echo import Echo, Item

backend, error = sys.argv[1], getattr(builtins, sys.argv[3])
transport = MemoryTransport() if sys.argv[2] == "memory" else QuicTransport()
logging.getLogger("aster").addHandler(logging.StreamHandler(sys.stdout))

async def requests():
    try:
        yield Item(1)
        raise error(7)
    finally:
        print("iterable closed")

async def main():
    try:
        async with aster.serve([Echo()], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
            echo = await client.client(Echo)
            try:
                await echo.total(requests())
            except anyio.get_cancelled_exc_class():
                print("call cancelled")
                raise
    finally:
        print("blocks left")

try:
    anyio.run(main, backend=backend)
except BaseException as exc:
    print(repr(exc))
"""


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("kind", ["memory", "quic"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_iterable_that_ends_the_program_bare_ends_it_with_its_blocks_left(backend: str, kind: str, error: str) -> None:
    """In a process of its own, since asyncio itself ends its loop with it."""
    backend_for(backend, MemoryTransport())  # skips where trio is missing
    done = subprocess.run([sys.executable, "-c", _BARE, backend, kind, error], capture_output=True, text=True, check=False)
    assert done.stdout == f"iterable closed\ncall cancelled\nblocks left\n{error}(7)\n"
