"""Bad input, whoever gives it: each has one documented exception, in time, and the server goes on serving the others."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import aster
from aster import AddressError, ConnectError, Identity, IdentityError, IncompatiblePeerError, RefusedError, RpcError, StatusCode, UnreachableError
from aster._protocol.events import Hello, Setting
from aster._protocol.frames import FrameKind, encode_frame, encode_hello
from aster.decorators import rpc, service
from aster.errors import AsterError
from aster.transports.base import Connection, Stream, StreamSink, Transport
from aster.transports.quic import QuicTransport
from tests.quic.raw import RawPeer, raw_configuration
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.probes import error_of, unchecked
from tests.rpc.raw import RawStream, raw_listener

pytestmark = pytest.mark.anyio

SHORT = 0.3
"""Seconds of a connect timeout that is meant to expire. On a slow machine the others must not, so they keep the default."""

_ERRORS = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def _documented() -> list[re.Pattern[str]]:
    """The messages in the reference of errors; an ellipsis there stands for what a message names."""
    cells = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", _ERRORS.read_text("utf-8"), re.MULTILINE)
    return [re.compile(".+?".join(map(re.escape, cell.split("…"))), re.DOTALL) for cell in cells]


def assert_documented(error: BaseException) -> None:
    text = error.message if isinstance(error, RpcError) else str(error)
    assert any(message.search(text) for message in _documented()), f"the reference has no row for: {text}"


@asynccontextmanager
async def neighbour(running: Running) -> AsyncGenerator[aster.AsterServer]:
    """A server that serves another client before and after the block."""
    async with running(Echo()) as (server, client):
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)
        yield server
        assert await echo.same(Item(2)) == Item(2)


async def error_of_connecting(address: str, transport: Transport, **options: Any) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        async with aster.connect(address, transport=transport, **options):
            raise AssertionError
    assert_documented(caught.value)
    return caught.value


async def error_of_calling(call: Awaitable[object]) -> RpcError:
    error = await error_of(call)
    assert_documented(error)
    return error


# Addresses

_ID = "e3" * 32


@pytest.mark.parametrize(
    "address",
    ["", "tasks", "127.0.0.1:4433", "aster://127.0.0.1:4433", "aster://e3@127.0.0.1:4433", f"aster://{'zz' * 32}@127.0.0.1:1", f"http://{_ID}@127.0.0.1:1"],
)
def test_a_malformed_address_is_an_address_error_that_says_to_copy_the_servers(address: str) -> None:
    with pytest.raises(AddressError, match=re.escape("expected aster://<64 hex digits>@host:port; copy server.address whole")) as caught:
        aster.connect(address)
    assert_documented(caught.value)


def test_an_address_that_is_no_text_is_refused_with_the_remedy() -> None:
    server: Any = aster.serve([Echo()])
    with pytest.raises(TypeError, match=r"an address must be a str, as server\.address is, not AsterServer"):
        aster.connect(server)
    for option in ("listen", "advertise"):
        wrong: Any = {option: 4433}
        with pytest.raises(TypeError, match=f"{option} must be a str, not int; expected"):
            aster.serve([Echo()], **wrong)


@pytest.mark.parametrize("advertise", ["", "a b", "tasks.example:80", "[::1]", "256.0.0.1"])
def test_a_malformed_host_to_advertise_is_refused_before_anything_is_opened(advertise: str) -> None:
    with pytest.raises(AddressError, match=r"^advertise: .* expected a host alone") as caught:
        aster.serve([Echo()], advertise=advertise)
    assert_documented(caught.value)


def test_a_service_that_is_in_no_list_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"services takes a list of instances, not Echo: write services=\[\.\.\.\]"):
        aster.serve(Echo())  # pyright: ignore[reportArgumentType] (that is the mistake)


# Places


async def test_a_port_nobody_listens_on_is_unreachable_at_once(running: Running, transport: Transport) -> None:
    async with neighbour(running):
        async with aster.serve([Echo()], transport=transport) as server:
            gone = server.address
        error = await error_of_connecting(gone, transport, connect_timeout=3600)
        assert isinstance(error, UnreachableError)
        assert gone.rpartition("@")[2] in str(error)


async def test_a_peer_with_another_key_than_the_addresss_is_an_identity_error_at_once(running: Running, transport: Transport) -> None:
    async with neighbour(running) as server:
        expected = Identity.generate().endpoint_id
        error = await error_of_connecting(server.address.replace(server.endpoint_id, expected), transport, connect_timeout=3600)
        assert isinstance(error, IdentityError)
        assert f"proved {server.endpoint_id}, where {expected} was expected" in str(error)
        assert "server.address" in str(error)


def _repeat(data: bytes) -> list[bytes]:
    return [data]


def _garbage(data: bytes) -> list[bytes]:
    return [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(256)) * 4, data[::-1]]


def _nothing(data: bytes) -> list[bytes]:
    return []


@pytest.mark.parametrize("answer", [_repeat, _garbage, _nothing])
async def test_a_datagram_server_of_another_protocol_is_unreachable_within_the_connect_timeout(answer: Callable[[bytes], list[bytes]]) -> None:
    async with anyio.create_task_group() as group:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)

            async def serve() -> None:
                while True:
                    await anyio.wait_readable(sock)
                    data, sender = sock.recvfrom(65_535)
                    for reply in answer(data):
                        sock.sendto(reply, sender)

            group.start_soon(serve)
            address = f"aster://{Identity.generate().endpoint_id}@127.0.0.1:{sock.getsockname()[1]}"
            error = await error_of_connecting(address, QuicTransport(), connect_timeout=SHORT)
            assert isinstance(error, UnreachableError)
            assert "check that the server runs there" in str(error)
            group.cancel_scope.cancel()


@pytest.mark.parametrize("protocols", [["h3"], None], ids=["http", "none"])
async def test_a_quic_server_of_another_protocol_is_incompatible_at_once(protocols: list[str] | None) -> None:
    identity = Identity.generate()
    async with anyio.create_task_group() as group:
        with closing(RawPeer(raw_configuration(is_client=False, identity=identity, alpn_protocols=protocols))) as raw:
            group.start_soon(raw.run, lambda: False)
            error = await error_of_connecting(f"aster://{identity.endpoint_id}@127.0.0.1:{raw.port}", QuicTransport())
            assert isinstance(error, IncompatiblePeerError)
            assert "check that an Aster server listens there" in str(error)
            group.cancel_scope.cancel()


# Servers that begin as Aster's do, and go on otherwise


class _Owner:
    """A server's end of a connection, whose every stream answers the first bytes that come with the same ones."""

    def __init__(self, connection: Connection, answer: bytes | None) -> None:
        self._connection = connection
        self._answer = answer

    def stream_opened(self, stream: Stream) -> StreamSink:
        return RawStream(lambda: self._reply(stream))

    def _reply(self, stream: Stream) -> None:
        if self._answer is None:
            self._connection.close(77, "not today")
        else:
            stream.write(self._answer)

    def streams_available(self) -> None:
        """It opens none."""

    def connection_lost(self, error: AsterError) -> None:
        """Then it has nothing left to do."""


