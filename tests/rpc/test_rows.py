"""Calls in ROW: what is received is a view, whose parts are read, and refused, when they are asked for; a stream has its schema once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import anyio
import pytest

import aster
from aster import StatusCode
from aster._protocol.call import ClientCall, ServerCall
from aster._protocol.frames import encode_message
from aster.codec import RowEncoder, make_codec, wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.transports.base import Transport
from aster.types import RpcPattern, SerializationMode
from tests.guide import AnalyticsService, QueryRequest, QueryResult
from tests.rpc.conftest import Refusals, Running
from tests.rpc.probes import error_of
from tests.rpc.raw import END, raw_client, target_of

pytestmark = pytest.mark.anyio

ROW = SerializationMode.ROW


@wire_type("tests.rows/Line")
@dataclass
class Line:
    sku: str = ""
    count: int = 0


@wire_type("tests.rows/Order")
@dataclass
class Order:
    number: int = 0
    lines: list[Line] = field(default_factory=list[Line])
    blob: bytes = b""
    notes: dict[str, str] = field(default_factory=dict[str, str])


@service("Shop", serialization=[ROW, SerializationMode.XLANG, SerializationMode.NATIVE])
class Shop:
    """Answers with what it was sent, or with parts of it."""

    @rpc
    async def same(self, order: Order) -> Order:
        return order

    @rpc
    async def again(self, order: Order) -> Order:
        return Order(order.number + 1, order.lines, order.blob, order.notes)

    @rpc
    async def counted(self, order: Order) -> Line:
        return Line("all", sum(line.count for line in order.lines))

    @server_stream
    async def each(self, order: Order) -> AsyncIterator[Line]:
        for line in order.lines:
            yield line

    @client_stream
    async def gathered(self, lines: AsyncIterator[Line]) -> Order:
        return Order(0, [line async for line in lines])

    @bidi_stream
    async def doubled(self, lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        async for line in lines:
            yield replace(line, count=2 * line.count)

    @rpc
    async def failing(self, order: Order) -> Order:
        raise aster.RpcError(StatusCode.NOT_FOUND, "no such order", details=[Line("gone", order.number)])


LINES = [Line("a", 1), Line("b", 2), Line("c", 3)]
ORDER = Order(7, LINES, b"\0" * 1000, {"to": "Ada"})


async def test_the_guides_analytics_service_works(running: Running) -> None:
    async with running(AnalyticsService()) as (_, client):
        analytics = await client.client(AnalyticsService)
        result = await analytics.query(QueryRequest("x,y"))
        assert list(result.columns) == ["x", "y"]
        assert result.rows[1][0] == 3.5
        assert result == QueryResult(["x", "y"], [[1.5, 2.5], [3.5, 4.5]])
        assert type(aster.materialize(result)) is QueryResult


async def test_rows_travel_on_all_patterns(running: Running) -> None:
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        assert await shop.same(ORDER) == ORDER
        assert await shop.again(ORDER) == replace(ORDER, number=8)
        assert await shop.counted(ORDER) == Line("all", 6)
        assert [line async for line in shop.each(ORDER)] == LINES
        assert await shop.gathered(LINES) == Order(0, LINES)
        assert [line async for line in shop.doubled(LINES)] == [Line("a", 2), Line("b", 4), Line("c", 6)]
        async with aster.open_call(shop.doubled) as call:
            for line in LINES:
                await call.send(line)
                assert (await call.receive()).count == 2 * line.count


async def test_what_was_received_may_be_sent_again_in_any_mode(running: Running) -> None:
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        received = await shop.same(ORDER)
        for mode in SerializationMode:
            other = aster.with_options(shop, serialization=mode)
            assert await other.same(received) == ORDER
            assert await other.same(Order(7, received.lines, received.blob, received.notes)) == ORDER
            assert await other.gathered(received.lines) == Order(0, LINES)
            assert [line async for line in other.each(received)] == LINES


async def test_details_of_errors_are_plain_values(running: Running) -> None:
    async with running(Shop()) as (_, client):
        error = await error_of((await client.client(Shop)).failing(ORDER))
        assert (error.code, error.details) == (StatusCode.NOT_FOUND, (Line("gone", 7),))
        assert type(error.details[0]) is Line


@service("Room", scoped="stream", serialization=ROW)
class Room:
    def __init__(self, peer: str | None = None) -> None:
        self.lines: list[Line] = []

    @rpc
    async def add(self, line: Line) -> Order:
        self.lines.append(line)
        return Order(len(self.lines), self.lines)

    @bidi_stream
    async def doubled(self, lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        async for line in lines:
            yield replace(line, count=2 * line.count)


async def test_the_calls_of_a_session_are_streams_of_rows_each(running: Running) -> None:
    async with running(Room) as (_, client), client.session(Room) as room:
        assert await room.add(LINES[0]) == Order(1, LINES[:1])
        for _ in range(2):
            assert [line.count async for line in room.doubled(LINES)] == [2, 4, 6]
            # One that is left early, with its schema on the way or not.
            async with aster.open_call(room.doubled) as call:
                await call.send(LINES[0])
        assert await room.add(LINES[1]) == Order(2, LINES[:2])


# The schema


def _bare(*values: Any) -> list[bytes]:
    """Rows without their schemas."""
    bare: list[bytes] = []
    for value in values:
        data = _whole(value)
        size = int.from_bytes(data[:8], "little")
        bare.append(bytes(8) + data[8 + size :])
    return bare


def _whole(value: Any) -> bytes:
    """A row with its schema."""
    cls = cast("type[Any]", type(value))
    return make_codec(ROW, service_info(Shop).wire_tags).encoder(cls)(value)


@pytest.fixture
def payloads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages that were sent, by clients and servers."""
    sent: list[bytes] = []

    def note(end: type[ClientCall] | type[ServerCall]) -> None:
        send = end.send_message

        def send_message(call: Any, payload: bytes) -> bytes:
            sent.append(payload)
            return send(call, payload)

        monkeypatch.setattr(end, "send_message", send_message)

    note(ClientCall)
    note(ServerCall)
    return sent


