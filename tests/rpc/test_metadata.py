"""What travels beside the messages: metadata at the start, trailers at the end, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import CallContext, Metadata, RpcError, StatusCode
from aster._protocol.events import Header, Trailer, TrailerOrigin
from aster._protocol.frames import encode_message, encode_metadata, encode_trailer
from aster._protocol.values import METADATA_ENTRY_CHARGE, metadata_size
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.types import MetadataLike
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import error_of
from tests.rpc.raw import END, manifest_of, raw_client, raw_server, target_of

pytestmark = pytest.mark.anyio

RICH = Metadata(
    [
        ("trace-id", "4bf92f3577b34da6"),
        ("Tag", "one"),
        ("tag", "two"),
        ("tag", "one"),
        ("blob.bin", bytes(range(256))),
        ("empty", ""),
        ("none", b""),
        ("text", " ü\n日本語\U0001f600 "),
    ]
)
METHODS = ["single", "stream", "collect", "talk"]


@service
class Mirror:
    """Sends the metadata that it was sent back, ahead of its one response and after it; fails when the number is not zero."""

    def __init__(self) -> None:
        self.seen: list[CallContext] = []

    def _mirror(self, item: Item) -> None:
        call = aster.current_call()
        self.seen.append(call)
        call.send_metadata(call.metadata)
        for key, value in call.metadata:
            call.add_trailer(key, value)
        if item.number:
            raise RpcError(StatusCode.ABORTED)

    @rpc
    async def single(self, item: Item) -> Item:
        self._mirror(item)
        return item

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        self._mirror(item)
        yield item

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        item = await anext(items)
        self._mirror(item)
        return item

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        item = await anext(items)
        self._mirror(item)
        yield item


def start(stub: Mirror, method: str) -> aster.InteractiveCall[Item, Item]:
    return aster.open_call(getattr(stub, method))


def of_size(size: int) -> Metadata:
    """One entry that counts exactly ``size`` bytes."""
    return Metadata({"k": "v" * (size - METADATA_ENTRY_CHARGE - 1)})


# What arrives


@pytest.mark.parametrize("method", METHODS)
async def test_metadata_and_trailers_arrive_on_success(running: Running, method: str) -> None:
    mirror = Mirror()
    async with running(mirror) as (_, client):
        stub = aster.with_options(await client.client(Mirror), metadata=RICH)
        async with start(stub, method) as call:
            assert call.metadata == call.trailers == Metadata()
            await call.send(Item())
            assert await call.receive() == Item()
            assert call.metadata == RICH
            with pytest.raises(anyio.EndOfStream):
                await call.receive()
            assert call.trailers == RICH
    (seen,) = mirror.seen
    assert seen.metadata == RICH
    assert seen.metadata.get_all("tag") == ["one", "two", "one"]
    assert list(seen.metadata)[4] == ("blob.bin", bytes(range(256)))


@pytest.mark.parametrize("method", METHODS)
async def test_metadata_and_trailers_arrive_on_an_error(running: Running, method: str) -> None:
    async with running(Mirror()) as (_, client):
        stub = aster.with_options(await client.client(Mirror), metadata=RICH)
        async with start(stub, method) as call:
            await call.send(Item(1))
            error = await error_of(call.receive())
            assert (error.code, error.trailers) == (StatusCode.ABORTED, RICH)
            assert call.metadata == call.trailers == RICH


async def test_a_plain_call_gives_the_trailers_of_its_error(running: Running) -> None:
    async with running(Mirror()) as (_, client):
        stub = aster.with_options(await client.client(Mirror), metadata=RICH)
        assert (await error_of(stub.single(Item(1)))).trailers == RICH
        assert (await error_of(stub.collect([Item(1)]))).trailers == RICH
        assert (await error_of(numbers_of(stub.stream(Item(1))))).trailers == RICH


async def test_a_response_stream_shows_metadata_from_the_first_response_on_and_trailers_after_the_last(running: Running) -> None:
    async with running(Mirror()) as (_, client):
        stub = aster.with_options(await client.client(Mirror), metadata=RICH)
        for stream in (stub.stream(Item()), stub.talk([Item()])):
            assert stream.metadata == stream.trailers == Metadata()
            assert await anext(stream) == Item()
            assert stream.metadata == RICH
            assert await numbers_of(stream) == []
            assert stream.trailers == RICH


async def test_metadata_arrives_before_the_first_response_is_ready(running: Running) -> None:
    """It is for what a caller wants to know while it waits."""
    go_on = anyio.Event()

    @service
    class Slow:
        @server_stream
        async def stream(self, item: Item) -> AsyncIterator[Item]:
            aster.current_call().send_metadata({"accepted": "yes"})
            await go_on.wait()
            yield item

    async with running(Slow()) as (_, client):
        slow = await client.client(Slow)
        async with aster.open_call(slow.stream) as call:
            await call.send(Item())
            while not call.metadata:
                await anyio.lowlevel.checkpoint()
            assert call.metadata.get("accepted") == "yes"
            go_on.set()
            assert await call.receive() == Item()


async def test_the_trailers_of_a_bug_arrive_too(running: Running) -> None:
    @service
    class Buggy:
        @rpc
        async def single(self, item: Item) -> Item:
            aster.current_call().add_trailer("step", "two")
            raise ZeroDivisionError

    async with running(Buggy()) as (_, client):
        error = await error_of((await client.client(Buggy)).single(Item()))
        assert (error.code, error.trailers) == (StatusCode.INTERNAL, Metadata({"step": "two"}))


TEXTS = st.text(max_size=40)
KEYS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda key: not key.startswith("aster-"))
PAIRS = st.lists(st.tuples(KEYS, st.one_of(TEXTS, st.binary(max_size=40))), max_size=20)


@settings(max_examples=30)
@given(metadata=PAIRS.map(Metadata))
async def test_any_metadata_arrives_as_it_was_given(metadata: Metadata) -> None:
    transport, mirror = MemoryTransport(), Mirror()
    async with aster.serve([mirror], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        stub = aster.with_options(await client.client(Mirror), metadata=metadata)
        assert ((await error_of(stub.single(Item(1)))).trailers or Metadata()) == metadata
        assert mirror.seen[0].metadata == metadata


# Options of a stub


async def test_with_options_sends_metadata_with_each_call_of_the_copy_only(running: Running) -> None:
    mirror = Mirror()
    async with running(mirror) as (_, client):
        plain = await client.client(Mirror)
        given: list[MetadataLike] = [{"user": "ada"}, [("user", "ada"), ("user", b"lovelace")], Metadata({"USER": "ada"}), {}]
        for metadata in given:
            await aster.with_options(plain, metadata=metadata).single(Item())
            assert mirror.seen.pop().metadata == Metadata(metadata)
        await plain.single(Item())
        assert mirror.seen.pop().metadata == Metadata()
        tagged = aster.with_options(plain, metadata={"user": "ada"})
        await aster.with_options(tagged, timeout=60).single(Item())
        assert mirror.seen.pop().metadata == Metadata({"user": "ada"})
        await aster.with_options(tagged, metadata={"trace": "1"}).single(Item())
        assert mirror.seen.pop().metadata == Metadata({"trace": "1"})


@pytest.mark.parametrize("wrong", [{"a b": "x"}, {"aster-x": "x"}, {"": "x"}, {"k": "\ud800"}, {"é": "x"}])
async def test_malformed_metadata_is_refused_where_it_is_given(running: Running, wrong: dict[str, str]) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(ValueError, match="metadata key"):
            aster.with_options(echo, metadata=wrong)


# Limits


async def test_metadata_at_the_servers_limit_passes_and_one_byte_more_is_not_sent(running: Running) -> None:
    mirror = Mirror()
    async with running(mirror, max_metadata_size=500) as (_, client):
        stub = await client.client(Mirror)
        fits = aster.with_options(stub, metadata=of_size(500))
        assert await fits.single(Item()) == Item()
        assert mirror.seen.pop().metadata == of_size(500)
        above = aster.with_options(stub, metadata=of_size(501))
        for call in (above.single(Item()), numbers_of(above.stream(Item())), above.collect([Item()]), numbers_of(above.talk([Item()]))):
            error = await error_of(call)
            assert error.code is StatusCode.RESOURCE_EXHAUSTED
            assert "counts 501 bytes; the server's limit is 500 bytes" in error.message
        assert mirror.seen == []
        assert await stub.single(Item()) == Item()


async def test_a_server_refuses_metadata_above_its_limit_whoever_sends_it(running: Running, transport: Transport) -> None:
    mirror = Mirror()
    async with running(mirror, max_metadata_size=500) as (server, client), raw_client(server.address, transport) as raw:
        target = target_of("single", service="Mirror")
        for size in (501, 3_000, 100_000):
            trailer = await raw.outcome_of(target, encode_message(b"") + END, of_size(size))
            assert trailer.status is StatusCode.RESOURCE_EXHAUSTED
        assert mirror.seen == []
        assert await (await client.client(Mirror)).single(Item()) == Item()


async def test_a_handler_may_send_metadata_up_to_the_clients_limit(running: Running) -> None:
    @service
    class Sender:
        @rpc
        async def send(self, item: Item) -> Item:
            call = aster.current_call()
            with pytest.raises(ValueError, match="counts 301 bytes; the client's limit is 300 bytes"):
                call.send_metadata(of_size(301))
            call.send_metadata(of_size(300))
            return item

    async with running(Sender(), client={"max_metadata_size": 300}) as (_, client):
        sender = await client.client(Sender)
        async with aster.open_call(sender.send) as call:
            await call.send(Item())
            await call.receive()
            assert call.metadata == of_size(300)


@pytest.mark.parametrize("number", [0, 1])
async def test_trailers_above_the_clients_limit_fail_the_call_rather_than_be_cut(running: Running, number: int, caplog: pytest.LogCaptureFixture) -> None:
    @service
    class Trailing:
        @rpc
        async def trail(self, item: Item) -> Item:
            for _ in range(item.number, 8):
                aster.current_call().add_trailer("k", "v" * 10)
            return item

    caplog.set_level(logging.INFO, "aster")
    size = metadata_size(Metadata([("k", "v" * 10)] * 7))
    async with running(Trailing(), client={"max_metadata_size": size}) as (_, client):
        trailing = await client.client(Trailing)
        async with aster.open_call(trailing.trail) as call:
            await call.send(Item(number))
            if number:
                assert await call.receive() == Item(1)
                with pytest.raises(anyio.EndOfStream):
                    await call.receive()
                assert len(call.trailers) == 7
            else:
                assert await call.receive() == Item()
                error = await error_of(call.receive())
                assert error.code is StatusCode.RESOURCE_EXHAUSTED
                assert f"Trailing.trail count {size // 7 * 8} bytes; the client's limit is {size} bytes" in error.message
                assert error.trailers == Metadata()
                assert [record.levelname for record in caplog.records if "Trailing.trail" in record.getMessage()] == ["INFO"]


@pytest.mark.parametrize("where", ["metadata", "trailers"])
async def test_a_client_refuses_metadata_above_its_limit_whoever_sends_it(transport: Transport, where: str) -> None:
    large = of_size(301)

    def answer(stream: Stream, header: Header) -> None:
        if where == "metadata":
            stream.write(encode_metadata(large))
        stream.write(encode_trailer(Trailer(StatusCode.ABORTED, TrailerOrigin.HANDLER, "", (), large if where == "trailers" else Metadata())))
        stream.finish()

    async with (
        raw_server((manifest_of(Echo),), transport, answer) as address,
        aster.connect(address, transport=transport, max_metadata_size=300) as client,
    ):
        echo = await client.client(Echo)
        for call in (echo.same(Item()), numbers_of(echo.count(Item()))):
            assert (await error_of(call)).code is StatusCode.RESOURCE_EXHAUSTED


# Rules of send_metadata


async def test_metadata_is_sent_once_ahead_of_the_first_response(running: Running) -> None:
    @service
    class Rules:
        @rpc
        async def twice(self, item: Item) -> Item:
            call = aster.current_call()
            call.send_metadata({"n": "1"})
            with pytest.raises(RuntimeError, match="once, ahead of the first response"):
                call.send_metadata({"n": "2"})
            return item

        @server_stream
        async def late(self, item: Item) -> AsyncIterator[Item]:
            yield item
            with pytest.raises(RuntimeError, match="once, ahead of the first response"):
                aster.current_call().send_metadata({"n": "1"})
            yield item

    async with running(Rules()) as (_, client):
        rules = await client.client(Rules)
        async with aster.open_call(rules.twice) as call:
            await call.send(Item())
            await call.receive()
            assert call.metadata == Metadata({"n": "1"})
        late = rules.late(Item())
        assert await numbers_of(late) == [0, 0]
        assert late.metadata == Metadata()


async def test_the_context_of_a_call_that_is_over_sends_nothing(running: Running) -> None:
    mirror = Mirror()
    async with running(mirror) as (_, client):
        stub = await client.client(Mirror)
        await stub.single(Item())
        with pytest.raises(RuntimeError):
            mirror.seen[0].send_metadata({"too": "late"})
        mirror.seen[0].add_trailer("too", "late")
        await stub.single(Item())


@pytest.mark.parametrize(("key", "value", "error"), [("a b", "x", ValueError), ("aster-x", "x", ValueError), ("k", 1, TypeError), (1, "x", TypeError)])
async def test_a_handlers_malformed_trailer_is_refused_where_it_is_given(running: Running, key: str, value: str, error: type[Exception]) -> None:
    @service
    class Malformed:
        @rpc
        async def trail(self, item: Item) -> Item:
            with pytest.raises(error, match="metadata key"):
                aster.current_call().add_trailer(key, value)
            return item

    async with running(Malformed()) as (_, client):
        assert await (await client.client(Malformed)).trail(Item()) == Item()
