"""``requires=``: an unmet requirement is the answer to the header alone. No request is decoded, and no handler runs."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import StatusCode, all_of, any_of, role
from aster._protocol.events import Header, Trailer, TrailerOrigin
from aster._protocol.frames import (
    SESSION_RESPONSE_KINDS,
    FrameKind,
    FrameReader,
    decode_call,
    decode_trailer,
    encode_call,
    encode_header,
    encode_header_start,
    encode_message,
    encode_session,
    encode_trailer,
    frame_limits,
)
from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from aster.types import CapabilityRequirement, Metadata, Peer, RpcPattern
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, encode_item
from tests.rpc.probes import calls_are_over, error_of, server_record, until
from tests.rpc.raw import END, Raw, RawStream, manifest_of, raw, raw_server, target_of

pytestmark = pytest.mark.anyio

_decoded: list[int] = []
"""The numbers of the requests that were made, here or by a decoder."""


@wire_type("tests.rpc/Recorded")
@dataclass
class Recorded:
    number: int = 0

    def __post_init__(self) -> None:
        _decoded.append(self.number)


@service("Guarded")
class Guarded:
    """One method of each pattern, and one more that requires nothing."""

    def __init__(self) -> None:
        self.began = list[str]()

    @rpc
    async def free(self, item: Item) -> Item:
        return item

    @rpc(requires=role("admin"), idempotent=True)
    async def same(self, item: Recorded) -> Item:
        self.began.append("same")
        return Item(item.number)

    @server_stream(requires=any_of("admin", "auditor"))
    async def count(self, item: Recorded) -> AsyncIterator[Item]:
        self.began.append("count")
        yield Item(item.number)

    @client_stream(requires=all_of("admin", "writer"))
    async def total(self, items: AsyncIterator[Recorded]) -> Item:
        self.began.append("total")
        return Item(sum([item.number async for item in items]))

    @bidi_stream(requires=role("admin"))
    async def chat(self, items: AsyncIterator[Recorded]) -> AsyncIterator[Item]:
        self.began.append("chat")
        async for item in items:
            yield Item(item.number)


_REQUIRED = {
    "same": "the role 'admin'",
    "count": "one of the roles 'admin', 'auditor'",
    "total": "all of the roles 'admin', 'writer'",
    "chat": "the role 'admin'",
}

_CALLS: dict[str, Callable[[Guarded, Any], Awaitable[object]]] = {
    "same": lambda stub, item: stub.same(item),
    "count": lambda stub, item: anext(stub.count(item)),
    "total": lambda stub, item: stub.total([item]),
    "chat": lambda stub, item: anext(stub.chat([item])),
}

_PATTERNS = {**dict(zip(_CALLS, RpcPattern, strict=True)), "free": RpcPattern.UNARY}

_UNDECODABLE = encode_message(b"\xff" * 40)


def _grants(*roles: str) -> Callable[[Peer], list[str]]:
    """The same to everybody."""
    return lambda peer: list(roles)


def _header(method: str, service: str = "Guarded") -> bytes:
    return encode_header(encode_header_start(target_of(method, service=service, pattern=_PATTERNS[method])), None, Metadata())


async def test_who_holds_enough_is_served(running: Running) -> None:
    guarded = Guarded()
    async with running(guarded, authorize=_grants("admin", "writer")) as (_, client):
        stub = await client.client(Guarded)
        for call in _CALLS.values():
            assert await call(stub, Recorded(7)) == Item(7)
    assert guarded.began == list(_CALLS)


@pytest.mark.parametrize("held", [[], ["writer", "Admin"]])
async def test_who_does_not_is_told_what_is_required_and_never_what_it_holds(running: Running, held: list[str]) -> None:
    guarded = Guarded()
    async with running(guarded, authorize=_grants(*held)) as (_, client):
        stub = await client.client(Guarded)
        for method, call in _CALLS.items():
            error = await error_of(call(stub, Recorded(7)))
            assert error.code is StatusCode.PERMISSION_DENIED
            assert error.message == (
                f"Guarded.{method} requires {_REQUIRED[method]}, which this caller was not granted: the server's operator grants it by authorize="
            )
        assert await stub.free(Item(3)) == Item(3)
        await calls_are_over(client)
    assert guarded.began == []


async def test_a_request_that_cannot_be_decoded_is_no_reason_where_the_caller_may_not_call(transport: Transport) -> None:
    guarded = Guarded()

    async def outcome(peer: Raw, method: str, requests: bytes) -> tuple[StatusCode, TrailerOrigin]:
        _, sink = peer.call(_header(method) + requests)
        trailer = await sink.trailer()
        return trailer.status, trailer.origin

    async with (
        aster.serve([guarded], transport=transport, authorize=_grants()) as server,
        raw(server, transport) as peer,
    ):
        await peer.said_hello()
        for method in _CALLS:
            # Whole, without an end, nothing at all yet, and what breaks a rule.
            for requests in (_UNDECODABLE + END, _UNDECODABLE, b"", b"\x20\x00"):
                assert await outcome(peer, method, requests) == (StatusCode.PERMISSION_DENIED, TrailerOrigin.REFUSED)
        assert guarded.began == []
    async with (  # the same bytes from one who may
        aster.serve([guarded], transport=transport, authorize=_grants("admin", "writer")) as server,
        raw(server, transport) as peer,
    ):
        await peer.said_hello()
        for method in _CALLS:
            assert (await outcome(peer, method, _UNDECODABLE + END))[0] is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("held", [[], ["admin", "writer"]])
async def test_a_request_is_decoded_only_where_the_caller_may_call(running: Running, held: list[str]) -> None:
    async with running(Guarded(), authorize=_grants(*held)) as (_, client):
        stub = await client.client(Guarded)
        for call in _CALLS.values():
            request = Recorded(7)
            _decoded.clear()
            with suppress(aster.RpcError):
                await call(stub, request)
            await calls_are_over(client)
            assert _decoded == ([7] if held else [])


@service("Staffed", scoped="stream")
class Staffed(Guarded):
    """The same in sessions."""

    def __init__(self, peer: str, *, began: list[str]) -> None:
        self.began = began


@pytest.mark.parametrize("held", [[], ["admin", "writer"]])
async def test_a_call_of_a_session_is_refused_before_its_request_is_decoded_and_the_session_goes_on(transport: Transport, held: list[str]) -> None:
    began = list[str]()

    def frames(sink: RawStream) -> list[tuple[int, bytes]]:
        return list(FrameReader(frame_limits(1 << 20, SESSION_RESPONSE_KINDS)).feed(bytes(sink.received)))

    async with (
        aster.serve([functools.partial(Staffed, began=began)], transport=transport, authorize=_grants(*held)) as server,
        raw(server, transport) as peer,
    ):
        await peer.said_hello()
        stream, sink = peer.call(encode_session("Staffed", 1))
        for number, method in enumerate([*_CALLS, "free"]):
            # A client begins no call before the one ahead of it has ended.
            await until(lambda number=number: sum(kind in (FrameKind.READY, FrameKind.CALL_END) for kind, _ in frames(sink)) == number + 1)
            requests = _UNDECODABLE if method != "free" else encode_message(encode_item(Item(3)))
            stream.write(encode_call(number, _header(method, "Staffed") + requests + END))
        await until(lambda: [kind for kind, _ in frames(sink)].count(FrameKind.CALL_END) == len(_CALLS) + 1)
        answers: dict[int, bytes] = {}
        for number, data in [decode_call(payload) for kind, payload in frames(sink) if kind == FrameKind.CALL]:
            answers[number] = answers.get(number, b"") + data
    outcomes: list[StatusCode] = []
    for number in range(len(_CALLS) + 1):
        kind, payload = list(FrameReader(frame_limits(1 << 20)).feed(answers[number]))[-1]
        assert kind == FrameKind.TRAILER
        outcomes.append(decode_trailer(payload, 1 << 20).status)
    assert outcomes == [StatusCode.INVALID_ARGUMENT if held else StatusCode.PERMISSION_DENIED] * len(_CALLS) + [StatusCode.OK]
    assert held or not began


class Elsewhere(Guarded):
    """What serves an interface, without a word of what that requires."""

    @rpc
    async def same(self, item: Recorded) -> Item:
        return await super().same(item)


async def test_an_implementation_requires_what_its_interface_does(running: Running) -> None:
    async with running(Elsewhere(), authorize=_grants("writer")) as (_, client):
        assert (await error_of((await client.client(Guarded)).same(Recorded()))).code is StatusCode.PERMISSION_DENIED
    async with running(Elsewhere(), authorize=_grants("admin")) as (_, client):
        assert await (await client.client(Guarded)).same(Recorded(1)) == Item(1)


async def test_a_refusal_comes_on_the_header_while_the_requests_are_still_made(running: Running) -> None:
    closed = anyio.Event()

    async def requests() -> AsyncIterator[Recorded]:
        try:
            await anyio.sleep_forever()
            yield Recorded()
        finally:
            closed.set()

    async with running(Guarded(), authorize=_grants()) as (_, client):
        stub = await client.client(Guarded)
        assert (await error_of(stub.total(requests()))).code is StatusCode.PERMISSION_DENIED
        assert closed.is_set()


async def test_a_method_that_is_not_there_is_unimplemented_whatever_the_caller_holds(transport: Transport) -> None:
    async with (
        aster.serve([Guarded()], transport=transport, authorize=_grants()) as server,
        raw(server, transport) as peer,
    ):
        await peer.said_hello()
        target = target_of("nowhere", service="Guarded")
        _, sink = peer.call(encode_header(encode_header_start(target), None, Metadata()))
        assert (await sink.trailer()).status is StatusCode.UNIMPLEMENTED
        target = target_of("same", service="Guarded", pattern=RpcPattern.BIDI_STREAM)
        _, sink = peer.call(encode_header(encode_header_start(target), None, Metadata()))
        assert (await sink.trailer()).status is StatusCode.FAILED_PRECONDITION


async def test_a_client_does_not_repeat_what_it_was_denied(transport: Transport) -> None:
    asked = list[str]()

    def answer(stream: Stream, header: Header) -> None:
        asked.append(header.target.method)
        stream.write(encode_trailer(Trailer(StatusCode.PERMISSION_DENIED, TrailerOrigin.REFUSED, "no")))
        stream.finish()

    async with raw_server((manifest_of(Guarded),), transport, answer) as address, aster.connect(address, transport=transport) as client:
        stub = await client.client(Guarded)
        assert (await error_of(stub.same(Recorded()))).code is StatusCode.PERMISSION_DENIED
        assert asked == ["same"]


async def test_each_caller_holds_its_own(transport: Transport) -> None:
    admin, guest = aster.Identity.generate(), aster.Identity.generate()
    async with (
        aster.serve([Guarded()], transport=transport, authorize={admin.endpoint_id: "admin"}) as server,
        aster.connect(server.address, transport=transport, identity=admin) as one,
        aster.connect(server.address, transport=transport, identity=guest) as other,
    ):
        assert await (await one.client(Guarded)).same(Recorded(1)) == Item(1)
        assert (await error_of((await other.client(Guarded)).same(Recorded(1)))).code is StatusCode.PERMISSION_DENIED


async def test_a_handler_finds_what_its_caller_holds(running: Running) -> None:
    @service("Whoami")
    class Whoami:
        @rpc
        async def roles(self, item: Item) -> Item:
            return Item(text=" ".join(sorted(aster.current_call().capabilities)))

    async with running(Whoami(), authorize=_grants("writer", "reader")) as (_, client):
        assert (await (await client.client(Whoami)).roles(Item())).text == "reader writer"
    async with running(Whoami()) as (_, client):
        assert (await (await client.client(Whoami)).roles(Item())).text == ""


async def test_where_nothing_is_required_nothing_is_looked_at(running: Running) -> None:
    async with running(Echo(), authorize=_grants()) as (_, client):
        assert await (await client.client(Echo)).same(Item(1)) == Item(1)
        assert server_record(client).capabilities == frozenset()


# Against a model


_ROLES = ["a", "b", "c"]
_groups = st.lists(st.sampled_from(_ROLES), min_size=1, max_size=3, unique=True)
_requirements = st.one_of(
    st.none(),
    st.sampled_from(_ROLES).map(role),
    _groups.map(lambda names: any_of(*names)),
    _groups.map(lambda names: all_of(*names)),
)


def _model(requirement: CapabilityRequirement | None, held: set[str]) -> bool:
    if requirement is None:
        return True
    wanted = set(requirement.roles)
    return bool(wanted & held) if requirement.kind == "any_of" else wanted <= held


def _service_of(of_service: CapabilityRequirement | None, of_method: CapabilityRequirement | None) -> type:
    @service("Drawn", requires=of_service)
    class Drawn:
        @rpc(requires=of_method)
        async def same(self, item: Recorded) -> Item:
            return Item(item.number)

        @server_stream(requires=of_method)
        async def count(self, item: Recorded) -> AsyncIterator[Item]:
            yield Item(item.number)

        @client_stream(requires=of_method)
        async def total(self, items: AsyncIterator[Recorded]) -> Item:
            return Item(sum([item.number async for item in items]))

        @bidi_stream(requires=of_method)
        async def chat(self, items: AsyncIterator[Recorded]) -> AsyncIterator[Item]:
            async for item in items:
                yield Item(item.number)

    return Drawn


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
@settings(max_examples=12)  # each has a connection to make
@given(levels=st.lists(st.tuples(_requirements, _requirements), min_size=1, max_size=8), held=st.sets(st.sampled_from(_ROLES)))
async def test_a_call_is_served_exactly_when_its_caller_meets_what_both_levels_require(
    make_transport: Callable[[], Transport], levels: list[tuple[CapabilityRequirement | None, CapabilityRequirement | None]], held: set[str]
) -> None:
    transport = make_transport()
    classes: list[Any] = [_service_of(*each) for each in levels]
    services = [aster.service("Drawn", version=version)(type(f"Drawn{version}", (cls,), {}))() for version, cls in enumerate(classes, 1)]
    async with (
        aster.serve(services, transport=transport, authorize=_grants(*held)) as server,
        aster.connect(server.address, transport=transport) as client,
    ):
        for instance, (of_service, of_method) in zip(services, levels, strict=True):
            stub: Any = await client.client(type(instance))
            for call in _CALLS.values():
                request = Recorded(7)
                _decoded.clear()
                if _model(of_service, held) and _model(of_method, held):
                    assert await call(stub, request) == Item(7)
                else:
                    assert (await error_of(call(stub, request))).code is StatusCode.PERMISSION_DENIED
                    await calls_are_over(client)
                    assert _decoded == []