async def test_the_schema_goes_once_a_stream_and_rows_after_it(running: Running, payloads: list[bytes]) -> None:
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        for _ in range(2):
            payloads.clear()
            assert [line async for line in shop.each(ORDER)] == LINES
            assert payloads == [_whole(ORDER), _whole(LINES[0]), *_bare(*LINES[1:])]
            payloads.clear()
            assert await shop.gathered(LINES) == Order(0, LINES)
            assert payloads == [_whole(LINES[0]), *_bare(*LINES[1:]), _whole(Order(0, LINES))]


async def test_a_message_that_was_encoded_and_not_sent_does_not_take_the_schema_with_it(running: Running) -> None:
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        async with aster.open_call(shop.doubled) as call:
            with pytest.raises(aster.RpcError, match=r"a request of Shop.doubled takes 5000\d+ bytes"):
                await call.send(Line("x" * 5_000_000))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call.send(Line("x" * 2**20, 1))
            await call.send(Line("y", 3))
            await call.end()
            assert [line.count async for line in call][-1] == 6


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (encode_message(_bare(LINES[0])[0]), "ahead of its schema"),
        (encode_message(b""), "a row begins with the size of its schema"),
        (encode_message((2**62).to_bytes(8, "little")), "it ends behind its message"),
        (encode_message(_whole(ORDER)), "a row of tests.rows.Order, not of a Line, whose tag is tests.rows.Line"),
    ],
)
async def test_a_message_that_is_no_row_is_refused(running: Running, transport: Transport, frames: bytes, text: str) -> None:
    async with running(Shop()) as (server, _), raw_client(server.address, transport) as raw:
        target = target_of("gathered", service="Shop", pattern=RpcPattern.CLIENT_STREAM, mode=ROW)
        trailer = await raw.outcome_of(target, frames + END)
        assert trailer.status is StatusCode.INVALID_ARGUMENT
        assert "a request of Shop.gathered cannot be decoded" in trailer.message
        assert text in trailer.message


# What is found out late


def _broken(order: Order) -> bytes:
    """A row whose outside is right, and in whose second line the text is none."""
    data = bytearray(_whole(order))
    at = data.rindex(b"b\0\0\0\0\0\0\0")
    data[at] = 0xFF
    return bytes(data)


