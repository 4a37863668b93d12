"""A client that was written from ``docs/wire.md`` alone, as one in another language would be, gets on with Aster's server."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest

from aster._protocol.events import Setting, TrailerOrigin
from aster._protocol.frames import FrameKind, FrameReader, decode_credit, decode_trailer, encode_credit, encode_header, encode_header_start, encode_message
from aster.codec import make_codec
from aster.decorators import service, service_info
from aster.errors import StatusCode
from aster.transports.base import Stream, Transport
from aster.types import Metadata, RpcPattern, SerializationMode, role
from tests.protocol.vectors import rows
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, OpenEnded
from tests.rpc.raw import END, RawStream, header_of, raw_client, target_of

pytestmark = pytest.mark.anyio

_CHARGE = 64
_RESPONSES = {int(kind): 1 << 20 for kind in (FrameKind.MESSAGE, FrameKind.CREDIT, FrameKind.TRAILER)}


@dataclass
class _Chat:
    """A bidirectional call: sends what credit allows, and grants by half of the window, as the page's section on credit says."""

    window: int
    to_send: list[bytes]
    stream: Stream = field(init=False)
    sink: RawStream = field(init=False)
    echoed: list[bytes] = field(default_factory=list[bytes])
    outstanding: int = 0
    taken: int = 0
    unread: int = 0
    most_unread: int = 0
    grants_heard: int = 0
    grants_sent: int = 0
    status: int | None = None

    def __post_init__(self) -> None:
        self._reader = FrameReader(_RESPONSES)
        self.sink = RawStream(self._arrived)

    def send(self) -> None:
        """Begin messages while what is outstanding is below the window; the end follows the last."""
        while self.to_send and self.outstanding < self.window:
            message = self.to_send.pop(0)
            self.outstanding += len(message) + _CHARGE
            self.stream.write(encode_message(message) + (b"" if self.to_send else END))

    def _arrived(self) -> None:
        data = bytes(self.sink.received)
        self.sink.received.clear()
        for kind, payload in self._reader.feed(data):
            if kind == FrameKind.MESSAGE:
                self._take(payload)
            elif kind == FrameKind.CREDIT:
                self.outstanding -= decode_credit(payload)
                self.grants_heard += 1
            else:
                self.status = decode_trailer(payload, 1 << 20).status
        # What was granted is a window or less: the server cannot have sent more than that and one message since.
        self.most_unread = max(self.most_unread, self.unread)
        if 2 * self.taken >= self.window and self.status is None:
            self.stream.write(encode_credit(self.taken))
            self.unread -= self.taken
            self.taken = 0
            self.grants_sent += 1
        self.send()

    def _take(self, payload: bytes) -> None:
        self.echoed.append(payload)
        self.taken += len(payload) + _CHARGE
        self.unread += len(payload) + _CHARGE


@pytest.mark.parametrize(("of_client", "of_server"), [(1_000, 262_144), (262_144, 1_000)], ids=["the client's is smaller", "the server's is smaller"])
async def test_a_client_that_grants_by_half_of_the_smaller_window_gets_all_responses(
    running: Running, transport: Transport, of_client: int, of_server: int
) -> None:
    encode = make_codec(SerializationMode.XLANG, service_info(Echo).wire_tags).encoder(Item)
    messages = [encode(Item(number, data=bytes(100))) for number in range(100)]
    settings: dict[int, int] = {Setting.WINDOW: of_client}
    async with running(Echo(), window=of_server) as (server, _), raw_client(server.address, transport, settings) as raw:
        window = min(of_client, raw.hello.settings[Setting.WINDOW])
        chat = _Chat(window, list(messages))
        chat.stream = raw.connection.open_stream(chat.sink)
        chat.stream.write(header_of("chat"))
        chat.send()
        await chat.sink.ended.wait()
        chat.stream.finish()
    assert (chat.status, chat.echoed) == (StatusCode.OK, messages)
    assert chat.grants_heard > 5
    assert chat.grants_sent > 5
    assert chat.most_unread < window + max(map(len, messages)) + _CHARGE


@service("Guarded", requires=role("nobody"))
class Guarded(Echo):
    """Which nobody may call."""


@service("Roomy", scoped="stream")
class Roomy(Echo):
    """Which is called in sessions."""

    def __init__(self, peer: str) -> None:
        """Never made here."""


_REFUSALS = {row[0]: row[1] for row in rows("status of a refusal", "when")}


async def test_each_refusal_carries_the_status_that_the_page_gives(running: Running, transport: Transport) -> None:
    open_ended = OpenEnded()
    seen: dict[str, TrailerOrigin] = {}
    services = (Echo(), open_ended, Guarded(), Roomy)
    async with running(*services, max_concurrent_calls=1, authorize={}) as (server, _), raw_client(server.address, transport) as raw:

        async def refused(method: str, **target: object) -> None:
            trailer = await raw.outcome_of(target_of(method, **target), encode_message(b"") + END)  # pyright: ignore[reportArgumentType]
            seen[trailer.status.name] = trailer.origin

        await refused("unheard")
        await refused("same", service="Guarded")
        await refused("same", service="Roomy")
        await refused("same", pattern=RpcPattern.SERVER_STREAM)
        async with anyio.create_task_group() as group:
            sink = RawStream()
            held = raw.connection.open_stream(sink)
            held.write(encode_header(encode_header_start(target_of("collect", service="Open", pattern=RpcPattern.CLIENT_STREAM)), None, Metadata()))
            held.write(encode_message(make_codec(SerializationMode.XLANG, service_info(OpenEnded).wire_tags).encoder(Item)(Item())))
            await open_ended.begun.wait()
            await refused("same")
            group.start_soon(server.drain, 5.0)
            await anyio.wait_all_tasks_blocked()
            await refused("same")
            held.write(END)
            held.finish()
            await sink.ended.wait()
    assert set(seen) == set(_REFUSALS)
    assert set(seen.values()) == {TrailerOrigin.REFUSED}