@asynccontextmanager
async def _server_that_answers(answer: bytes | None, transport: Transport) -> AsyncGenerator[str]:
    """The address of a server that answers a hello with some bytes, or with the end of the connection."""
    async with raw_listener(transport, lambda connection: _Owner(connection, answer)) as address:
        yield address


_SETTINGS: dict[int, int] = {Setting.WINDOW: 1 << 16, Setting.MESSAGE_LIMIT: 1 << 16, Setting.METADATA_LIMIT: 1 << 10, Setting.CALL_LIMIT: 10}


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (bytes(50), IncompatiblePeerError, "does not speak this protocol"),
        (encode_frame(FrameKind.END, b""), IncompatiblePeerError, "does not speak this protocol"),
        (encode_frame(FrameKind.GO_AWAY, b"\x00\x00"), RefusedError, "it does not say why"),
        (encode_frame(FrameKind.GO_AWAY, b"\x00\x00") + encode_hello(Hello((1,), _SETTINGS)), RefusedError, "it does not say why"),
        (encode_hello(Hello((1,), {})), IncompatiblePeerError, "does not speak this protocol"),
        (encode_hello(Hello((77,), _SETTINGS)), IncompatiblePeerError, "speaks version 77 of the protocol, this client version 1; update the older of the two"),
        (None, RefusedError, "not today"),
    ],
    ids=["zeros", "another frame", "a go-away", "a go-away before it", "no limits", "another version", "a close"],
)
async def test_a_server_whose_hello_makes_no_sense_is_told_apart_at_once(
    transport: Transport, answer: bytes | None, expected: type[ConnectError], says: str
) -> None:
    async with _server_that_answers(answer, transport) as address:
        error = await error_of_connecting(address, transport)
        assert type(error) is expected
        assert says in str(error)


