"""A client compares contracts: a service that fits is called, one that does not fails at once with what is different, and no server can make that last."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, make_dataclass
from typing import Any, cast

import anyio
import pytest

import aster
import aster._channel
from aster import RpcError, StatusCode, rpc, service, wire_type
from aster._contract import MAX_DIFFERENCES, contract_of, encode_form, id_of
from aster._protocol.events import Describe, Description, GoAway, Hello, ServiceEntry, Setting
from aster._protocol.frames import (
    CLIENT_CONTROL_KINDS,
    CONTRACT_FRAME_LIMIT,
    FrameKind,
    FrameReader,
    decode_describe,
    encode_contract,
    encode_describe,
    encode_frame,
    encode_go_away,
    encode_hello,
    frame_limits,
)
from aster.decorators import service_info
from aster.transports.base import Connection, Stream, StreamSink, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import backend_for, error_of, until
from tests.rpc.raw import CLIENT_SETTINGS, HELLO, RawOwner, RawStream, manifest_of, raw, raw_listener
from tests.rpc.test_reconnect import Place

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> object:
    """Virtual time over memory: waits for a server that says nothing take none."""
    return backend_for(request.param, transport)


over_memory = pytest.mark.parametrize("transport", [MemoryTransport], ids=["memory"], indirect=True)
"""What does not depend on how bytes travel."""


class Old:
    @wire_type("shop/Size")
    class Size(enum.Enum):
        SMALL = "s"
        LARGE = "l"

    @wire_type("shop/Order")
    @dataclass
    class Order:
        name: str
        count: int = 1

    @wire_type("shop/Receipt")
    @dataclass
    class Receipt:
        size: Old.Size
        price: float = 0.0

    @service("Shop")
    class Shop:
        @rpc
        async def buy(self, order: Old.Order) -> Old.Receipt:
            return Old.Receipt(Old.Size.SMALL, float(order.count))


class New:
    """What an ``Old`` client can call: more members where only it writes, more fields that have defaults, more methods."""

    @wire_type("shop/Size")
    class Size(enum.Enum):
        SMALL = "s"
        LARGE = "l"

    @wire_type("shop/Order")
    @dataclass
    class Order:
        count: int | None = None
        name: str | None = None
        gift: bool = False

    @wire_type("shop/Receipt")
    @dataclass
    class Receipt:
        price: float
        size: New.Size
        notes: list[str] = field(default_factory=lambda: ["thanks"])

    @service("Shop")
    class Shop:
        @rpc
        async def refund(self, order: New.Order) -> New.Receipt:
            return New.Receipt(-1.0, New.Size.LARGE)

        @rpc
        async def buy(self, order: New.Order) -> New.Receipt:
            return New.Receipt(float(order.count or 0), New.Size.LARGE)


class Wrong:
    """What neither can call, nor be called by."""

    @wire_type("shop/Size")
    class Size(enum.Enum):
        SMALL = "s"
        LARGE = "l"
        HUGE = "h"

    @wire_type("shop/Order")
    @dataclass
    class Order:
        name: bytes
        urgent: bool

    @wire_type("shop/Receipt")
    @dataclass
    class Receipt:
        size: Wrong.Size | None
        price: float = 0.0

    @service("Shop")
    class Shop:
        @rpc
        async def buy(self, order: Wrong.Order) -> Wrong.Receipt:
            return Wrong.Receipt(None)


DIFFERENCE = """\
service 'Shop' version 1 at the server does not fit this client's; update the older side, or give the newer one another version:
- buy (request): field 'name' of shop.Order: the client sends str, and the server reads bytes
- buy (request): field 'urgent' of shop.Order: the client does not send it, and it has no default at the server
- buy (response): field 'size' of shop.Receipt: the server may send None, and the client reads shop.Size"""


async def refusal(of: Awaitable[object]) -> RpcError:
    error = await error_of(of)
    assert error.code is StatusCode.FAILED_PRECONDITION
    return error


def form_of(cls: type) -> bytes:
    return encode_form(contract_of(service_info(cls)))


# Whole programs


async def test_versions_that_fit_call_each_other(running: Running) -> None:
    async with running(New.Shop()) as (_, client):
        shop = await client.client(Old.Shop)
        assert await shop.buy(Old.Order("tea", 3)) == Old.Receipt(Old.Size.LARGE, 3.0)
        assert await (await client.client(New.Shop)).buy(New.Order(2)) == New.Receipt(2.0, New.Size.LARGE)


async def test_versions_that_do_not_fit_fail_at_once_with_what_is_different(running: Running) -> None:
    async with running(Wrong.Shop(), Echo()) as (_, client):
        for _ in range(2):  # the second answer is the first one's
            assert (await refusal(client.client(Old.Shop))).message == DIFFERENCE
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
    async with running(Old.Shop()) as (_, client):
        # What the newer client writes, and what it would want to call; not what it reads.
        message = (await refusal(client.client(New.Shop))).message
        assert "- refund: the server has no such method" in message
        assert "- buy (request): field 'name' of shop.Order: the client may send None, and the server reads str" in message
        assert "- buy (request): field 'count' of shop.Order: the client may send None, and the server reads int" in message
        assert "(response)" not in message


async def test_of_many_differences_some_are_named_and_the_others_counted(running: Running) -> None:
    def shop(hint: type) -> Any:
        fields = [(f"field{place:02}", hint) for place in range(MAX_DIFFERENCES + 3)]
        message = cast("type", wire_type("shop/Wide")(make_dataclass("Wide", fields)))

        class Wide:
            async def buy(self, order: Any) -> Any:
                return order

        Wide.buy.__annotations__ |= {"order": message, "return": Item}
        return service("Wide")(type("Wide", (), {"buy": rpc(cast("Any", Wide.buy))}))

    async with running(shop(bytes)()) as (_, client):
        lines = (await refusal(client.client(shop(str)))).message.splitlines()
        assert len(lines) == 1 + MAX_DIFFERENCES + 1
        assert lines[-1] == "- and 3 more"


async def test_each_new_connection_is_compared_again(transport: Transport) -> None:
    async with Place(transport) as place:
        await place.up(Old.Shop())
        async with aster.connect(place.address, transport=transport) as client:
            shop = await client.client(Old.Shop)
            assert await shop.buy(Old.Order("tea")) == Old.Receipt(Old.Size.SMALL, 1.0)
            for services, outcome in (
                ([New.Shop()], ""),
                ([Wrong.Shop()], f"the server has changed since this stub was made: {DIFFERENCE}"),
                ([Echo()], "the server has changed since this stub was made: the server has no service 'Shop'; it has 'Echo' (version 1)"),
                ([New.Shop(), Echo()], ""),
            ):
                await place.down()
                await place.up(*services)
                for _ in range(2):
                    if outcome:
                        assert (await refusal(shop.buy(Old.Order("tea")))).message.startswith(outcome)
                    else:
                        assert await shop.buy(Old.Order("tea")) == Old.Receipt(Old.Size.LARGE, 1.0)
        await place.down()


# A server that is told what to say


@dataclass
class Teller:
    """A server of one service that does not answer by itself: ``on_describe`` is told of each question."""

    entry: ServiceEntry
    on_describe: Callable[[Teller, Stream, Connection], None]
    asked: list[Describe] = field(default_factory=list[Describe])
    controls: list[Stream] = field(default_factory=list[Stream])

    def accept(self, connection: Connection) -> RawOwner:
        def stream_opened(stream: Stream) -> StreamSink:
            if stream.id:
                return RawStream()  # a call, which nobody answers
            self.controls.append(stream)
            reader = FrameReader(frame_limits(0, CLIENT_CONTROL_KINDS))
            return _Sink(lambda data: [frame(stream, kind, payload) for kind, payload in reader.feed(data)])

        def frame(stream: Stream, kind: int, payload: bytes) -> None:
            if kind == FrameKind.HELLO:
                stream.write(encode_hello(Hello((1,), {**CLIENT_SETTINGS, Setting.CALL_LIMIT: 10}, (self.entry,))))
            else:
                self.asked.append(decode_describe(payload))
                self.on_describe(self, stream, connection)

        return RawOwner(stream_opened)


class _Sink(RawStream):
    def __init__(self, hear: Callable[[bytes], object]) -> None:
        super().__init__()
        self._hear = hear

    def data_received(self, data: bytes) -> None:
        self._hear(data)


def entry_of(form: bytes) -> ServiceEntry:
    """What a server says of ``Shop`` whose contract has a form."""
    return manifest_of(Old.Shop)._replace(contract_id=id_of(form))


def telling(form: bytes) -> Callable[[Teller, Stream, Connection], None]:
    return lambda teller, stream, connection: stream.write(encode_contract(Description("Shop", 1, form)))


def silent(teller: Teller, stream: Stream, connection: Connection) -> None:
    """Say nothing."""


@asynccontextmanager
async def connected(teller: Teller, transport: Transport, **options: Any) -> AsyncGenerator[aster.AsterClient]:
    async with raw_listener(transport, teller.accept) as address, aster.connect(address, transport=transport, **options) as client:
        yield client


@over_memory
async def test_equal_ids_and_unknown_ones_are_not_asked_about(transport: Transport) -> None:
    for contract_id in (id_of(form_of(Old.Shop)), b""):
        teller = Teller(manifest_of(Old.Shop)._replace(contract_id=contract_id), silent)
        async with connected(teller, transport) as client:
            await client.client(Old.Shop)
            assert teller.asked == []


async def test_a_server_is_asked_once_however_many_want_to_know(transport: Transport) -> None:
    form = form_of(New.Shop)
    teller = Teller(entry_of(form), silent)
    async with connected(teller, transport) as client:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.client, Old.Shop)
            group.start_soon(refusal, client.client(Wrong.Shop))
            await until(lambda: teller.asked)
            telling(form)(teller, teller.controls[0], cast("Connection", None))
        await client.client(Old.Shop)
    assert teller.asked == [Describe("Shop", 1)]


@over_memory
async def test_a_server_that_does_not_answer_is_unavailable_after_the_connect_timeout(transport: Transport) -> None:
    async with connected(Teller(entry_of(form_of(New.Shop)), silent), transport, connect_timeout=0.5) as client:
        began = anyio.current_time()
        for _ in range(2):
            error = await error_of(client.client(Old.Shop))
            assert error.code is StatusCode.UNAVAILABLE
            assert "did not tell the contract of service 'Shop' version 1 within 0.5 s" in error.message
        assert anyio.current_time() - began >= 1.0


@over_memory
async def test_waiting_for_an_answer_can_be_cancelled_and_goes_on_later(transport: Transport) -> None:
    form = form_of(New.Shop)
    teller = Teller(entry_of(form), silent)
    async with connected(teller, transport) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.client(Old.Shop)
        assert scope.cancelled_caught
        telling(form)(teller, teller.controls[0], cast("Connection", None))
        await client.client(Old.Shop)
    assert len(teller.asked) == 1


@over_memory
async def test_who_waits_for_an_answer_when_the_clients_block_is_left_hears_of_that(transport: Transport) -> None:
    errors: list[RpcError] = []

    async def ask() -> None:
        errors.append(await error_of(client.client(Old.Shop)))

    teller = Teller(entry_of(form_of(New.Shop)), silent)
    async with anyio.create_task_group() as group, connected(teller, transport) as client:
        group.start_soon(ask)
        await until(lambda: teller.asked)
    assert [error.code for error in errors] == [StatusCode.UNAVAILABLE]
    assert "the client's block was left" in errors[0].message


@pytest.mark.parametrize("how", ["lost", "going away", "both"])
async def test_when_the_connection_ends_before_the_answer_the_next_one_is_asked(transport: Transport, how: str) -> None:
    form = form_of(New.Shop)

    def end_the_first(teller: Teller, stream: Stream, connection: Connection) -> None:
        if len(teller.asked) > 1:
            telling(form)(teller, stream, connection)
            return
        if how != "lost":
            stream.write(encode_go_away(GoAway(-1)))
        if how != "going away":
            connection.close()

    teller = Teller(entry_of(form), end_the_first)
    async with connected(teller, transport) as client:
        await client.client(Old.Shop)
    assert len(teller.asked) == len(teller.controls) == 2


@over_memory
async def test_a_server_that_hangs_up_on_every_question_is_given_up(transport: Transport) -> None:
    def hang_up(teller: Teller, stream: Stream, connection: Connection) -> None:
        connection.close()

    teller = Teller(entry_of(form_of(New.Shop)), hang_up)
    async with connected(teller, transport, connect_timeout=1.0) as client:
        error = await error_of(client.client(Old.Shop))
        assert error.code is StatusCode.UNAVAILABLE


@over_memory
async def test_a_call_waits_for_the_answer_no_longer_than_its_deadline(transport: Transport) -> None:
    """The stub was made for another connection, whose server is gone."""
    forms = [form_of(Old.Shop), form_of(New.Shop)]
    teller = Teller(entry_of(forms[0]), silent)
    async with connected(teller, transport) as client:
        shop = await client.client(Old.Shop)
        teller.entry = entry_of(forms[1])
        teller.controls[0].write(encode_go_away(GoAway(-1)))
        await until(lambda: len(teller.controls) == 2)
        error = await error_of(aster.with_options(shop, timeout=0.2).buy(Old.Order("tea")))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await shop.buy(Old.Order("tea"))
        assert teller.asked == [Describe("Shop", 1)]


@over_memory
async def test_a_stub_remembers_a_bounded_number_of_contracts(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aster._channel, "REMEMBERED_CONTRACTS", 2)
    forms = [form_of(New.Shop).replace(b'"types":[', b'"types":[{"fields":[],"name":"a%d"},' % number) for number in range(3)]
    current = 0

    def tell(teller: Teller, stream: Stream, connection: Connection) -> None:
        telling(forms[current])(teller, stream, connection)

    teller = Teller(entry_of(forms[0]), tell)
    async with connected(teller, transport) as client:
        shop = await client.client(Old.Shop)
        for current, asked in ((1, 2), (2, 3), (1, 3), (0, 4)):
            teller.entry = entry_of(forms[current])
            teller.controls[-1].write(encode_go_away(GoAway(-1)))
            await anyio.sleep(10)
            with anyio.move_on_after(1):  # the server is asked, if need be, and nobody answers the call
                await shop.buy(Old.Order("tea"))
            assert len(teller.asked) == asked


# Hostile servers


GOOD = form_of(New.Shop)

HOSTILE: dict[str, bytes] = {
    "another form than its id says": encode_contract(Description("Shop", 1, form_of(Wrong.Shop))),
    "another service": encode_contract(Description("Other", 1, GOOD)),
    "another version": encode_contract(Description("Shop", 2, GOOD)),
    "an answer twice": encode_contract(Description("Shop", 1, GOOD)) * 2,
    "an answer cut short": encode_frame(FrameKind.CONTRACT, b"\x04Shop"),
    "an answer with more behind it": encode_frame(FrameKind.CONTRACT, b"\x04Shop\x01\x00\x00"),
    "a question": encode_describe(Describe("Shop", 1)),
    "an answer above the limit": bytes((FrameKind.CONTRACT,)) + (CONTRACT_FRAME_LIMIT + 1 | 0x8000_0000).to_bytes(4, "big"),
}


@over_memory
@pytest.mark.parametrize("what", HOSTILE)
async def test_a_server_that_breaks_a_rule_loses_the_connection(transport: Transport, what: str) -> None:
    teller = Teller(entry_of(GOOD), lambda teller, stream, connection: stream.write(HOSTILE[what]))
    async with connected(teller, transport, connect_timeout=0.5) as client:
        with suppress(RpcError):
            await client.client(Old.Shop)
        await until(lambda: len(teller.controls) > 1)  # and the client connected again


@over_memory
async def test_an_answer_that_nobody_asked_for_breaks_a_rule(transport: Transport) -> None:
    teller = Teller(entry_of(GOOD), silent)
    async with connected(teller, transport):
        teller.controls[0].write(encode_contract(Description("Shop", 1, GOOD)))
        await until(lambda: len(teller.controls) > 1)


@over_memory
@pytest.mark.parametrize("form", [b"", b"[" * 100_000, b"\xff", GOOD + b" ", GOOD.replace(b'"aster":1', b'"aster":2')])
async def test_a_contract_that_cannot_be_read_fails_the_service_alone(transport: Transport, form: bytes) -> None:
    teller = Teller(entry_of(form), telling(form))
    async with connected(teller, transport) as client:
        assert "cannot be read" in (await refusal(client.client(Old.Shop))).message
        assert "cannot be read" in (await refusal(client.client(Old.Shop))).message
    assert len(teller.controls) == len(teller.asked) == 1


# Hostile clients


QUESTION = encode_describe(Describe("Echo", 1))


@pytest.mark.parametrize(
    "data",
    [
        QUESTION,
        HELLO + QUESTION * 2,
        HELLO + encode_describe(Describe("Nowhere", 1)),
        HELLO + encode_describe(Describe("Echo", 2)),
        HELLO + encode_frame(FrameKind.DESCRIBE, b"\x04Ech"),
        HELLO + encode_frame(FrameKind.DESCRIBE, b"\x04Echo\x01\x00"),
        HELLO + bytes((FrameKind.DESCRIBE, 0x44, 0x01)),
        HELLO + encode_contract(Description("Echo", 1, b"")),
    ],
    ids=["before the hello", "twice", "no service", "no version", "cut short", "more behind it", "above the limit", "an answer"],
)
async def test_a_client_that_breaks_a_rule_loses_the_connection_and_no_other_does(running: Running, transport: Transport, data: bytes) -> None:
    async with running(Echo()) as (server, client):
        echo = await client.client(Echo)
        async with raw(server, transport, data) as peer:
            await peer.lost.wait()
        assert await echo.same(Item(1)) == Item(1)


async def test_a_client_is_told_each_contract_that_it_asks_for(running: Running, transport: Transport) -> None:
    async with running(Echo(), New.Shop()) as (server, _), raw(server, transport) as peer:
        await peer.said_hello()
        peer.control.write(QUESTION + encode_describe(Describe("Shop", 1)))
        await until(lambda: len(peer.heard.frames()) == 3)
        answers = [encode_frame(FrameKind(kind), payload) for kind, payload in peer.heard.frames()[1:]]
        assert answers == [encode_contract(Description("Echo", 1, form_of(Echo))), encode_contract(Description("Shop", 1, GOOD))]
