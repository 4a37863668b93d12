"""The details of errors: they arrive as equal values, and what cannot be sent or read costs an error nothing else."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import RpcError, SerializationMode, StatusCode, UnknownDetail
from aster._protocol.events import Header, Trailer, TrailerOrigin
from aster._protocol.frames import FrameKind, encode_frame, encode_message, encode_trailer, encode_varint
from aster.codec import make_codec, wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service, service_info
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import error_of
from tests.rpc.raw import manifest_of, raw_server

pytestmark = pytest.mark.anyio

XLANG, NATIVE = SerializationMode.XLANG, SerializationMode.NATIVE


@wire_type("tests.rpc/Reason")
class Reason(Enum):
    """Why."""

    RATE = "rate"
    SIZE = "size"


@wire_type("tests.rpc/Quota")
@dataclass
class Quota:
    """A detail that the service declares, with an Enum and a type of message in it."""

    limit: int = 0
    share: float = 0.0
    reasons: list[Reason] | None = None
    names: dict[str, Item] | None = None


@wire_type("tests.rpc/Place")
@dataclass(frozen=True, slots=True)
class Place:
    """Another one, of the kind that is hard to decode."""

    path: tuple[str, ...] = ()


@wire_type("tests.rpc/Picky")
@dataclass
class Picky:
    """Does what its number says when it is made, and goes down in ``made``."""

    number: int = 0

    def __post_init__(self) -> None:
        made.append(self.number)
        if self.number == 1:
            raise ValueError("never 1")
        if self.number == 2:
            raise LookupError("a bug")


made: list[int] = []


@wire_type("tests.rpc/Undeclared")
@dataclass
class Undeclared:
    """No service has it."""

    text: str = ""


@dataclass
class PartOfQuota(Quota):
    """A subclass of what is declared."""


@service(serialization=[XLANG, NATIVE], errors=[Quota, Place, Picky])
class Failing:
    """Fails with ``error`` after as many responses as the request's number says."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @rpc
    async def single(self, item: Item) -> Item:
        raise self.error

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        raise self.error

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        async for _ in items:
            pass
        raise self.error

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            for number in range(item.number):
                yield Item(number)
        raise self.error


def failing(*details: object) -> Failing:
    return Failing(RpcError(StatusCode.ABORTED, "as told", details=details))


async def errors_of(stub: Failing, responses: int) -> list[RpcError]:
    """What a call of each pattern fails with, once the responses before that have come."""
    request = Item(responses)
    errors = [await error_of(stub.single(request)), await error_of(stub.collect([request]))]
    for stream in (stub.stream(request), stub.talk([request])):
        got: list[int] = []
        errors.append(await error_of(numbers_of(stream, got)))
        assert got == list(range(responses))
    return errors


def records_above_info(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "aster" and record.levelno > logging.INFO]


# Arrival

_int64 = st.sampled_from((0, -1, 2**63 - 1, -(2**63))) | st.integers(-(2**63), 2**63 - 1)
_items = st.builds(Item, _int64, st.text(max_size=20), st.binary(max_size=40))
_reasons = st.none() | st.lists(st.sampled_from(Reason), max_size=3)
_quotas = st.builds(Quota, _int64, st.floats(allow_nan=False), _reasons, st.none() | st.dictionaries(st.text(max_size=9), _items, max_size=2))
_places = st.builds(Place, st.lists(st.text(max_size=30), max_size=4).map(tuple))
_details = st.lists(_quotas | _places | _items, max_size=6) | st.lists(_places, min_size=64, max_size=64)