# The text reads as the beginning of an extension's frame, whose end the client waits for.
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["nothing", "text"])
async def test_a_server_that_never_says_hello_is_unreachable_within_the_connect_timeout(transport: Transport, answer: bytes) -> None:
    async with _server_that_answers(answer, transport) as address:
        error = await error_of_connecting(address, transport, connect_timeout=SHORT)
        assert isinstance(error, UnreachableError)


# What comes to a server


async def test_garbage_datagrams_disturb_neither_the_server_nor_its_clients() -> None:
    transport = QuicTransport()
    async with aster.serve([Echo()], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        echo = await client.client(Echo)
        port = int(server.address.rpartition(":")[2])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for count in range(256):
                sock.sendto(bytes([count]) * (count * 6), ("127.0.0.1", port))
                if count % 32 == 0:  # or the socket's buffer would drop most of them
                    assert await echo.same(Item(count)) == Item(count)
        async with aster.connect(server.address, transport=transport) as another:
            assert await (await another.client(Echo)).same(Item(1)) == Item(1)


@service("Missing")
class MissingService:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


@service("Echo", version=2)
class MissingVersion:
    @rpc
    async def same(self, item: Item) -> Item:
        return item


@service("Echo")
class MissingMethod:
    @rpc
    async def missing(self, item: Item) -> Item:
        return item


@service("Echo")
class AnotherRequest:
    """Sends the type of message that ``nothing`` takes to ``same``."""

    @rpc
    async def same(self, nothing: Nothing) -> Nothing:
        return nothing


async def test_what_the_server_does_not_have_is_unimplemented_and_says_what_to_do(running: Running, transport: Transport) -> None:
    async with neighbour(running) as server, aster.connect(server.address, transport=transport) as client:
        for missing in (MissingService, MissingVersion):
            error = await error_of_calling(client.client(missing))
            assert error.code is StatusCode.UNIMPLEMENTED
            assert ": serve it too, or" in error.message or ": update the older side, or" in error.message
        error = await error_of_calling((await unchecked(client, MissingMethod)).missing(Item()))
        assert error.code is StatusCode.UNIMPLEMENTED
        assert ": update the server, or" in error.message


async def test_a_request_of_a_type_that_the_server_does_not_expect_is_an_invalid_argument(running: Running, transport: Transport) -> None:
    async with neighbour(running) as server, aster.connect(server.address, transport=transport) as client:
        error = await error_of_calling((await unchecked(client, AnotherRequest)).same(Nothing()))
        assert error.code is StatusCode.INVALID_ARGUMENT
        assert "a request of Echo.same cannot be decoded" in error.message


async def test_a_request_of_a_type_that_the_client_does_not_declare_is_a_type_error_that_names_it(running: Running, transport: Transport) -> None:
    wrong: Any = {"another class": Nothing(), "a field": Item(number="1")}  # pyright: ignore[reportArgumentType] (that is the mistake)
    async with neighbour(running) as server, aster.connect(server.address, transport=transport) as client:
        echo = await client.client(Echo)
        for value, says in ((wrong["another class"], "this call expects a Item, not a Nothing"), (wrong["a field"], r"Item\.number must be int, not str")):
            with pytest.raises(TypeError, match=says) as caught:
                await echo.same(value)
            assert_documented(caught.value)
        assert await echo.same(Item(3)) == Item(3)
