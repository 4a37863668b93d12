"""What a server does not have is refused by name: service, version, method and mode are told apart, and the message says what there is instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import pytest

import aster
from aster import RpcError, RpcPattern, SerializationMode, StatusCode
from aster._protocol.events import Header, Target, TrailerOrigin
from aster._protocol.frames import encode_message
from aster.decorators import rpc, server_stream, service
from aster.transports.base import Stream, Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import unchecked
from tests.rpc.raw import END, manifest_of, raw_client, raw_server, target_of

pytestmark = pytest.mark.anyio


@service("Nowhere")
class Nowhere:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


@service("Echo", version=7)
class EchoSeven:
    @rpc
    async def same(self, item: Item) -> Item:
        return Item(7)


@service("Echo")
class EchoOfTomorrow:
    """What a newer client takes for version 1 of ``Echo``."""

    @rpc
    async def same(self, item: Item) -> Item:
        return item

    @rpc
    async def better(self, item: Item) -> Item:
        return item

    @server_stream
    async def best(self, item: Item) -> AsyncIterator[Item]:
        yield item


@service("Echo")
class EchoOfAnotherShape:
    """What a client with a mistaken interface takes for ``Echo``."""

    @server_stream
    async def same(self, item: Item) -> AsyncIterator[Item]:
        yield item


@service("Echo", serialization=SerializationMode.NATIVE)
class NativeEcho:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


async def refusal(of: Awaitable[object]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await of
    return caught.value


# At the client


async def test_a_client_is_told_at_once_which_services_there_are_instead(running: Running) -> None:
    async with running(Echo(), EchoSeven()) as (_, client):
        error = await refusal(client.client(Nowhere))
        assert error.code is StatusCode.UNIMPLEMENTED
        assert error.message == "the server has no service 'Nowhere'; it has 'Echo' (version 1), 'Echo' (version 7): serve it too, or correct the name"


async def test_a_client_is_told_at_once_which_versions_there_are_instead(running: Running) -> None:
    async with running(Echo()) as (_, client):
        error = await refusal(client.client(EchoSeven))
        assert error.code is StatusCode.UNIMPLEMENTED
        assert error.message == "the server has no version 7 of service 'Echo'; it has 1: update the older side, or serve both versions"


async def test_a_call_of_an_unknown_method_names_the_methods_that_there_are(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await unchecked(client, EchoOfTomorrow)
        for call in (echo.better(Item()), numbers_of(echo.best(Item()))):
            error = await refusal(call)
            assert error.code is StatusCode.UNIMPLEMENTED
            assert "it has same, nothing, count, total, chat: update the server" in error.message
        assert await echo.same(Item(1)) == Item(1)


async def test_a_call_in_a_mode_that_the_server_does_not_allow_names_the_modes_that_it_does(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await unchecked(client, NativeEcho)
        error = await refusal(echo.same(Item()))
        assert error.code is StatusCode.UNIMPLEMENTED
        assert "does not allow the serialization mode NATIVE for 'same'; it allows XLANG: call in one of those" in error.message


async def test_a_call_of_another_pattern_than_the_servers_names_both(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await unchecked(client, EchoOfAnotherShape)
        error = await refusal(numbers_of(echo.same(Item())))
        assert error.code is StatusCode.FAILED_PRECONDITION
        assert "UNARY" in error.message
        assert "SERVER_STREAM" in error.message


@pytest.mark.parametrize(
    ("interface", "difference"),
    [
        (EchoOfAnotherShape, "same: it is SERVER_STREAM at the client and UNARY at the server"),
        (NativeEcho, "same: the client has the modes NATIVE, and the server XLANG; give them one in common by serialization="),
        (EchoOfTomorrow, "best: the server has no such method\n- better: the server has no such method"),
    ],
)
async def test_a_client_that_compares_is_told_of_such_methods_before_it_calls_any(running: Running, interface: type[object], difference: str) -> None:
    async with running(Echo()) as (_, client):
        error = await refusal(client.client(interface))
        assert error.code is StatusCode.FAILED_PRECONDITION
        assert error.message.partition(":\n- ")[2] == difference


async def test_what_is_no_service_class_is_no_rpc_error(running: Running) -> None:
    async with running(Echo()) as (_, client):
        with pytest.raises(TypeError, match="@service"):
            await client.client(Item)
        with pytest.raises(TypeError, match="not an instance of Echo"):
            await client.client(Echo())  # pyright: ignore[reportArgumentType, reportCallIssue] (callers without a type checker)


# At the server, to a peer that asks without looking


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            target_of("same", service="Nowhere"),
            "there is no service 'Nowhere' here; this server has 'Echo' (version 1), 'Echo' (version 7): serve it too, or correct the name",
        ),
        (target_of("same", version=2), "service 'Echo' has no version 2 here; it has 1, 7: update the older side, or serve both versions"),
        (
            target_of("worst"),
            "service 'Echo' version 1 has no method 'worst'; it has same, nothing, count, total, chat: update the server, or correct the name",
        ),
        (
            target_of("same", mode=SerializationMode.ROW),
            "service 'Echo' version 1 does not allow the serialization mode ROW for 'same'; it allows XLANG: call in one of those, or allow it there",
        ),
    ],
    ids=["service", "version", "method", "mode"],
)
@pytest.mark.parametrize("frames", [b"", END, encode_message(b"anything") + END], ids=["header", "no request", "a request"])
async def test_a_server_says_itself_what_it_does_not_have(running: Running, transport: Transport, asked: Target, answer: str, frames: bytes) -> None:
    async with running(Echo(), EchoSeven()) as (server, client), raw_client(server.address, transport) as raw:
        trailer = await raw.outcome_of(asked, frames)
        assert (trailer.status, trailer.origin, trailer.message) == (StatusCode.UNIMPLEMENTED, TrailerOrigin.REFUSED, answer)
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


@pytest.mark.parametrize("pattern", [pattern for pattern in RpcPattern if pattern is not RpcPattern.UNARY])
async def test_a_server_refuses_a_pattern_that_is_not_the_methods(running: Running, transport: Transport, pattern: RpcPattern) -> None:
    async with running(Echo()) as (server, _), raw_client(server.address, transport) as raw:
        trailer = await raw.outcome_of(target_of("same", pattern=pattern), encode_message(b"") + END)
        assert (trailer.status, trailer.origin) == (StatusCode.FAILED_PRECONDITION, TrailerOrigin.REFUSED)
        assert "UNARY" in trailer.message
        assert pattern.name in trailer.message


async def test_the_hello_lists_services_versions_methods_patterns_and_modes(running: Running, transport: Transport) -> None:
    async with running(Echo(), EchoSeven()) as (server, _), raw_client(server.address, transport) as raw:
        assert raw.hello.services == (manifest_of(Echo), manifest_of(EchoSeven))


async def test_a_server_without_services_is_named_as_such(transport: Transport) -> None:
    def answer(stream: Stream, header: Header) -> None:
        raise AssertionError(header)

    async with raw_server((), transport, answer) as address, aster.connect(address, transport=transport) as client:
        error = await refusal(client.client(Echo))
        assert error.message == "the server has no service 'Echo'; it has none: serve it too, or correct the name"