async def _arrive(transport: Transport, details: Sequence[object], responses: int) -> None:
    async with aster.serve([failing(*details)], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        stub = await client.client(Failing)
        for mode in (XLANG, NATIVE):
            for error in await errors_of(aster.with_options(stub, serialization=mode), responses):
                assert (error.code, error.message, error.details) == (StatusCode.ABORTED, "as told", tuple(details))
                assert [type(detail) for detail in error.details] == [type(detail) for detail in details]


@settings(max_examples=25)
@given(_details, st.integers(0, 5))
async def test_any_details_arrive_equal_in_each_pattern_and_mode_after_the_responses(details: Sequence[object], responses: int) -> None:
    await _arrive(MemoryTransport(), details, responses)


@settings(max_examples=4)
@given(_details, st.integers(0, 5))
async def test_any_details_arrive_equal_over_quic(details: Sequence[object], responses: int) -> None:
    await _arrive(QuicTransport(), details, responses)


async def test_details_arrive_from_an_error_that_is_alone_in_a_group(running: Running) -> None:
    error = RpcError(StatusCode.ABORTED, details=[Quota(5)])
    async with running(Failing(ExceptionGroup("tasks", [error]))) as (_, client):
        assert (await error_of((await client.client(Failing)).single(Item()))).details == (Quota(5),)


async def test_types_without_tags_are_details_of_a_service_that_speaks_native_alone(running: Running) -> None:
    @dataclass
    class Untagged:
        text: str = ""

    @service(serialization=NATIVE, errors=[Untagged])
    class Native:
        @rpc
        async def fail(self, item: Item) -> Item:
            raise RpcError(StatusCode.ABORTED, details=[Untagged("native"), item])

    async with running(Native()) as (_, client):
        assert (await error_of((await client.client(Native)).fail(Item(7)))).details == (Untagged("native"), Item(7))


async def test_an_error_has_its_details_each_time_that_it_is_raised_and_they_are_made_once(running: Running) -> None:
    async with running(failing(Picky(7))) as (_, client):
        stub = await client.client(Failing)
        made.clear()
        async with aster.open_call(stub.single) as call:
            await call.send(Item())
            first, second = await error_of(call.receive()), await error_of(call.receive())
        assert first is not second
        assert made == [7]
        assert first.details == second.details == (Picky(7),)


async def test_a_handler_that_is_called_without_rpc_raises_its_own_error_whatever_its_details_are() -> None:
    error = RpcError(StatusCode.ABORTED, details=["text", Undeclared()])
    caught = await error_of(Failing(error).single(Item()))
    assert caught is error
    assert caught.details == ("text", Undeclared())


# What cannot be sent


def namesake() -> object:
    """An instance of another class that is called ``Quota``."""
    return dataclass(type("Quota", (), {"__annotations__": {"limit": "int"}, "limit": 0}))()


_UNSENDABLE: dict[str, tuple[object, str]] = {
    "a type that the service does not have": (Undeclared("x"), "@service(errors=[Undeclared])"),
    "a subclass of one that it has": (PartOfQuota(), "@service(errors=[PartOfQuota])"),
    "a namesake of one that it has": (namesake(), "which the service neither declares nor sends"),
    "text": ("text", "a detail is a str, but must be a dataclass"),
    "nothing": (None, "a detail is a NoneType, but must be a dataclass"),
    "an Enum, though the service has it": (Reason.RATE, "a detail is a Reason, but must be a dataclass"),
    "a class": (Quota, "write Quota(...)"),
    "a field of another type": (Quota("5"), "Quota.limit must be int, not str"),  # pyright: ignore[reportArgumentType]  # the mistake
    "a number that is too large": (Quota(2**63), "does not fit in 64 bits"),
    "an unknown detail that nobody sent": (UnknownDetail("a/B", b""), "aster.errors.UnknownDetail, which the service neither declares nor sends"),
}


@pytest.mark.parametrize("name", _UNSENDABLE)
async def test_a_detail_that_cannot_be_sent_is_left_out_and_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    detail, words = _UNSENDABLE[name]
    transport = MemoryTransport()
    failing_service = failing(Place(("before",)), detail, detail, Place(("after",)))
    async with aster.serve([failing_service], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        for mode in (XLANG, NATIVE):
            stub = aster.with_options(await client.client(Failing), serialization=mode)
            caplog.clear()
            error = await error_of(stub.single(Item()))
            assert (error.code, error.message) == (StatusCode.ABORTED, "as told")
            assert error.details == (Place(("before",)), Place(("after",)))
            (record,) = records_above_info(caplog)
            assert record.getMessage().startswith("Failing.single raised an RpcError with details that cannot be sent")
            assert record.getMessage().count(words) == 1
            assert record.exc_info is not None
            assert record.exc_info[1] is failing_service.error


_BEYOND: dict[str, tuple[list[object], str]] = {
    "too many": ([Place()] * 65, "an error has 65 details; the limit is 64"),
    "too large": ([Place(("x" * 70_000,))], "bytes; the limit is 65536 bytes"),
    "too large together": ([Place(("x" * 20_000,))] * 4, "bytes; the limit is 65536 bytes"),
}


@pytest.mark.parametrize("name", _BEYOND)
async def test_details_that_do_not_fit_are_left_out_and_code_and_message_arrive(running: Running, name: str, caplog: pytest.LogCaptureFixture) -> None:
    details, words = _BEYOND[name]
    async with running(failing(*details), Echo()) as (_, client):
        for error in await errors_of(await client.client(Failing), 2):
            assert (error.code, error.message, error.details) == (StatusCode.ABORTED, "as told", ())
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
    records = records_above_info(caplog)
    assert [record.levelno for record in records] == [logging.ERROR] * 4
    assert all(words in record.getMessage() for record in records)


async def test_details_do_not_save_a_message_beyond_all_reason(running: Running) -> None:
    async with running(Failing(RpcError(StatusCode.NOT_FOUND, "x" * 70_000, details=[Quota(1)]))) as (_, client):
        error = await error_of((await client.client(Failing)).single(Item()))
        assert (error.code, error.details) == (StatusCode.RESOURCE_EXHAUSTED, ())


# Passing on


@service("Front", errors=[Quota])
class Front:
    """Fails as the service behind it does."""

    def __init__(self, back: Failing) -> None:
        self._back = back

    @rpc
    async def ask(self, item: Item) -> Item:
        return await self._back.single(item)


async def test_an_error_passes_on_with_the_details_that_the_handlers_own_service_has(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The rest was chosen by the server behind, and so is no bug of the one before."""
    async with running(failing(Quota(3), Place(("back",)), Item(4))) as (_, to_back), running(Front(await to_back.client(Failing))) as (_, to_front):
        error = await error_of((await to_front.client(Front)).ask(Item()))
        assert (error.code, error.message, error.details) == (StatusCode.ABORTED, "as told", (Quota(3), Item(4)))
    assert records_above_info(caplog) == []


# What cannot be read


@service("Failing", serialization=[XLANG, NATIVE])
class OlderFailing:
    """The service before it declared details."""

    @rpc
    async def single(self, item: Item) -> Item: ...


async def test_a_detail_that_only_a_newer_server_knows_arrives_as_its_tag_and_bytes(running: Running) -> None:
    async with running(failing(Quota(7), Item(8))) as (_, client):
        older = await client.client(OlderFailing)
        for mode in (XLANG, NATIVE):
            error = await error_of(aster.with_options(older, serialization=mode).single(Item()))
            unknown, item = error.details
            assert isinstance(unknown, UnknownDetail)
            assert unknown.tag == "tests.rpc/Quota"
            assert make_codec(mode, service_info(Failing).wire_tags).decoder(Quota)(unknown.data) == Quota(7)
            assert item == Item(8)


_CODEC = make_codec(XLANG, service_info(Failing).wire_tags)
_PLACE = "tests.rpc/Place", _CODEC.encoder(Place)(Place(("here",)))
_QUOTA = _CODEC.encoder(Quota)(Quota(9))


def _picky(number: int) -> bytes:
    value = Picky()
    value.number = number
    return _CODEC.encoder(Picky)(value)


_READ: dict[str, tuple[tuple[str, bytes], object]] = {
    "a known type": (("tests.rpc/Quota", _QUOTA), Quota(9)),
    "its name as it stands in payloads": (("tests.rpc.Quota", _QUOTA), Quota(9)),
    "an unknown type": (("other/Thing", _QUOTA), None),
    "no tag at all": (("", b""), None),
    "an Enum of the service": (("tests.rpc/Reason", _QUOTA), None),
    "no bytes": (("tests.rpc/Quota", b""), None),
    "garbage": (("tests.rpc/Quota", bytes(range(100))), None),
    "a value of another type": (("tests.rpc/Quota", _PLACE[1]), None),
    "a value and more": (("tests.rpc/Quota", _QUOTA + b"\x00"), None),
    "a value that its class refuses": (("tests.rpc/Picky", _picky(1)), None),
}


def _answering(trailer: bytes, begin: bytes = b"") -> Callable[[Stream, Header], None]:
    def answer(stream: Stream, header: Header) -> None:
        stream.write((begin if header.target.method == "stream" else b"") + trailer)
        stream.finish()

    return answer


async def test_a_detail_that_cannot_be_read_is_kept_as_it_came_and_the_error_with_it(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    sent = [_PLACE, *(pair for pair, _ in _READ.values()), _PLACE]
    wanted = [Place(("here",)), *(value or UnknownDetail(*pair) for pair, value in _READ.values()), Place(("here",))]
    trailer = encode_trailer(Trailer(StatusCode.ABORTED, TrailerOrigin.HANDLER, "as told", tuple(sent)))
    response = encode_message(_CODEC.encoder(Item)(Item(0)))
    async with raw_server((manifest_of(Failing),), transport, _answering(trailer, response)) as address, aster.connect(address, transport=transport) as client:
        stub = await client.client(Failing)
        got: list[int] = []
        for error in (await error_of(stub.single(Item())), await error_of(numbers_of(stub.stream(Item()), got))):
            assert (error.code, error.message, list(error.details)) == (StatusCode.ABORTED, "as told", wanted)
        assert got == [0]
    assert records_above_info(caplog) == []


async def test_a_bug_in_the_class_of_a_detail_is_logged_and_does_not_hide_the_error(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    pair = "tests.rpc/Picky", _picky(2)
    trailer = encode_trailer(Trailer(StatusCode.ABORTED, TrailerOrigin.HANDLER, "as told", (pair, _PLACE)))
    async with raw_server((manifest_of(Failing),), transport, _answering(trailer)) as address, aster.connect(address, transport=transport) as client:
        error = await error_of((await client.client(Failing)).single(Item()))
        assert (error.code, error.message, error.details) == (StatusCode.ABORTED, "as told", (UnknownDetail(*pair), Place(("here",))))
    (record,) = records_above_info(caplog)
    assert "Picky raised LookupError" in record.getMessage()
    assert record.exc_info is not None


def _tiny_details(count: int) -> bytes:
    """A trailer with so many details, of two bytes each."""
    return encode_frame(FrameKind.TRAILER, bytes((StatusCode.ABORTED, TrailerOrigin.HANDLER, 0)) + encode_varint(count) + bytes(2 * count))


@pytest.mark.parametrize("count", [64, 65, 30_000])
async def test_more_details_than_any_error_has_fail_the_call_with_resource_exhausted(transport: Transport, count: int) -> None:
    async with (
        raw_server((manifest_of(Failing),), transport, _answering(_tiny_details(count))) as address,
        aster.connect(address, transport=transport) as client,
    ):
        error = await error_of((await client.client(Failing)).single(Item()))
        if count == 64:
            assert (error.code, error.details) == (StatusCode.ABORTED, (UnknownDetail("", b""),) * 64)
        else:
            assert (error.code, error.details) == (StatusCode.RESOURCE_EXHAUSTED, ())
            assert f"an error with {count} details, above the limit of 64" in error.message


async def test_details_beside_a_success_mean_nothing(transport: Transport) -> None:
    response = encode_message(_CODEC.encoder(Item)(Item(6)))
    trailer = encode_trailer(Trailer(details=(("tests.rpc/Picky", _picky(1)),)))
    async with raw_server((manifest_of(Failing),), transport, _answering(response + trailer)) as address, aster.connect(address, transport=transport) as client:
        assert await (await client.client(Failing)).single(Item()) == Item(6)


async def test_the_details_of_an_error_that_is_repeated_are_not_decoded(transport: Transport) -> None:
    refusals = [encode_trailer(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.REFUSED, "not now", (("tests.rpc/Picky", _picky(3)),)))]
    success = encode_message(_CODEC.encoder(Item)(Item(6))) + encode_trailer(Trailer())

    def answer(stream: Stream, header: Header) -> None:
        stream.write(refusals.pop() if refusals else success)
        stream.finish()

    async with raw_server((manifest_of(Failing),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        stub = await client.client(Failing)
        made.clear()
        assert await stub.single(Item()) == Item(6)
        assert made == []
        assert refusals == []


# The error itself


@pytest.mark.parametrize("details", [Quota(), "text", b"bytes", bytearray(b"bytes"), {"limit": 5}, {Reason.RATE}, 5, None, (Place() for _ in range(2))])
def test_details_that_are_no_list_say_what_to_write(details: Any) -> None:
    with pytest.raises(TypeError, match=rf"must be a list of dataclasses, not {type(details).__name__}: write details=\[\.\.\.\]"):
        RpcError(StatusCode.NOT_FOUND, details=details)


def test_an_error_with_details_looks_as_it_does_without_and_is_copied_with_them() -> None:
    details = [Quota(1), UnknownDetail("a/B", b"\x00")]
    error = RpcError(StatusCode.NOT_FOUND, "no such thing", details=details, trailers=aster.Metadata({"a": "b"}))
    details.clear()
    for copied in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(copied) is RpcError
        assert (str(copied), repr(copied)) == ("NOT_FOUND: no such thing", f"RpcError({StatusCode.NOT_FOUND!r}, 'no such thing')")
        assert copied.details == (Quota(1), UnknownDetail("a/B", b"\x00"))
        assert copied.trailers == aster.Metadata({"a": "b"})
    assert error != copy.copy(error)


async def test_an_error_that_came_over_the_wire_is_a_plain_one(running: Running) -> None:
    async with running(failing(Quota(1), Item(2))) as (_, client):
        error = await error_of((await client.client(Failing)).single(Item()))
        assert type(error) is RpcError
        assert pickle.loads(pickle.dumps(error)).details == (Quota(1), Item(2))


async def test_details_of_many_calls_at_once_are_each_calls_own(running: Running) -> None:
    @service(errors=[Quota])
    class Own:
        @rpc
        async def fail(self, item: Item) -> Item:
            raise RpcError(StatusCode.ABORTED, details=[Quota(item.number), item])

    async with running(Own()) as (_, client):
        stub = await client.client(Own)

        async def one(number: int) -> None:
            assert (await error_of(stub.fail(Item(number)))).details == (Quota(number), Item(number))

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(one, number)
