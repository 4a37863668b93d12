"""What a hostile server can do to a client: fail its calls, and nothing else."""

from __future__ import annotations

import anyio
import pytest

import aster
from aster import RpcError, StatusCode
from aster._protocol.events import Header, MethodEntry, ServiceEntry, Setting, Trailer
from aster._protocol.frames import FrameKind, encode_credit, encode_frame, encode_message, encode_trailer
from aster._protocol.values import encode_varint
from aster.codec import make_codec
from aster.decorators import service_info
from aster.errors import IncompatiblePeerError
from aster.transports.base import Stream, Transport
from aster.types import RpcPattern, SerializationMode
from tests.rpc.echo import Echo, Item, Nothing
from tests.rpc.raw import END, manifest_of, raw_server

pytestmark = pytest.mark.anyio

_CODEC = make_codec(SerializationMode.XLANG, service_info(Echo).wire_tags)
_ITEM = encode_message(_CODEC.encoder(Item)(Item(1)))
_NOTHING = encode_message(_CODEC.encoder(Nothing)(Nothing()))
_OK = encode_trailer(Trailer())
_MOST = (1 << 62) - 1


def _announced(kind: int, size: int) -> bytes:
    """The beginning of a frame that claims to be so long."""
    return bytes((kind,)) + encode_varint(size)


_ANSWERS: dict[str, tuple[bytes, StatusCode]] = {
    "a trailer of a gigabyte": (_announced(FrameKind.TRAILER, 1 << 30), StatusCode.RESOURCE_EXHAUSTED),
    "a trailer of all there is": (_announced(FrameKind.TRAILER, _MOST), StatusCode.RESOURCE_EXHAUSTED),
    "metadata of a gigabyte": (_announced(FrameKind.METADATA, 1 << 30), StatusCode.RESOURCE_EXHAUSTED),
    "a message of a gigabyte": (_announced(FrameKind.MESSAGE, 1 << 30), StatusCode.INTERNAL),
    "an extension of a gigabyte": (_announced(0x77, 1 << 30), StatusCode.INTERNAL),
    "a frame that is not known": (b"\x20\x00" + _ITEM + _OK, StatusCode.INTERNAL),
    "a header": (encode_frame(FrameKind.HEADER, b""), StatusCode.INTERNAL),
    "an end of requests": (END, StatusCode.INTERNAL),
    "two responses": (_ITEM + _ITEM + _OK, StatusCode.INTERNAL),
    "no response": (_OK, StatusCode.INTERNAL),
    "a response of nonsense": (encode_message(bytes(range(100))) + _OK, StatusCode.INTERNAL),
    "more credit than was used": (encode_credit(_MOST) + _ITEM + _OK, StatusCode.INTERNAL),
    "parts beyond the largest message": (encode_frame(FrameKind.PART, bytes(16_384)) * 300, StatusCode.RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize("name", _ANSWERS)
async def test_an_answer_that_breaks_a_rule_fails_its_call_and_no_other(transport: Transport, name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, code = _ANSWERS[name]

    def reply(stream: Stream, header: Header) -> None:
        stream.write(answer if header.target.method == "same" else _NOTHING + _OK)
        stream.finish()

    async with raw_server((manifest_of(Echo),), transport, reply) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        for _ in range(3):
            with pytest.raises(RpcError) as caught:
                await echo.same(Item(1))
            assert caught.value.code is code, caught.value
            assert await echo.nothing(Nothing()) == Nothing()
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


async def test_what_comes_after_the_outcome_changes_nothing(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    async def late(stream: Stream) -> None:
        await anyio.sleep(0.01)  # in a packet of its own
        stream.write(_ITEM * 10 + _OK + _announced(FrameKind.TRAILER, 1 << 30))
        stream.finish()

    def reply(stream: Stream, header: Header) -> None:
        stream.write(_ITEM + _OK)
        group.start_soon(late, stream)

    async with (
        anyio.create_task_group() as group,
        raw_server((manifest_of(Echo),), transport, reply) as address,
        aster.connect(address, transport=transport) as client,
    ):
        echo = await client.client(Echo)
        for _ in range(5):
            assert await echo.same(Item(1)) == Item(1)
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


_METHODS = tuple(MethodEntry(f"method_{number}", RpcPattern.UNARY, frozenset(SerializationMode)) for number in range(5_000))


async def test_a_hello_that_promises_everything_is_taken_for_what_this_client_can_do(transport: Transport) -> None:
    def reply(stream: Stream, header: Header) -> None:
        stream.write(_NOTHING + _OK)
        stream.finish()

    settings: dict[int, int] = dict.fromkeys((Setting.WINDOW, Setting.MESSAGE_LIMIT, Setting.METADATA_LIMIT, Setting.CALL_LIMIT, Setting.SESSION_LIMIT), _MOST)
    services = (manifest_of(Echo), ServiceEntry("Large", 1, False, b"", _METHODS))
    async with raw_server(services, transport, reply, settings) as address, aster.connect(address, transport=transport) as client:
        echo = await client.client(Echo)
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(echo.nothing, Nothing())


@pytest.mark.parametrize("setting", [Setting.WINDOW, Setting.MESSAGE_LIMIT, Setting.METADATA_LIMIT, Setting.CALL_LIMIT])
async def test_a_hello_that_allows_nothing_is_refused_by_the_name_of_the_limit(transport: Transport, setting: Setting) -> None:
    async with raw_server((manifest_of(Echo),), transport, lambda stream, header: None, {setting: 0}) as address:
        with pytest.raises(IncompatiblePeerError, match=setting.name):
            async with aster.connect(address, transport=transport):
                pass