@pytest.mark.parametrize("method", ["counted", "same", "each"])
async def test_a_request_that_cannot_be_read_is_its_senders_fault_whenever_that_is_found(
    running: Running, transport: Transport, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    @service("Shop", serialization=ROW)
    class Reading(Shop):
        @rpc
        async def counted(self, order: Order) -> Line:
            return Line("".join(line.sku for line in order.lines))

    caplog.set_level("INFO")
    async with running(Reading(), interceptors=[aster.LoggingInterceptor]) as (server, client), raw_client(server.address, transport) as raw:
        pattern = RpcPattern.SERVER_STREAM if method == "each" else RpcPattern.UNARY
        trailer = await raw.outcome_of(target_of(method, service="Shop", pattern=pattern, mode=ROW), encode_message(_broken(ORDER)) + END)
        assert trailer.status is StatusCode.INVALID_ARGUMENT
        assert "a request of Shop." in trailer.message
        assert ".sku is no str that can be read" in trailer.message
        assert (await (await client.client(Reading)).counted(ORDER)).sku == "abc"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert [vars(record)["code"] for record in caplog.records if "code" in vars(record)] == ["INVALID_ARGUMENT", "OK"]


@service("Troubled", serialization=ROW)
class Troubled:
    """Handlers that meet what cannot be read in other ways than by reading it themselves."""

    @rpc
    async def together(self, order: Order) -> Line:
        errors: list[Exception] = []
        for line in order.lines:
            try:
                _ = line.sku
            except aster.DecodeError as exc:
                errors.append(exc)
        raise ExceptionGroup("of tasks that read", [ExceptionGroup("of one of them", errors), aster.RpcError(StatusCode.NOT_FOUND, "another")])

    @rpc
    async def mixed(self, order: Order) -> Line:
        try:
            _ = order.lines[1].sku
        except aster.DecodeError as exc:
            raise ExceptionGroup("and a bug", [exc, ZeroDivisionError()]) from None
        return order.lines[0]

    @rpc
    async def passed_on(self, order: Order) -> Order:
        return make_codec(ROW, service_info(Troubled).wire_tags).decoder(Order)(_broken(ORDER))  # as of a server that this one asks

    @rpc
    async def detailed(self, order: Order) -> Order:
        raise aster.RpcError(StatusCode.NOT_FOUND, "these", details=order.lines)


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("together", StatusCode.INVALID_ARGUMENT, "a request of Troubled.together cannot be decoded: "),
        ("mixed", StatusCode.INTERNAL, "the handler failed"),
        ("passed_on", StatusCode.INTERNAL, "Troubled.passed_on was sent by another peer what cannot be decoded"),
        ("detailed", StatusCode.NOT_FOUND, "these"),
    ],
)
async def test_what_cannot_be_read_is_a_peers_fault_however_it_comes_out(
    running: Running, transport: Transport, caplog: pytest.LogCaptureFixture, method: str, code: StatusCode, text: str
) -> None:
    caplog.set_level("INFO")
    async with running(Troubled(), interceptors=[aster.LoggingInterceptor]) as (server, _), raw_client(server.address, transport) as raw:
        message = _whole(ORDER) if method == "passed_on" else _broken(ORDER)
        trailer = await raw.outcome_of(target_of(method, service="Troubled", mode=ROW), encode_message(message) + END)
        assert trailer.status is code
        assert trailer.message.startswith(text)
        assert len(trailer.details) == (2 if method == "detailed" else 0)  # without the one that is spoilt
    assert bool([record for record in caplog.records if record.levelname == "ERROR"]) is (method == "mixed")
    assert [vars(record)["code"] for record in caplog.records if "code" in vars(record)] == [code.name]


@service("Keeper", scoped="stream", serialization=ROW)
class Keeper:
    """Reads what it was sent when the call is over."""

    def __init__(self, peer: str | None = None) -> None:
        self.kept: list[Order] = []

    @rpc
    async def keep(self, order: Order) -> Line:
        self.kept.append(order)
        return Line("kept")

    @rpc
    async def read_behind(self, order: Order) -> Line:
        aster.current_session().task_group.start_soon(self.on_session_close)
        await anyio.sleep_forever()
        raise AssertionError

    async def on_session_close(self) -> None:
        _ = [line.sku for order in self.kept for line in order.lines]


