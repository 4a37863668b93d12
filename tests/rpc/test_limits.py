"""What a server does about more clients than it takes, and about those that connect and say nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

import anyio
import pytest

import aster
from aster._endpoint import EndpointOptions
from aster.testing.orphans import live_connections
from aster.transports.base import ConnectionOptions, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from aster.transports.quic.admission import Admission
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import backend_for, until
from tests.rpc.raw import HELLO, RawStream, raw_connection

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> tuple[str, dict[str, Any]]:
    """Virtual time over memory; over QUIC packets come in real time."""
    return backend_for(request.param, transport)


async def _works(client: aster.AsterClient) -> None:
    tasks = await client.client(Echo)
    assert await tasks.same(Item(1)) == Item(1)


async def test_a_client_above_max_connections_is_refused_and_disturbs_nobody(running: Running, transport: Transport) -> None:
    async with running(Echo(), max_connections=2) as (server, first), aster.connect(server.address, transport=transport) as second:
        for _ in range(3):
            with pytest.raises(aster.RefusedError, match="refused this client: the server is at its max_connections of 2"):
                await aster.connect(server.address, transport=transport).__aenter__()
        await _works(first)
        await _works(second)


async def test_a_place_is_free_again_once_its_client_is_gone(running: Running, transport: Transport) -> None:
    async with running(Echo(), max_connections=2) as (server, first):
        for _ in range(5):
            async with aster.connect(server.address, transport=transport) as second:
                await _works(second)
                gone = second.endpoint_id
            await until(lambda gone=gone: all(connection.peer.endpoint_id != gone for connection in live_connections()))
        await _works(first)


@pytest.mark.parametrize("transport", [QuicTransport()], ids=["quic"])
async def test_a_client_above_max_connections_per_address_is_refused(running: Running, transport: Transport) -> None:
    async with running(Echo(), max_connections_per_address=2) as (server, first), aster.connect(server.address, transport=transport):
        with pytest.raises(aster.RefusedError, match="the server is at its max_connections_per_address of 2 for this client's address"):
            await aster.connect(server.address, transport=transport).__aenter__()
        await _works(first)


# Over memory: seventy handshakes take a second of a processor, which is a long time on a busy machine. What QUIC counts is asked below.
@pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])
async def test_a_server_takes_many_clients_by_default(running: Running, transport: Transport) -> None:
    async with running(Echo()) as (server, _), AsyncExitStack() as stack:
        for _ in range(70):
            await stack.enter_async_context(aster.connect(server.address, transport=transport))


def test_over_quic_a_server_has_room_for_1024_clients_of_an_address_and_4096_in_all_by_default() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(aster.serve).parameters.items()}
    options = EndpointOptions(**{field.name: defaults[field.name] for field in fields(EndpointOptions)})
    door = Admission(options.for_transport())
    for number in range(4_096):
        addr = (f"10.0.0.{number // 1_024}", number)
        assert not door.full(addr)
        door.connect(door.begin(addr, 0.0, proved=True), addr)
        if number == 1_023:
            assert "max_connections_per_address of 1024" in door.full(addr)
    assert "max_connections of 4096" in door.full(("10.0.0.9", 1))


@pytest.mark.parametrize("option", ["max_connections", "max_connections_per_address"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)])
def test_a_number_of_connections_is_a_positive_whole_number(option: str, value: object, error: type[Exception], transport: Transport) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(error, match=option):
        aster.serve([Echo()], transport=transport, **options)


# The hello


Impatient = Callable[[], AbstractContextManager[float]]


@pytest.fixture
def impatient(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Impatient:
    """``with impatient() as seconds``: how long a client that comes meanwhile has for its hello. Short over QUIC, where time is real.

    Honest clients connect outside of it: a busy machine may not get them through their handshakes in so short a time.
    """

    @contextmanager
    def meanwhile() -> Generator[float]:
        if isinstance(transport, MemoryTransport):
            yield ConnectionOptions().handshake_timeout
            return
        for_transport = EndpointOptions.for_transport

        def short(self: EndpointOptions) -> ConnectionOptions:
            return replace(for_transport(self), handshake_timeout=0.3)

        with monkeypatch.context() as patch:
            patch.setattr(EndpointOptions, "for_transport", short)
            yield 0.3

    return meanwhile


@pytest.mark.parametrize("said", [b"", HELLO[:1], HELLO[:-1]], ids=["nothing", "one byte", "all but one byte"])
async def test_a_client_that_stops_within_its_hello_is_closed_once_its_time_is_over(
    running: Running, transport: Transport, impatient: Impatient, said: bytes
) -> None:
    async with running(Echo()) as (server, honest):
        with impatient() as timeout:
            async with raw_connection(server.address, transport) as (connection, owner):
                began = anyio.current_time()
                connection.open_stream(RawStream()).write(said)
                await owner.lost.wait()
                assert "no HELLO in time" in owner.why
                if isinstance(transport, MemoryTransport):
                    assert anyio.current_time() - began == pytest.approx(timeout)
        await _works(honest)


async def test_a_hello_that_trickles_in_does_not_get_more_time(running: Running, transport: Transport, impatient: Impatient) -> None:
    async with running(Echo()) as (server, honest):
        with impatient() as timeout:
            async with raw_connection(server.address, transport) as (connection, owner):
                began = anyio.current_time()
                stream = connection.open_stream(RawStream())
                for index in range(len(HELLO) - 1):
                    stream.write(HELLO[index : index + 1])
                    with anyio.move_on_after(timeout / 3):
                        await owner.lost.wait()
                        break
                assert "no HELLO in time" in owner.why
                if isinstance(transport, MemoryTransport):
                    assert anyio.current_time() - began == pytest.approx(timeout)
        await _works(honest)


async def test_a_client_that_never_says_hello_keeps_its_place_no_longer_than_that(running: Running, transport: Transport, impatient: Impatient) -> None:
    async with running(Echo(), max_connections=2) as (server, _):
        with impatient():
            async with raw_connection(server.address, transport) as (_, owner):
                if isinstance(transport, MemoryTransport):  # over QUIC its time may be over before a slow machine has made another connection
                    with pytest.raises(aster.RefusedError):
                        await aster.connect(server.address, transport=transport).__aenter__()
                await owner.lost.wait()
        async with aster.connect(server.address, transport=transport) as client:
            await _works(client)
