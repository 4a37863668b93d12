"""What the guide promises of calls, a test for each promise that has no plainer one elsewhere: ``docs/reference/guide-coverage.md`` is the list."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import pytest

import aster
from aster.codec import make_codec, wire_type
from aster.decorators import rpc, service
from aster.errors import AutoTagWarning
from aster.transports.base import Transport
from aster.types import SerializationMode
from tests.guide import ChatRoomService, Command, LogEntry, SendMessageRequest, TaskRequest, TaskResult, TaskService, TaskUpdate, WatchRequest
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import server_record, until

pytestmark = pytest.mark.anyio


@dataclass
class Untagged:
    text: str = ""


with warnings.catch_warnings():
    warnings.simplefilter("ignore", AutoTagWarning)

    @service
    class InDevelopment:
        @rpc
        async def say(self, said: Untagged) -> Untagged:
            return Untagged(said.text.upper())


@dataclass
class OfPythonAlone:
    text: str = ""


@service(serialization=SerializationMode.NATIVE)
class Native:
    @rpc
    async def say(self, said: OfPythonAlone) -> OfPythonAlone:
        return OfPythonAlone(said.text.upper())


async def test_automatic_tags_work(running: Running) -> None:
    async with running(InDevelopment()) as (_, client):
        assert await (await client.client(InDevelopment)).say(Untagged("a")) == Untagged("A")


async def test_native_needs_no_tags(running: Running) -> None:
    async with running(Native()) as (_, client):
        assert await (await client.client(Native)).say(OfPythonAlone("a")) == OfPythonAlone("A")


@service("Echo")
class ByAnotherClass:
    """The client's own idea of the service."""

    @rpc
    async def same(self, item: Item) -> Item: ...


@service("echo")
class ByAnotherName(ByAnotherClass):
    """The same under another name."""


async def test_clients_find_a_service_by_its_name(running: Running) -> None:
    async with running(Echo()) as (_, client):
        assert await (await client.client(ByAnotherClass)).same(Item(1)) == Item(1)
        with pytest.raises(aster.RpcError, match="the server has no service 'echo'"):
            await client.client(ByAnotherName)


_WRAPPED: list[str] = []