@pytest.mark.parametrize("when", ["in the background", "at the end"])
async def test_what_a_session_cannot_read_later_is_no_bug_of_its_either(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    message, whole = _broken(ORDER), RowEncoder.encode

    def encode(self: RowEncoder, value: object, prefix: bytes) -> bytes:
        return message if value is ORDER else whole(self, value, prefix)

    caplog.set_level("INFO", "aster")
    async with running(Keeper) as (_, client), client.session(Keeper) as keeper:
        with monkeypatch.context() as patch:
            patch.setattr(RowEncoder, "encode", encode)
            assert (await keeper.keep(ORDER)).sku == "kept"
        if when == "in the background":
            error = await error_of(keeper.read_behind(ORDER))
            assert error.code is StatusCode.ABORTED
    who = "a background task" if when == "in the background" else "on_session_close"
    found = [record.message for record in caplog.records if record.message.startswith(f"{who} of the session of Keeper could not read a message")]
    assert len(found) == 1
    assert "sku is no str that can be read" in found[0]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_parts_of_a_request_are_details(running: Running) -> None:
    async with running(Troubled()) as (_, client):
        error = await error_of((await client.client(Troubled)).detailed(ORDER))
        assert list(error.details) == LINES
        assert {type(detail) for detail in error.details} == {Line}


@wire_type("tests.rows/Strict")
@dataclass
class Strict:
    number: int = 0

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("a number must not be negative")


@service("Strictly", serialization=ROW)
class Strictly:
    @rpc
    async def same(self, strict: Strict) -> Strict:
        return strict

    @rpc
    async def read(self, strict: Strict) -> Strict:
        return aster.materialize(strict)

    @rpc
    async def compared(self, strict: Strict) -> Strict:
        return Strict(int(strict == Strict(7)))


@pytest.mark.parametrize("method", ["same", "read", "compared"])
async def test_a_request_that_its_class_refuses_is_its_senders_fault(running: Running, caplog: pytest.LogCaptureFixture, method: str) -> None:
    wrong = Strict(7)
    wrong.number = -1
    async with running(Strictly()) as (_, client):
        error = await error_of(getattr(await client.client(Strictly), method)(wrong))
        assert error.code is StatusCode.INVALID_ARGUMENT
        assert "cannot be decoded: a number must not be negative" in error.message
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_response_that_cannot_be_read_raises_where_it_is_read(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = RowEncoder.encode

    def spoilt(encoder: RowEncoder, value: Any, prefix: bytes) -> bytes:
        data = encode(encoder, value, prefix)
        return data.replace(b"spoilt", b"\xffpoilt") if isinstance(value, Line) else data

    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        with monkeypatch.context() as patch:
            patch.setattr(RowEncoder, "encode", spoilt)
            lines = [line async for line in shop.each(Order(1, [Line("a", 1), Line("spoilt", 2), Line("c", 3)]))]
        assert [line.count for line in lines] == [1, 2, 3]
        assert (lines[0].sku, lines[2].sku) == ("a", "c")
        with pytest.raises(aster.DecodeError, match=r"the peer sent something that is not a Line: Line\.sku is no str that can be read") as caught:
            _ = lines[1].sku
        assert not caught.value.is_request
        with pytest.raises(aster.DecodeError):
            aster.materialize(lines[1])
        assert "unreadable Line" in repr(lines[1])


async def test_the_wrong_type_is_refused_by_name_before_anything_is_sent(running: Running) -> None:
    wrong: Any = Order("seven")  # pyright: ignore[reportArgumentType]
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        with pytest.raises(TypeError, match=r"Order\.number must be int, not str"):
            await shop.same(wrong)
        with pytest.raises(ValueError, match=r"Order\.number does not fit in 64 bits"):
            await shop.same(Order(2**63))
        assert await shop.same(ORDER) == ORDER


async def test_interceptors_see_rows_and_may_pass_answer_and_change_them(running: Running) -> None:
    class Changing(aster.Interceptor):
        async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
            seen: list[Order] = []

            def request(order: Order) -> Order:
                seen.append(order)
                if order.number == 1:
                    call.answer(order)
                return order if order.number == 2 else replace(order, number=10 * order.number)

            call.on_request(request)
            yield
            if call.side == "server":
                assert seen[0].lines == LINES

    async with running(Shop(), interceptors=[Changing]) as (_, client):
        shop = await client.client(Shop)
        for number, arrives in ((1, 1), (2, 2), (3, 30)):
            assert (await shop.same(replace(ORDER, number=number))).number == arrives


async def test_a_call_that_is_repeated_sends_its_schema_again(running: Running, refusals: Refusals) -> None:
    async with running(Shop()) as (_, client):
        shop = await client.client(Shop)
        refusals.left = 1
        assert [line.count async for line in shop.doubled(LINES)] == [2, 4, 6]
        refusals.left = 1
        async with aster.open_call(shop.doubled) as call:
            for line in LINES:
                await call.send(line)
                assert (await call.receive()).count == 2 * line.count
        assert refusals.given == 2
