"""Serving and connecting: what is refused and why, whom and where an address names, and what a handler finds around it."""

from __future__ import annotations

import math
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest

import aster
from aster import AddressError, CallContext, Identity, IdentityError, RpcError, StatusCode, UnreachableError, role
from aster._endpoint import EndpointOptions
from aster.decorators import rpc, server_stream, service
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of

pytestmark = pytest.mark.anyio


@service
class Second:
    @rpc
    async def negative(self, item: Item) -> Item:
        return Item(-item.number)


# What cannot be served


@service(scoped="stream")
class Scoped:
    def __init__(self, peer: str) -> None:
        self.peer = peer

    @rpc
    async def same(self, item: Item) -> Item:
        return item


@service(requires=role("admin"))
class Guarded:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


@service
class GuardedMethod:
    @rpc(requires=role("admin"))
    async def same(self, item: Item) -> Item:
        return item


@service("Guarded", version=2)
class GuardedAgain(Guarded):
    """Decorated again without what it requires."""


@service("GuardedMethod", version=2)
class GuardedMethodAgain(GuardedMethod):
    @rpc
    async def same(self, item: Item) -> Item:
        return item


def test_an_instance_is_refused_where_sessions_need_the_class() -> None:
    with pytest.raises(TypeError, match="serve the class itself, or a functools"):
        aster.serve([Scoped("peer")])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Guarded, "service 'Guarded'"),
        (GuardedAgain, "service 'Guarded'"),
        (GuardedMethod, "method 'same' of service 'GuardedMethod'"),
        (GuardedMethodAgain, "method 'same' of service 'GuardedMethod'"),
    ],
)
def test_what_requires_something_is_refused_where_nobody_is_granted_anything(make: Callable[[], object], what: str) -> None:
    with pytest.raises(ValueError, match=rf"^{what} uses requires, and this server has no authorize, .* pass authorize="):
        aster.serve([Echo(), make()])
    aster.serve([Echo(), make()], authorize={})


def test_a_class_is_refused_where_an_instance_is_served() -> None:
    with pytest.raises(TypeError, match=r"write Echo\(\.\.\.\) instead of the class Echo"):
        aster.serve([Echo])


@pytest.mark.parametrize("thing", [Item(), 5, None, object()])
def test_what_is_no_service_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match="@service"):
        aster.serve([thing])


def test_two_services_of_one_name_and_version_are_refused() -> None:
    @service("Echo")
    class Other:
        @rpc
        async def same(self, item: Item) -> Item:
            return item

    with pytest.raises(ValueError, match="two services are named 'Echo' with version 1: Echo and Other"):
        aster.serve([Echo(), Other()])


def test_a_server_without_services_is_refused() -> None:
    with pytest.raises(ValueError, match="services is empty"):
        aster.serve([])


def test_services_that_clients_cannot_be_told_of_are_refused_at_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aster._protocol.frames.HELLO_LIMIT", 60)  # else it takes thousands of methods
    with pytest.raises(ValueError, match="the limit is 60 bytes: serve fewer services at one endpoint"):
        aster.serve([Echo()])


@pytest.mark.parametrize("listen", ["", "127.0.0.1", ":0", "127.0.0.1:65536", "127.0.0.1:-1", "::1:0", "[::1:0", "a b:0", "aster://x@127.0.0.1:0"])
def test_a_malformed_listen_address_is_refused(listen: str) -> None:
    with pytest.raises(AddressError, match="listen address"):
        aster.serve([Echo()], listen=listen)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"drain_grace": -1}, ValueError),
        ({"drain_grace": math.inf}, ValueError),
        ({"cleanup_budget": 0}, ValueError),
        ({"max_deadline": 0}, ValueError),
        ({"window": 0}, ValueError),
        ({"max_message_size": -1}, ValueError),
        ({"max_message_size": "4MB"}, TypeError),
        ({"max_metadata_size": "8"}, TypeError),
        ({"max_connection_buffer": 0}, ValueError),
        ({"max_concurrent_calls": True}, TypeError),
        ({"max_sessions": math.nan}, TypeError),
        ({"window": 65_536.0}, TypeError),
        ({"max_concurrent_calls": 1.5}, TypeError),
        ({"idle_timeout": math.inf}, ValueError),
        ({"idle_timeout": math.nan}, ValueError),
        ({"keepalive_interval": None}, TypeError),
        ({"debug": "false"}, TypeError),  # as an environment variable would have it: true, were it not refused
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        aster.serve([Echo()], **options)


