"""How blocks end: drained, cancelled, by an exception, by a signal, by the loss of the connection. Nothing is left of them in any case."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.decorators import client_stream, rpc, server_stream
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import CALLS, Endless, Lingering, Witness, backend_for, cancelled_at_every_step, on_asyncio, until

pytestmark = pytest.mark.anyio

GRACE = 0.3
"""Seconds that are meant to pass; real ones over QUIC."""

BRIEFLY: Any = {"connect_timeout": 2.0}
"""For clients that look for another connection where nobody is any more."""

LONG = 60.0
"""Seconds that are not: longer than a test may take."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


def is_exact(transport: Transport) -> bool:
    """Whether time is virtual."""
    return isinstance(transport, MemoryTransport)


class Outcomes:
    """Makes calls and keeps how each of them ended."""

    def __init__(self) -> None:
        self.all = list[object]()

    @property
    def codes(self) -> list[aster.StatusCode]:
        """Of the calls that failed."""
        return [outcome.code for outcome in self.all if isinstance(outcome, aster.RpcError)]

    async def keep(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make one call."""
        try:
            self.all.append(await call())
        except aster.RpcError as exc:
            self.all.append(exc)


class Gate(Echo):
    """Its handlers end once they are told to, and with a response of any size."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.open = anyio.Event()

    @rpc
    async def same(self, item: Item) -> Item:
        with self.witness.watch():
            await self.open.wait()
        return Item(item.number, data=bytes(item.number))


# Drain


async def test_drain_lets_calls_in_flight_finish_and_refuses_new_ones(running: Running) -> None:
    gate, outcomes = Gate(), Outcomes()
    async with assert_no_orphans(), running(gate, drain_grace=LONG, client=BRIEFLY) as (server, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            group.start_soon(outcomes.keep, lambda: echo.same(Item(3)))
            await until(lambda: gate.witness.began == 1)
            group.start_soon(server.drain)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(aster.RpcError) as caught:
                await echo.same(Item(1))
            assert caught.value.code is aster.StatusCode.UNAVAILABLE
            gate.open.set()
        assert outcomes.all == [Item(3, data=bytes(3))]
        assert gate.witness.began == 1
        await server.serve()  # drained: nothing to wait for


async def test_a_draining_server_refuses_new_clients(running: Running, transport: Transport) -> None:
    gate, outcomes = Gate(), Outcomes()
    async with assert_no_orphans(), running(gate, drain_grace=LONG) as (server, client), anyio.create_task_group() as group:
        echo = await client.client(Echo)
        group.start_soon(outcomes.keep, lambda: echo.same(Item(3)))
        await until(lambda: gate.witness.began == 1)
        group.start_soon(server.drain)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(aster.RefusedError):
            await aster.connect(server.address, transport=transport).__aenter__()
        gate.open.set()
    assert outcomes.all == [Item(3, data=bytes(3))]


async def test_calls_past_the_grace_are_cancelled_and_their_callers_see_unavailable(running: Running, transport: Transport) -> None:
    endless, outcomes = Endless(responses=1), Outcomes()
    async with assert_no_orphans(), running(endless, drain_grace=GRACE) as (server, client):
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for call in CALLS.values():
                group.start_soon(outcomes.keep, partial(call, echo))
            await until(lambda: endless.witness.began == 4)
            began = anyio.current_time()
            await server.drain()
            took = anyio.current_time() - began
            assert took == pytest.approx(GRACE) if is_exact(transport) else took >= GRACE
        assert outcomes.codes == [aster.StatusCode.UNAVAILABLE] * 4
        assert endless.witness.cancelled == endless.witness.unwound == 4


async def test_leaving_the_servers_block_drains(transport: Transport) -> None:
    """The last response is large, and the server's block ends at once after it: it arrives whole all the same."""
    gate, outcomes, size = Gate(), Outcomes(), 600_000
    left = anyio.Event()

    async def serve(address: list[str]) -> None:
        async with aster.serve([gate], transport=transport, drain_grace=LONG) as server:
            address.append(server.address)
            await until(lambda: gate.witness.began)
        left.set()

    async with assert_no_orphans(), anyio.create_task_group() as group:
        address = list[str]()
        group.start_soon(serve, address)
        await until(lambda: address)
        async with aster.connect(address[0], transport=transport, **BRIEFLY) as client:
            echo = await client.client(Echo)
            group.start_soon(outcomes.keep, lambda: echo.same(Item(size)))
            await until(lambda: gate.witness.began)
            await anyio.wait_all_tasks_blocked()
            assert not left.is_set()
            gate.open.set()
            await left.wait()
            await until(lambda: outcomes.all)
            with pytest.raises(aster.RpcError) as caught:
                await echo.same(Item())
            assert caught.value.code is aster.StatusCode.UNAVAILABLE
    assert outcomes.all == [Item(size, data=bytes(size))]


async def test_cancelling_the_scope_around_a_server_skips_the_grace(transport: Transport) -> None:
    endless, outcomes, began = Endless(), Outcomes(), 0.0
    async with assert_no_orphans(), anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:

                async def call() -> None:
                    async with aster.connect(server.address, transport=transport) as client:
                        echo = await client.client(Echo)
                        await outcomes.keep(lambda: echo.same(Item()))

                group.start_soon(call)
                await until(lambda: endless.witness.began)
                began = anyio.current_time()
                scope.cancel()
                await server.serve()
        assert scope.cancelled_caught
        assert anyio.current_time() - began < LONG / 2
    assert outcomes.codes == [aster.StatusCode.UNAVAILABLE]
    assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_cancelling_the_scope_during_the_grace_ends_it(transport: Transport) -> None:
    endless, outcomes = Endless(), Outcomes()
    async with assert_no_orphans(), anyio.create_task_group() as group:
        with anyio.move_on_after(GRACE) as scope:
            async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:

                async def call() -> None:
                    async with aster.connect(server.address, transport=transport) as client:
                        echo = await client.client(Echo)
                        await outcomes.keep(lambda: echo.same(Item()))

                group.start_soon(call)
                with anyio.CancelScope(shield=True):  # a slow machine: the block is to be left before the time is over, or just after
                    await until(lambda: endless.witness.began)
        assert scope.cancelled_caught
    assert outcomes.codes == [aster.StatusCode.UNAVAILABLE]
    assert endless.witness.cancelled == endless.witness.unwound == 1


async def test_a_handler_that_shields_itself_past_the_budget_is_named_in_the_log_and_waited_for(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    witness, outcomes = Witness(), Outcomes()

    class Shielded(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            with witness.watch(), anyio.CancelScope(shield=True):
                await anyio.sleep(2 * GRACE)
            return item

    async with assert_no_orphans(), anyio.create_task_group() as group:
        async with aster.serve([Shielded()], transport=transport, drain_grace=0, cleanup_budget=GRACE / 10) as server:

            async def call() -> None:
                async with aster.connect(server.address, transport=transport) as client:
                    echo = await client.client(Echo)
                    await outcomes.keep(lambda: echo.same(Item()))

            group.start_soon(call)
            await until(lambda: witness.began)
        assert witness.unwound == 1
    assert outcomes.codes == [aster.StatusCode.UNAVAILABLE]
    named = [record for record in caplog.records if record.name == "aster" and "Echo.same" in record.getMessage()]
    assert len([record for record in named if "shield" in record.getMessage()]) == 1
    assert not [record for record in named if record.levelno >= logging.ERROR]


async def test_a_service_that_is_a_context_manager_is_left_after_the_last_handler(transport: Transport) -> None:
    happened, outcomes = list[str](), Outcomes()

    class Managed(Echo):
        async def __aenter__(self) -> Managed:
            await anyio.lowlevel.checkpoint()
            happened.append("entered")
            return self

        async def __aexit__(self, *_: object) -> None:
            happened.append("left")

        @rpc
        async def same(self, item: Item) -> Item:
            happened.append("called")
            try:
                await anyio.sleep_forever()
            finally:
                happened.append("unwound")
            return item

    async with assert_no_orphans(), anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with aster.serve([Managed()], transport=transport) as server:

                async def call() -> None:
                    async with aster.connect(server.address, transport=transport) as client:
                        echo = await client.client(Echo)
                        await outcomes.keep(lambda: echo.same(Item()))

                group.start_soon(call)
                await until(lambda: "called" in happened)
                scope.cancel()
    assert happened == ["entered", "called", "unwound", "left"]


# Exceptions of bodies


async def test_an_exception_of_any_blocks_body_comes_out_bare_with_calls_in_flight(running: Running) -> None:
    endless, outcomes = Endless(responses=1), Outcomes()

    async def raise_in_the_server_block(group: anyio.abc.TaskGroup) -> None:
        async with running(endless, drain_grace=0) as (_, client):
            echo = await client.client(Echo)
            for call in CALLS.values():
                group.start_soon(outcomes.keep, partial(call, echo))
            await until(lambda: endless.witness.began == 4)
            raise LookupError("the body's own")

    async def raise_in_a_stream_block() -> None:
        async with running(Endless(responses=1), drain_grace=0) as (_, client):
            echo = await client.client(Echo)
            async with echo.count(Item()) as items:
                await anext(items)
                raise LookupError("the body's own")

    async def raise_in_an_interactive_call() -> None:
        async with running(Endless(), drain_grace=0) as (_, client):
            echo = await client.client(Echo)
            async with aster.open_call(echo.chat) as open_call:
                await open_call.send(Item())
                raise LookupError("the body's own")

    async with assert_no_orphans():
        async with anyio.create_task_group() as group:
            with pytest.raises(LookupError, match="the body's own"):
                await raise_in_the_server_block(group)
        # The client's block was left first, which cancels its calls.
        assert outcomes.codes == [aster.StatusCode.CANCELLED] * 4
        assert endless.witness.unwound == endless.witness.cancelled == 4
        for block in (raise_in_a_stream_block, raise_in_an_interactive_call):
            with pytest.raises(LookupError, match="the body's own"):
                await block()


async def test_an_exception_of_the_body_survives_cancellation_that_arrives_while_the_block_is_left(transport: Transport) -> None:
    endless = Endless()

    async def fail(group: anyio.abc.TaskGroup, scope: anyio.CancelScope) -> None:
        async with aster.serve([endless], transport=transport, drain_grace=LONG) as server:

            async def call() -> None:
                async with aster.connect(server.address, transport=transport) as client:
                    echo = await client.client(Echo)
                    await Outcomes().keep(lambda: echo.same(Item()))

            group.start_soon(call)
            await until(lambda: endless.witness.began)
            scope.cancel()
            raise LookupError("the body's own")

    async with assert_no_orphans(), anyio.create_task_group() as group:
        with pytest.raises(LookupError, match="the body's own"), anyio.CancelScope() as scope:
            await fail(group, scope)


# Signals


SERVER = """
import logging, sys
import anyio, aster
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Endless

class Announced(Endless):
    @aster.rpc
    async def same(self, item: Item) -> Item:
        print("called", flush=True)
        return await super().same(item) if item.number else item

async def call(address, number):
    async with aster.connect(address) as client:
        echo = await client.client(Echo)
        try:
            await echo.same(Item(number))
        except aster.RpcError as exc:
            print(exc.code.name, flush=True)

async def main(number):
    async with anyio.create_task_group() as group:
        async with aster.serve([Announced()], drain_grace=60) as server:
            group.start_soon(call, server.address, number)
            await server.serve()
        print("left", flush=True)

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
anyio.run(main, int(sys.argv[2]), backend=sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
def test_a_signal_drains_the_server_and_a_second_one_cancels_what_still_runs(anyio_backend: tuple[str, dict[str, Any]], number: signal.Signals) -> None:
    # In a process of its own, since signals concern all of one; what it waits for are its lines, in real time.
    for stuck in (False, True):
        with subprocess.Popen([sys.executable, "-W", "error", "-c", SERVER, anyio_backend[0], str(int(stuck))], stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                _read_until(process.stdout, "called")
                process.send_signal(number)
                if stuck:
                    _read_until(process.stdout, f"{number.name}: draining")
                    process.send_signal(number)
                rest = process.stdout.read().splitlines()
                assert process.wait() == 0
                assert process.stderr.read() == ""
                assert "left" in rest
                assert ("UNAVAILABLE" in rest) is stuck
            finally:
                process.kill()


def _read_until(lines: Any, wanted: str) -> None:
    for line in lines:
        if line.strip() == wanted:
            return
    pytest.fail(f"the process ended before it wrote {wanted!r}")


# Loss


async def test_when_the_server_is_gone_every_pending_call_fails_once_with_unavailable(transport: Transport) -> None:
    endless, outcomes = Endless(responses=1), Outcomes()
    async with assert_no_orphans(), anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with aster.serve([endless], transport=transport) as server:
                ready = anyio.Event()

                async def call() -> None:
                    async with aster.connect(server.address, transport=transport) as client, anyio.create_task_group() as calls:
                        echo = await client.client(Echo)
                        for pattern in CALLS.values():
                            for _ in range(5):
                                calls.start_soon(outcomes.keep, partial(pattern, echo))
                        ready.set()

                group.start_soon(call)
                await ready.wait()
                await until(lambda: endless.witness.began == 20)
                scope.cancel()
    assert outcomes.codes == [aster.StatusCode.UNAVAILABLE] * 20
    assert endless.witness.began == endless.witness.cancelled == endless.witness.unwound


class Relay:
    """Passes datagrams between one client and a server, until it is cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cut = False

    @classmethod
    @asynccontextmanager
    async def to(cls, address: str) -> AsyncGenerator[Relay]:
        """A relay in front of a server."""
        host, _, port = address.rpartition("@")[2].partition(":")
        async with (
            await anyio.create_udp_socket(local_host=host) as front,
            await anyio.create_connected_udp_socket(host, int(port)) as back,
            anyio.create_task_group() as group,
        ):
            relay = cls(front.extra(anyio.abc.SocketAttribute.local_port))
            client = list[tuple[str, int]]()

            async def forth() -> None:
                async for data, sender in front:
                    client[:] = [sender]
                    if not relay.cut:
                        await back.send(data)

            async def back_again() -> None:
                async for data in back:
                    if not relay.cut:
                        await front.sendto(data, *client[0])

            group.start_soon(forth)
            group.start_soon(back_again)
            yield relay
            group.cancel_scope.cancel()


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
async def test_when_the_network_is_cut_every_pending_call_fails_once_and_every_handler_is_cancelled(transport: Transport) -> None:
    endless, outcomes = Endless(responses=1), Outcomes()
    async with (
        assert_no_orphans(),
        # Real seconds: it is silence that must be recognised.
        aster.serve([endless], transport=transport, idle_timeout=0.5, keepalive_interval=0.1) as server,
        Relay.to(server.address) as relay,
    ):
        address = f"aster://{server.endpoint_id}@127.0.0.1:{relay.port}"
        async with aster.connect(address, transport=transport, idle_timeout=0.5, keepalive_interval=0.1) as client:
            echo = await client.client(Echo)
            async with anyio.create_task_group() as calls:
                for pattern in CALLS.values():
                    for _ in range(5):
                        calls.start_soon(outcomes.keep, partial(pattern, echo))
                await until(lambda: endless.witness.began == 20)
                relay.cut = True
            assert outcomes.codes == [aster.StatusCode.UNAVAILABLE] * 20
            await until(lambda: endless.witness.running == 0)
            assert endless.witness.cancelled == 20


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
async def test_the_loss_of_the_connection_ends_the_wait_for_handlers_that_unwind(transport: Transport) -> None:
    lingering = Lingering()
    async with (
        assert_no_orphans(),
        aster.serve([lingering], transport=transport, cleanup_budget=LONG) as server,
        Relay.to(server.address) as relay,
    ):
        address = f"aster://{server.endpoint_id}@127.0.0.1:{relay.port}"
        # Real seconds: it is silence that must be recognised.
        async with aster.connect(address, transport=transport, idle_timeout=0.5, keepalive_interval=0.1) as client:
            echo = await client.client(Echo)
            async with anyio.create_task_group() as group:
                group.start_soon(echo.same, Item())
                await until(lambda: lingering.witness.began)
                group.cancel_scope.cancel()
            relay.cut = True
        assert lingering.witness.unwound == 0
        lingering.go_on.set()


# Nothing is left


async def _leave_normally(scope: anyio.CancelScope) -> None:
    await anyio.lowlevel.checkpoint()


async def _raise(scope: anyio.CancelScope) -> None:
    raise LookupError("the body's own")


async def _raise_base_exception(scope: anyio.CancelScope) -> None:
    class Stop(BaseException):
        pass

    raise Stop


async def _cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()
    await anyio.sleep_forever()


async def _let_time_run_out(scope: anyio.CancelScope) -> None:
    scope.deadline = anyio.current_time() + 0.01
    await anyio.sleep_forever()


WAYS_OUT = [_leave_normally, _raise, _raise_base_exception, _cancel, _let_time_run_out]


@pytest.mark.parametrize("leave", WAYS_OUT, ids=lambda leave: leave.__name__[1:])
async def test_nothing_remains_of_blocks_with_calls_in_flight_however_they_are_left(
    running: Running, leave: Callable[[anyio.CancelScope], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    endless, outcomes, requests_witness = Endless(responses=2), Outcomes(), Witness()

    async def requests() -> AsyncIterator[Item]:
        with requests_witness.watch():
            yield Item()
            await anyio.sleep_forever()

    async with assert_no_orphans(), anyio.create_task_group() as group:
        try:
            with anyio.CancelScope() as scope:
                async with running(endless, drain_grace=0) as (_, client):
                    echo = await client.client(Echo)
                    for call in CALLS.values():
                        group.start_soon(outcomes.keep, partial(call, echo))
                    group.start_soon(outcomes.keep, lambda: echo.total(requests()))
                    unfinished = echo.count(Item())
                    assert await anext(unfinished) == Item(0)
                    unfinished_requests = echo.chat(requests())
                    assert await anext(unfinished_requests) == Item()
                    await until(lambda: endless.witness.began == 7)
                    await leave(scope)
        except BaseException as exc:
            if not (isinstance(exc, LookupError) or type(exc).__name__ == "Stop"):
                raise
    assert endless.witness.began == endless.witness.cancelled == endless.witness.unwound == 7
    assert requests_witness.began == requests_witness.unwound == 2
    # A scope around both blocks cancels the handlers as well: then it is chance which side is first to say so.
    assert len(outcomes.codes) == 5
    assert set(outcomes.codes) <= {aster.StatusCode.CANCELLED, aster.StatusCode.UNAVAILABLE}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_stream_that_outlives_its_clients_block_fails_instead_of_hanging(running: Running) -> None:
    async with assert_no_orphans(), running(Endless(responses=1)) as (_, client):
        echo = await client.client(Echo)
        begun, not_begun = echo.count(Item()), echo.count(Item())
        assert await anext(begun) == Item(0)
    with pytest.raises(aster.RpcError):
        await anext(begun)
    with pytest.raises(aster.RpcError) as caught:
        await anext(not_begun)
    assert caught.value.code is aster.StatusCode.UNAVAILABLE


async def test_cancelling_at_every_step_of_serving_connecting_and_calling_leaves_nothing(running: Running, transport: Transport) -> None:
    reached = list[str]()

    async def program() -> None:
        reached.append("began")
        async with aster.serve([Echo()], transport=transport) as server:
            reached.append("served")
            async with aster.connect(server.address, transport=transport) as client:
                reached.append("connected")
                echo = await client.client(Echo)
                async with echo.count(Item(2)) as items:
                    assert [item.number async for item in items] == [0, 1]
                assert (await echo.total([Item(1), Item(2)])).number == 3
                reached.append("called")
            reached.append("hung up")
        reached.append("closed")

    times = await cancelled_at_every_step(program, anyio.lowlevel.checkpoint, transport, around=assert_no_orphans)
    assert times == reached.count("began") - 1
    # Cancels landed in each part: fewer and fewer runs get further. Leaving the blocks is shielded, so that the last part is seldom cut short.
    counts = [reached.count(name) for name in ("began", "connected", "called")]
    assert counts[0] > counts[1] > counts[2] > 1


async def test_asyncios_own_cancellation_at_every_step_leaves_nothing_either_and_is_never_swallowed(running: Running, transport: Transport) -> None:
    """``Task.cancel()``, and so ``asyncio.timeout``, knows no shields: it also lands while blocks are left."""
    if not on_asyncio():
        return
    reached = list[str]()

    async def program() -> None:
        reached.append("began")
        async with running(Echo()) as (_, client):
            reached.append("connected")
            echo = await client.client(Echo)
            async with echo.count(Item(2)) as items:
                assert [item.number async for item in items] == [0, 1]
            assert (await echo.total([Item(1), Item(2)])).number == 3
            reached.append("called")
        reached.append("closed")

    await cancelled_at_every_step(program, anyio.lowlevel.checkpoint, transport, around=assert_no_orphans, native=True)
    counts = [reached.count(name) for name in ("began", "connected", "called", "closed")]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 1


async def test_clients_cancelled_at_every_step_of_connecting_leave_the_server_well(transport: Transport) -> None:
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport) as server:

        async def connect() -> None:
            async with aster.connect(server.address, transport=transport):
                pass

        await cancelled_at_every_step(connect, anyio.lowlevel.checkpoint, transport)
        async with aster.connect(server.address, transport=transport) as client:
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_failing_to_connect_leaves_nothing(transport: Transport) -> None:
    async with assert_no_orphans():
        async with aster.serve([Echo()], transport=transport) as server:
            wrong_key = server.address.replace(server.endpoint_id, aster.Identity.generate().endpoint_id)
            with pytest.raises(aster.IdentityError):
                await aster.connect(wrong_key, transport=transport).__aenter__()
            address = server.address
        with pytest.raises(aster.UnreachableError):
            await aster.connect(address, transport=transport, connect_timeout=GRACE).__aenter__()


async def test_failing_to_serve_leaves_nothing(transport: Transport) -> None:
    left = list[str]()

    class Fine(Echo):
        async def __aenter__(self) -> Fine:
            return self

        async def __aexit__(self, *_: object) -> None:
            left.append("fine")

    class Broken(Echo):
        async def __aenter__(self) -> Broken:
            raise LookupError("no database")

        async def __aexit__(self, *_: object) -> None:
            left.append("broken")

    @aster.service("Broken")
    class BrokenService(Broken):
        @rpc
        async def other(self, item: Item) -> Item:
            return item

    async with assert_no_orphans():
        async with aster.serve([Echo()], transport=transport) as server:
            taken = server.address.rpartition("@")[2]
            with pytest.raises(OSError, match="use"):
                await aster.serve([Fine()], listen=taken, transport=transport).__aenter__()
        assert left == ["fine"]
        with pytest.raises(LookupError, match="no database"):
            await aster.serve([Fine(), BrokenService()], transport=transport).__aenter__()
        assert left == ["fine", "fine"]


async def test_half_a_stream_read_and_forgotten_without_a_block_leaves_nothing_and_warns_of_nothing(running: Running) -> None:
    class Long(Echo):
        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            for number in range(10_000):
                yield Item(number)

        @client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            return Item(len([item async for item in items]))

    async with assert_no_orphans(), running(Long()) as (_, client):
        echo = await client.client(Echo)
        async for item in echo.count(Item()):
            if item.number == 40:
                break
        assert await echo.total([Item(), Item()]) == Item(2)


async def test_who_calls_again_at_once_does_not_hold_up_the_end_of_the_clients_block(transport: Transport) -> None:
    """Else the block waits until the cleanup budget is over, and closes the connection as if the server were to blame."""
    refused = list[aster.RpcError]()

    async def insist(echo: Echo) -> None:
        while not refused or refused[-1].code is aster.StatusCode.CANCELLED:
            try:
                await echo.same(Item())
            except aster.RpcError as exc:
                refused.append(exc)

    async with aster.serve([Echo()], transport=transport) as server, anyio.create_task_group() as group:
        async with aster.connect(server.address, transport=transport) as client:
            echo = await client.client(Echo)
            group.start_soon(insist, echo)
            await echo.same(Item())
        with pytest.raises(aster.RpcError, match="connect again to make more calls"):
            await echo.same(Item())
    assert refused[-1].code is aster.StatusCode.UNAVAILABLE
    assert "the client's block was left" in refused[-1].message