class Noting(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        _WRAPPED.append(call.method)
        yield


@service("Wrapped", interceptors=[Noting])
class Wrapped(TaskService):
    """The guide's, with an interceptor."""


async def test_a_services_interceptors_are_applied_to_all_of_its_methods(running: Running) -> None:
    _WRAPPED.clear()
    async with running(Wrapped(), Echo()) as (_, client):
        await _call_all(await client.client(Wrapped))
        await (await client.client(Echo)).same(Item(1))
    assert _WRAPPED == ["get_task", "watch_tasks", "ingest_logs", "execute"]


@service
class Counter:
    """One instance for all."""

    def __init__(self) -> None:
        self.calls = 0

    @rpc
    async def count(self, item: Item) -> Item:
        self.calls += 1
        return Item(self.calls)


async def test_one_instance_of_a_shared_service_handles_all_connections(running: Running, transport: Transport) -> None:
    async with running(Counter()) as (server, one), aster.connect(server.address, transport=transport) as other:
        assert (await (await one.client(Counter)).count(Item())).number == 1
        assert (await (await other.client(Counter)).count(Item())).number == 2


async def test_both_sides_of_a_bidirectional_stream_stream_at_the_same_time(running: Running) -> None:
    answered = anyio.Event()

    async def commands() -> AsyncIterator[Command]:
        yield Command("first")
        # The second request is not made before the first response has arrived.
        await answered.wait()
        yield Command("second")

    outputs: list[str] = []
    async with running(TaskService()) as (_, client):
        with anyio.fail_after(10):
            async for result in (await client.client(TaskService)).execute(commands()):
                outputs.append(result.output)
                answered.set()
    assert outputs == ["executed: first", "executed: second"]


async def test_nothing_limits_the_streams_of_a_service_by_default(running: Running) -> None:
    waiting, enough = 0, anyio.Event()

    @service
    class Unlimited:
        @rpc
        async def wait(self, item: Item) -> Item:
            nonlocal waiting
            waiting += 1
            if waiting == 250:
                enough.set()
            await enough.wait()
            return item

    async with running(Unlimited()) as (_, client), anyio.create_task_group() as group:
        unlimited = await client.client(Unlimited)
        for _ in range(250):
            group.start_soon(unlimited.wait, Item())
    assert waiting == 250


_PEERS: list[object] = []
_CLOSED: list[object] = []


@service("Watched", scoped="stream")
class Watched(ChatRoomService):
    def __init__(self, peer: str | None = None) -> None:
        super().__init__(peer)
        _PEERS.append(peer)

    async def on_session_close(self) -> None:
        _CLOSED.append(self.peer)


async def test_the_peer_of_a_session_is_the_clients_endpoint_id_in_hex(running: Running) -> None:
    _PEERS.clear()
    async with running(Watched) as (_, client), client.session(Watched):
        assert [client.endpoint_id] == _PEERS
    assert len(bytes.fromhex(client.endpoint_id)) == 32


async def test_each_session_is_a_stream_of_its_own_and_its_calls_are_none(running: Running) -> None:
    _PEERS.clear()
    async with running(Watched) as (_, client):
        connection = server_record(client).transport
        assert connection.open_streams == 1  # for control
        async with client.session(Watched) as one, client.session(Watched) as other:
            assert (connection.open_streams, len(_PEERS)) == (3, 2)
            for room in (one, other, one):
                await room.send_message(SendMessageRequest("hello"))
                assert (connection.open_streams, len(_PEERS)) == (3, 2)
        await until(lambda: connection.open_streams == 1)


@pytest.mark.parametrize("how", ["closes the session", "disconnects"])
async def test_on_session_close_is_called_when_the_client(running: Running, how: str) -> None:
    _CLOSED.clear()
    async with running(Watched) as (_, client):
        async with client.session(Watched) as room:
            await room.send_message(SendMessageRequest("hello"))
            assert _CLOSED == []
            if how == "disconnects":
                server_record(client).transport.close()
                await until(lambda: _CLOSED != [])
        assert [client.endpoint_id] == _CLOSED


async def _call_all(tasks: TaskService) -> None:
    async def commands() -> AsyncIterator[Command]:
        yield Command("build")

    assert await tasks.get_task(TaskRequest(task_id="1")) == TaskResult("1", "running")
    assert [update async for update in tasks.watch_tasks(WatchRequest())] == [TaskUpdate(f"task-{i}", "active") for i in range(5)]
    assert (await tasks.ingest_logs([LogEntry("a"), LogEntry("b")])).count == 2
    assert [result.output async for result in tasks.execute(commands())] == ["executed: build"]


async def test_the_full_example_is_hosted_with_aster_server_and_consumed_with_aster_client(transport: Transport) -> None:
    async with (
        aster.AsterServer(services=[TaskService()], transport=transport) as server,
        aster.AsterClient(server.address, transport=transport) as client,
    ):
        await _call_all(await client.client(TaskService))


# Rows


@wire_type("tests.promises/Scan")
@dataclass
class Scan:
    name: str
    points: list[int]
    image: bytes


@service(serialization=SerializationMode.ROW)
class Scanner:
    @rpc
    async def same(self, scan: Scan) -> Scan:
        return scan


async def test_rows_are_read_at_random_and_without_copies(running: Running) -> None:
    async with running(Scanner()) as (_, client):
        scan = await (await client.client(Scanner)).same(Scan("a", list(range(1000)), b"\7" * 100_000))
        assert (scan.points[999], scan.name, scan.points[-2], scan.points[0]) == (999, "a", 998, 0)
        image = aster.buffer_of(scan, "image")
        assert image == b"\7" * 100_000
        # The bytes are those of the message itself, which holds the rest as well.
        assert isinstance(image.obj, bytes)
        assert len(image.obj) > 108_000


async def test_what_is_read_of_a_large_row_takes_no_memory_for_the_rest(running: Running) -> None:
    async with running(Scanner(), max_message_size=2**24) as (_, client):
        scan = await (await client.client(Scanner)).same(Scan("a", list(range(100_000)), bytes(2**20)))
        tracemalloc.start()
        try:
            assert (scan.name, scan.points[50_000], len(scan.points), len(aster.buffer_of(scan, "image"))) == ("a", 50_000, 100_000, 2**20)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100_000  # of 1.8 MB


def test_a_message_in_native_takes_no_more_bytes_than_in_xlang() -> None:
    tags: dict[type, str] = {LogEntry: "example.tasks/LogEntry", TaskResult: "example.tasks/TaskResult"}
    xlang, native = make_codec(SerializationMode.XLANG, tags), make_codec(SerializationMode.NATIVE, tags)
    for value in (LogEntry("a line"), LogEntry(""), TaskResult("1", "running")):
        cls = type(value)
        assert len(native.encoder(cls)(value)) <= len(xlang.encoder(cls)(value))