def test_a_short_idle_timeout_alone_does_not_lose_connections_that_are_merely_silent() -> None:
    assert EndpointOptions(idle_timeout=3.0).for_transport().keepalive == 1.0
    assert EndpointOptions(idle_timeout=3.0, keepalive_interval=0.5).for_transport().keepalive == 0.5


async def test_waiting_and_draining_before_the_block_say_where_they_belong(transport: Transport) -> None:
    server = aster.serve([Echo()], transport=transport)
    for act in (server.serve, server.drain):
        with pytest.raises(RuntimeError, match="inside `async with"):
            await act()


async def test_who_waits_in_another_task_is_let_go_when_the_block_is_left(transport: Transport) -> None:
    async with anyio.create_task_group() as group, aster.serve([Echo()], transport=transport) as server:
        group.start_soon(server.serve)
        await anyio.wait_all_tasks_blocked()


# Where and who


async def test_the_address_tells_who_and_then_where(running: Running) -> None:
    async with running(Echo()) as (server, client):
        host, port = server.address.rpartition("@")[2].split(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert server.address == f"aster://{server.endpoint_id}@{host}:{port}"
        assert len(server.endpoint_id) == 64
        assert client.endpoint_id != server.endpoint_id


async def test_two_endpoints_without_a_key_have_two_identities(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as one, aster.serve([Echo()], transport=transport) as two:
        assert one.endpoint_id != two.endpoint_id


async def test_there_is_no_address_before_the_block(transport: Transport) -> None:
    server = aster.serve([Echo()], transport=transport)
    with pytest.raises(RuntimeError, match=r"inside `async with aster\.serve"):
        _ = server.address


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
async def test_a_host_name_and_an_ipv6_address_can_be_listened_at(transport: Transport, host: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        if host == "[::1]":
            pytest.skip("this machine has no IPv6 loopback")
    async with aster.serve([Echo()], f"{host}:0", transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_advertise_sets_the_host_of_the_address(transport: Transport) -> None:
    async with aster.serve([Echo()], advertise="tasks.example", transport=transport) as server:
        assert "@tasks.example:" in server.address


async def test_a_wildcard_without_advertise_says_so_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport()
    async with aster.serve([Echo()], "0.0.0.0:0", advertise="tasks.example", transport=transport):
        assert caplog.records == []
    async with aster.serve([Echo()], "0.0.0.0:0", transport=transport):
        assert "advertise=" in caplog.text


async def test_an_address_in_use_is_an_os_error_and_leaves_the_first_server_alone(running: Running, transport: Transport) -> None:
    async with running(Echo()) as (server, client):
        with pytest.raises(OSError, match="in use"):
            async with aster.serve([Second()], server.address.rpartition("@")[2], transport=transport):
                pass
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_a_server_and_a_client_are_entered_once(transport: Transport) -> None:
    server = aster.serve([Echo()], transport=transport)
    async with server:
        with pytest.raises(RuntimeError, match="serves once"):
            await server.__aenter__()
        client = aster.connect(server.address, transport=transport)
        async with client:
            with pytest.raises(RuntimeError, match="connects once"):
                await client.__aenter__()
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)
        with pytest.raises(RuntimeError, match="connects once"):
            await client.__aenter__()
    with pytest.raises(RuntimeError, match="serves once"):
        await server.__aenter__()


async def test_a_key_file_keeps_the_identity_over_restarts(transport: Transport, tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "server.pem")
    Identity.generate().save(tmp_path / "client.pem")
    seen: set[tuple[str, str]] = set()

    @service
    class WhoIsThere:
        @rpc
        async def ask(self, item: Item) -> Item:
            return Item(text=aster.current_call().peer.endpoint_id)

    for _ in range(2):
        async with (
            aster.serve([WhoIsThere()], identity=tmp_path / "server.pem", transport=transport) as server,
            aster.connect(server.address, identity=str(tmp_path / "client.pem"), transport=transport) as client,
        ):
            who = await client.client(WhoIsThere)
            assert (await who.ask(Item())).text == client.endpoint_id
            seen.add((server.endpoint_id, client.endpoint_id))
    assert len(seen) == 1


# Connecting


@pytest.mark.parametrize("address", ["", "127.0.0.1:1", "aster://127.0.0.1:1", f"aster://{'0' * 63}@127.0.0.1:1", f"aster://{'5' * 64}@127.0.0.1"])
def test_a_malformed_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(AddressError) as caught:
        aster.connect(address)
    assert isinstance(caught.value, ValueError)


async def test_the_address_may_come_from_the_environment(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with aster.serve([Echo()], transport=transport) as server:
        monkeypatch.setenv("ASTER_ENDPOINT_ADDR", server.address)
        async with aster.connect(transport=transport) as client:
            assert await (await client.client(Echo)).same(Item(1)) == Item(1)


def test_a_missing_or_malformed_address_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASTER_ENDPOINT_ADDR", raising=False)
    with pytest.raises(AddressError, match="ASTER_ENDPOINT_ADDR"):
        aster.connect()
    monkeypatch.setenv("ASTER_ENDPOINT_ADDR", "nowhere")
    with pytest.raises(AddressError, match="ASTER_ENDPOINT_ADDR is set to a malformed address"):
        aster.connect()


async def test_a_place_where_nobody_listens_is_unreachable(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server:
        gone = server.address
    with pytest.raises(UnreachableError, match=gone.rpartition("@")[2]):
        async with aster.connect(gone, transport=transport):
            pass


async def test_a_place_that_never_answers_is_unreachable_once_the_connect_timeout_is_over() -> None:
    """It waits for as long as the timeout, which is why that is short here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"aster://{Identity.generate().endpoint_id}@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"within 0\.05 s"):
            async with aster.connect(address, transport=QuicTransport(), connect_timeout=0.05):
                pass


class _SilentTransport(MemoryTransport):
    async def connect(self, *_: object, **__: object) -> Any:
        await anyio.sleep_forever()


async def test_an_ipv6_server_that_never_answers_is_named_as_its_address_has_it() -> None:
    """It waits for as long as the timeout, which is why that is short here."""
    address = f"aster://{Identity.generate().endpoint_id}@[2001:db8::7]:4433"
    with pytest.raises(UnreachableError, match=r"^\[2001:db8::7\]:4433 did not complete"):
        async with aster.connect(address, transport=_SilentTransport(), connect_timeout=0.05):
            pass


async def test_a_server_with_another_key_than_the_addresss_is_an_identity_error(running: Running, transport: Transport) -> None:
    async with running(Echo()) as (server, client):
        wrong = server.address.replace(server.endpoint_id, Identity.generate().endpoint_id)
        with pytest.raises(IdentityError, match=server.endpoint_id):
            async with aster.connect(wrong, transport=transport):
                pass
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)


async def test_a_client_makes_no_stub_before_or_after_its_block(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport) as server:
        client = aster.connect(server.address, transport=transport)
        with pytest.raises(RuntimeError, match=r"async with aster\.connect"):
            await client.client(Echo)
        async with client:
            echo = await client.client(Echo)
        for call in (client.client(Echo), echo.same(Item())):
            with pytest.raises(RpcError) as caught:
                await call
            assert caught.value.code is StatusCode.UNAVAILABLE


async def test_an_exception_of_the_body_comes_out_bare(transport: Transport) -> None:
    with pytest.raises(LookupError) as caught:
        async with aster.serve([Echo()], transport=transport) as server, aster.connect(server.address, transport=transport):
            raise LookupError("mine")
    assert caught.value.args == ("mine",)


# What a handler finds


COLOUR: ContextVar[str] = ContextVar("colour", default="none")


@service
class Painter:
    """Tells the colour that it finds, and leaves another."""

    def __init__(self) -> None:
        self.calls: list[CallContext] = []

    @rpc
    async def paint(self, item: Item) -> Item:
        self.calls.append(aster.current_call())
        found = COLOUR.get()
        COLOUR.set(item.text)
        await anyio.lowlevel.checkpoint()
        assert COLOUR.get() == item.text
        return Item(text=found)

    @server_stream
    async def stripes(self, item: Item) -> AsyncIterator[Item]:
        for _ in range(2):
            yield Item(text=COLOUR.get())
            COLOUR.set(item.text)


async def test_each_handler_runs_in_a_fresh_copy_of_the_context_that_serve_had(transport: Transport) -> None:
    token = COLOUR.set("red")
    try:
        async with aster.serve([Painter()], transport=transport) as server:
            COLOUR.set("green")
            async with aster.connect(server.address, transport=transport) as client:
                COLOUR.set("blue")
                painter = await client.client(Painter)
                for _ in range(2):
                    assert (await painter.paint(Item(text="black"))).text == "red"
                    assert [item.text async for item in painter.stripes(Item(text="white"))] == ["red", "white"]
                assert COLOUR.get() == "blue"
    finally:
        COLOUR.reset(token)


async def test_a_request_iterable_runs_in_the_callers_context(running: Running) -> None:
    async def requests() -> AsyncIterator[Item]:
        yield Item(text=COLOUR.get())

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        token = COLOUR.set("violet")
        try:
            assert (await echo.total(requests())).text == "violet"
            assert [item.text async for item in echo.chat(requests())] == ["violet"]
        finally:
            COLOUR.reset(token)


async def test_the_current_call_tells_who_calls_what_and_until_when(running: Running) -> None:
    hosted = Painter()
    async with running(hosted) as (_, client):
        painter = aster.with_options(await client.client(Painter), metadata={"user": "ada"})
        await painter.paint(Item())
        before = anyio.current_time()
        await aster.with_options(painter, timeout=60).paint(Item())
        unlimited, limited = hosted.calls
        for call in (unlimited, limited):
            assert call.peer.endpoint_id == client.endpoint_id
            assert (call.service, call.version, call.method) == ("Painter", 1, "paint")
            assert call.metadata.get("user") == "ada"
            assert call.capabilities == frozenset()
        assert unlimited.deadline == math.inf
        assert before < limited.deadline <= anyio.current_time() + 60


async def test_there_is_no_current_call_outside_of_a_handler(running: Running) -> None:
    async with running(Painter()) as (_, client):
        await (await client.client(Painter)).paint(Item())
        with pytest.raises(RuntimeError, match="there is no current call"):
            aster.current_call()


async def test_a_handler_that_calls_another_server_keeps_its_own_call(transport: Transport) -> None:
    hosted = Painter()

    @service
    class Middle:
        def __init__(self, painter: Painter) -> None:
            self._painter = painter

        @rpc
        async def ask(self, item: Item) -> Item:
            mine = aster.current_call()
            await self._painter.paint(item)
            assert aster.current_call() is mine
            return Item(text=mine.service)

    async with aster.serve([hosted], transport=transport) as back, aster.connect(back.address, transport=transport) as to_back:
        middle = Middle(await to_back.client(Painter))
        async with aster.serve([middle], transport=transport) as front, aster.connect(front.address, transport=transport) as to_front:
            assert (await (await to_front.client(Middle)).ask(Item())).text == "Middle"
    assert hosted.calls[0].peer.endpoint_id == to_back.endpoint_id


# Services side by side, and apart from their interface


@service("Prices", version=1)
class PricesOne:
    @rpc
    async def of(self, item: Item) -> Item:
        return Item(1)


@service("Prices", version=2)
class PricesTwo:
    @rpc
    async def of(self, item: Item) -> Item:
        return Item(2)


async def test_two_versions_of_a_service_are_served_side_by_side(running: Running) -> None:
    async with running(PricesOne(), PricesTwo()) as (_, client):
        assert (await (await client.client(PricesOne)).of(Item())).number == 1
        assert (await (await client.client(PricesTwo)).of(Item())).number == 2


async def test_two_services_share_a_server(running: Running) -> None:
    async with running(Echo(), Second()) as (_, client):
        assert (await (await client.client(Echo)).same(Item(3))).number == 3
        assert (await (await client.client(Second)).negative(Item(3))).number == -3


@service("Shapes")
class Shapes(ABC):
    """The interface: what a client imports."""

    @rpc
    @abstractmethod
    async def area(self, item: Item) -> Item: ...

    @server_stream
    async def corners(self, item: Item) -> AsyncIterator[Item]:
        yield Item(0)


class Squares(Shapes):
    async def area(self, item: Item) -> Item:  # pyright: ignore[reportIncompatibleVariableOverride] (undecorated, which Aster allows)
        return Item(item.number**2)

    async def corners(self, item: Item) -> AsyncIterator[Item]:  # pyright: ignore[reportIncompatibleVariableOverride] (as above)
        for corner in range(4):
            yield Item(corner)


async def test_an_implementation_is_served_under_its_interface(running: Running) -> None:
    async with running(Squares()) as (_, client):
        for interface in (Shapes, Squares):
            shapes = await client.client(interface)
            assert isinstance(shapes, interface)
            assert (await shapes.area(Item(5))).number == 25
            assert await numbers_of(aiter(shapes.corners(Item()))) == [0, 1, 2, 3]


async def test_an_override_of_another_signature_is_a_type_error_at_serve() -> None:
    class Broken(Shapes):
        async def area(self, item: Item, unit: str) -> Item:  # pyright: ignore[reportIncompatibleVariableOverride] (that is the mistake)
            return item

    with pytest.raises(TypeError, match=r"Broken\.area"):
        aster.serve([Broken()])


# A service's own resources


@service
class Resourceful:
    """Is open as long as it may be called."""

    def __init__(self, log: list[str], name: str = "service", fail: bool = False) -> None:
        self._log = log
        self._name = name
        self._fail = fail
        self.begun = anyio.Event()
        self.go_on = anyio.Event()

    async def __aenter__(self) -> Resourceful:
        if self._fail:
            raise LookupError("no database")
        await anyio.lowlevel.checkpoint()
        self._log.append(f"{self._name} entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        # A cancelled server leaves its services as any cancelled block leaves its context managers: what awaits must shield itself.
        self._log.append(f"{self._name} left")
        await anyio.lowlevel.checkpoint()

    @rpc
    async def work(self, item: Item) -> Item:
        self._log.append("call began")
        self.begun.set()
        try:
            await self.go_on.wait()
        finally:
            self._log.append("call ended")
        return item


class _WatchedTransport(MemoryTransport):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self._log = log

    async def listen(self, *args: Any, **kwargs: Any) -> Any:
        self._log.append("listening")
        return await super().listen(*args, **kwargs)


async def test_a_service_that_is_a_context_manager_is_entered_before_listening_and_left_after_the_drain() -> None:
    log: list[str] = []
    transport, hosted = _WatchedTransport(log), Resourceful(log)
    results: list[Item] = []

    async def call(address: str) -> None:
        async with aster.connect(address, transport=transport) as client:
            results.append(await (await client.client(Resourceful)).work(Item(1)))

    async with anyio.create_task_group() as group, aster.serve([hosted], transport=transport) as server:
        group.start_soon(call, server.address)
        await hosted.begun.wait()
        group.start_soon(_set_when_blocked, hosted.go_on)
    assert log == ["service entered", "listening", "call began", "call ended", "service left"]
    assert results == [Item(1)]


async def _set_when_blocked(event: anyio.Event) -> None:
    await anyio.wait_all_tasks_blocked()
    event.set()


async def test_a_service_is_left_when_the_server_is_cancelled(transport: Transport) -> None:
    log: list[str] = []
    with anyio.CancelScope() as scope:
        async with aster.serve([Resourceful(log)], transport=transport):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["service entered", "service left"]


async def test_services_that_were_entered_are_left_in_reverse_when_a_later_one_fails(transport: Transport) -> None:
    log: list[str] = []

    @service
    class Other(Resourceful):
        @rpc
        async def more(self, item: Item) -> Item:
            return item

    @service
    class Third(Resourceful):
        @rpc
        async def most(self, item: Item) -> Item:
            return item

    with pytest.raises(LookupError, match="no database"):
        async with aster.serve([Resourceful(log, "one"), Other(log, "two"), Third(log, fail=True)], transport=transport):
            raise AssertionError
    assert log == ["one entered", "two entered", "two left", "one left"]


async def test_a_service_is_left_when_listening_fails(running: Running, transport: Transport) -> None:
    log: list[str] = []
    async with running(Echo()) as (server, _):
        with pytest.raises(OSError, match="in use"):
            async with aster.serve([Resourceful(log)], server.address.rpartition("@")[2], transport=transport):
                raise AssertionError
    assert log == ["service entered", "service left"]
