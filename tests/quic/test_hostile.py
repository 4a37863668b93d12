"""Whatever arrives, the listener lives, honest clients do not notice, and the log stays quiet."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator

import anyio
import pytest
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicErrorCode, QuicHeader, encode_quic_version_negotiation

from aster.testing.recorders import TransportPair, open_pair
from aster.transports.base import ConnectionOptions
from aster.transports.quic import QuicTransport, admission, engine, listener, packets
from aster.transports.quic.connection import Datagrams, QuicConnection
from aster.trust import Address, Identity
from tests.quic.raw import RawPeer, handshakes_at, raw_configuration

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Peers cause nothing above INFO, on any logger."""
    yield
    loud = [record for record in caplog.get_records("call") if record.levelno > logging.INFO]
    assert not loud, [record.getMessage() for record in loud]


async def _still_serves(pair: TransportPair) -> None:
    """The first client and a new one are served."""
    await pair.connect()
    for owner in (pair.client, pair.connected[-1]):
        stream = pair.open(owner)
        stream.write(b"still there?")
        await pair.until(lambda stream=stream: bytes(stream.data) == b"still there?", "an honest client was served")


def _garbage(seed: int) -> Iterator[bytes]:
    """Random bytes, and headers of every kind with random bytes behind them."""
    chance = random.Random(seed)
    yield b""
    for first in range(256):
        yield bytes([first])
        yield bytes([first]) + chance.randbytes(chance.choice([20, 40, 1_199, 1_200, 1_500]))
        # A long header of version 1 with ids of every length, those that are cut short included.
        ids = bytes([chance.randrange(256)]) + chance.randbytes(chance.randrange(30))
        yield bytes([first | 0xC0, 0, 0, 0, 1]) + ids + chance.randbytes(1_300)
    yield encode_quic_version_negotiation(source_cid=b"12345678", destination_cid=b"87654321", supported_versions=[1]) + bytes(1_200)
    yield bytes(65_507)  # as large as a datagram can be


async def test_garbage_is_ignored() -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for count, data in enumerate(_garbage(1)):
                sock.sendto(data, (pair.listener.host, pair.listener.port))
                if count % 32 == 0:  # or the socket's buffer would drop most of it
                    stream = pair.open()
                    stream.write(b"x")
                    await pair.until(lambda stream=stream: stream.data, "an honest client was served")
        await _still_serves(pair)
        assert len(pair.accepted) == 2


class _Meddler:
    """Stands between a client and a listener, passes every datagram on, and sends damaged and repeated copies of it besides, from elsewhere too."""

    def __init__(self, pair: TransportPair) -> None:
        self.near, self.far, self.elsewhere = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
        for sock in (self.near, self.far, self.elsewhere):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        self.server = (pair.listener.host, pair.listener.port)
        self.address = Address(pair.server_identity.endpoint_id, "127.0.0.1", self.near.getsockname()[1])
        self.copies = 0
        self._client: tuple[str, int] | None = None
        self._chance = random.Random(2)
        self._old: list[bytes] = []

    def close(self) -> None:
        for sock in (self.near, self.far, self.elsewhere):
            sock.close()

    async def upstream(self) -> None:
        while True:
            await anyio.wait_readable(self.near)
            data, self._client = self.near.recvfrom(65_535)
            self.far.sendto(data, self.server)
            self._old.append(data)
            for copy in self._damaged(data):
                self._send_quietly(self._chance.choice([self.far, self.elsewhere]), copy, self.server)

    async def downstream(self) -> None:
        while True:
            await anyio.wait_readable(self.far)
            data = self.far.recv(65_535)
            assert self._client is not None
            self.near.sendto(data, self._client)
            for copy in self._damaged(data):
                self._send_quietly(self.near, copy, self._client)

    def _damaged(self, data: bytes) -> list[bytes]:
        flipped = bytearray(data)
        flipped[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        return [data[: self._chance.randrange(len(data))], bytes(flipped), data + b"\x40\xff", self._chance.choice(self._old)]

    def _send_quietly(self, sock: socket.socket, data: bytes, addr: tuple[str, int]) -> None:
        try:
            sock.sendto(data, addr)
        except BlockingIOError:
            return
        self.copies += 1


async def test_damaged_and_repeated_packets_disturb_nobody() -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        meddler = _Meddler(pair)
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(meddler.upstream)
                task_group.start_soon(meddler.downstream)
                await pair.connect(address=meddler.address)
                owner = pair.connected[-1]
                for number in range(30):
                    stream = pair.open(owner)
                    stream.write(b"%d" % number * 100)
                    stream.finish()
                    await pair.until(lambda stream=stream, number=number: bytes(stream.data) == b"%d" % number * 100, "the honest client was served")
                task_group.cancel_scope.cancel()
        finally:
            meddler.close()
        assert meddler.copies > 200
        assert pair.connected[1].lost is None
        await _still_serves(pair)


async def _expect_closed_by(pair: TransportPair, raw: RawPeer, code: int) -> None:
    with anyio.fail_after(10):
        await raw.run(lambda: raw.closed)
    assert raw.closed is not None
    assert raw.closed.error_code == code
    await pair.until(lambda: pair.accepted[-1].lost, "the owner was told")
    assert "broke a rule of QUIC" in str(pair.accepted[-1].lost)


async def test_a_unidirectional_stream_breaks_the_protocol() -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port))
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: len(pair.accepted) == 2)
                # aioquic itself keeps to the limit that it was told, so it must be made to forget it.
                vars(raw.engine)["_remote_max_streams_uni"] = 1
                raw.engine.send_stream_data(2, b"x")
            await _expect_closed_by(pair, raw, QuicErrorCode.STREAM_LIMIT_ERROR)
        finally:
            raw.close()
        assert not pair.accepted[1].streams
        await _still_serves(pair)


async def test_more_streams_than_allowed_break_the_protocol() -> None:
    async with open_pair(QuicTransport, options=ConnectionOptions(max_streams=3), on_data=lambda stream, data: stream.write(data)) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port))
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: len(pair.accepted) == 2)
            vars(raw.engine)["_remote_max_streams_bidi"] = 4
            raw.engine.send_stream_data(12, b"x")
            await _expect_closed_by(pair, raw, QuicErrorCode.STREAM_LIMIT_ERROR)
        finally:
            raw.close()
        await _still_serves(pair)


async def test_a_server_that_opens_a_stream_is_left() -> None:
    identity = Identity.generate()
    raw = RawPeer(raw_configuration(is_client=False, identity=identity))
    try:
        async with open_pair(QuicTransport, connect=False) as pair, anyio.create_task_group() as task_group:
            task_group.start_soon(raw.run, lambda: raw.closed)
            owner = await pair.connect(address=Address(identity.endpoint_id, "127.0.0.1", raw.port))
            vars(raw.engine)["_remote_max_streams_bidi"] = 1
            raw.engine.send_stream_data(1, b"x")
            raw.flush()
            await pair.until(lambda: owner.lost, "the client left")
            assert "broke a rule of QUIC" in str(owner.lost)
            assert not owner.streams
    finally:
        raw.close()


async def test_an_engine_that_fails_ends_its_connection_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        victim = await pair.connect()
        await pair.until(lambda: len(pair.accepted) == 2, "the victim was accepted")
        broken: list[engine.Engine] = []
        receive = engine.Engine.receive_datagram

        def fail_once(self: engine.Engine, data: bytes, addr: object, now: float) -> None:
            if not broken and not self.configuration.is_client:
                broken.append(self)
                raise AssertionError("the engine has a bug")
            receive(self, data, addr, now)

        monkeypatch.setattr(engine.Engine, "receive_datagram", fail_once)
        pair.open(victim).write(b"x")
        await pair.until(lambda: victim.lost, "the victim's connection ended")
        assert broken
        assert pair.accepted[1].lost is not None
        assert pair.server.lost is None
        await _still_serves(pair)


async def test_an_engine_that_fails_to_send_ends_its_connection_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        victim = await pair.connect()
        await pair.until(lambda: len(pair.accepted) == 2, "the victim was accepted")

        send = engine.Engine.datagrams_to_send
        assert isinstance(victim.connection, QuicConnection)
        broken = victim.connection.engine

        def fail(self: engine.Engine, now: float) -> Datagrams:
            if self is broken:
                raise AssertionError("the engine has a bug")
            return send(self, now)

        monkeypatch.setattr(engine.Engine, "datagrams_to_send", fail)
        pair.open(victim).write(b"x")
        await pair.until(lambda: victim.lost, "the victim's connection ended")
        assert "internal error" in str(victim.lost)
        await _still_serves(pair)


async def test_above_a_number_of_handshakes_clients_must_prove_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RETRY_ABOVE", 0)
    retries: list[bytes] = []
    retry = packets.retry

    def count(header: QuicHeader, *, source_id: bytes, token: bytes) -> bytes:
        retries.append(retry(header, source_id=source_id, token=token))
        return retries[-1]

    monkeypatch.setattr(packets, "retry", count)
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        await _still_serves(pair)
        assert len(retries) == 2
        assert max(len(data) for data in retries) < 1_200 / 3  # the answer to a forged address is no weapon


async def test_above_a_number_of_unfinished_handshakes_alone_clients_are_asked_to_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RETRY_ABOVE", 3)
    asked: list[bytes] = []
    retry = packets.retry

    def count(header: QuicHeader, *, source_id: bytes, token: bytes) -> bytes:
        asked.append(token)
        return retry(header, source_id=source_id, token=token)

    monkeypatch.setattr(packets, "retry", count)
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        for _ in range(4):
            await pair.connect(identity=Identity.generate())
        assert not asked, "a finished handshake counts no more"
        begun = [RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port)) for _ in range(3)]
        try:
            for number, raw in enumerate(begun, start=1):
                raw.flush()  # a first packet, and silence
                await pair.until(lambda number=number: handshakes_at(pair) == number, "the handshake began")
            assert not asked
            await pair.connect(identity=Identity.generate())
            assert len(asked) == 1
            assert handshakes_at(pair) == 3
            with anyio.fail_after(10):
                for raw in begun:
                    await raw.run(lambda raw=raw: raw.seen(HandshakeCompleted))
            await pair.until(lambda: handshakes_at(pair) == 0, "the handshakes were finished")
            await pair.connect(identity=Identity.generate())
            assert len(asked) == 1
        finally:
            for raw in begun:
                raw.close()


async def test_a_forged_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(QuicTransport, connect=False) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate(), token=b"t" * 60), (pair.listener.host, pair.listener.port))
        try:
            with anyio.fail_after(10):
                await raw.run(lambda: raw.closed)
        finally:
            raw.close()
        assert raw.closed is not None
        assert raw.closed.error_code == QuicErrorCode.INVALID_TOKEN
        assert not pair.accepted


async def test_above_the_rate_of_handshakes_nobody_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair(QuicTransport, on_data=lambda stream, data: stream.write(data)) as pair:
        arrived: list[bytes] = []
        answered: list[bytes] = []
        stranger, send_one = listener.QuicListener._stranger, listener.QuicListener._send_one  # pyright: ignore[reportPrivateUsage]

        def note_arrival(self: listener.QuicListener, data: bytes, addr: object, now: float) -> listener.ServerConnection | None:
            arrived.append(data)
            return stranger(self, data, addr, now)

        def note_answer(self: listener.QuicListener, data: bytes, addr: object) -> None:
            if addr == raw.socket.getsockname():
                answered.append(data)
            send_one(self, data, addr)

        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port))
        try:
            with monkeypatch.context() as patch:
                patch.setattr(admission, "MAX_RATE", 0)
                patch.setattr(listener.QuicListener, "_stranger", note_arrival)
                patch.setattr(listener.QuicListener, "_send_one", note_answer)
                raw.flush()
                await pair.until(lambda: arrived, "the first packet arrived")
                assert not answered
                assert handshakes_at(pair) == 0
        finally:
            raw.close()
        await _still_serves(pair)


async def test_an_unfinished_handshake_is_dropped_in_time() -> None:
    # Real time: the handshake's own clock is what is tested.
    async with open_pair(QuicTransport, connect=False, options=ConnectionOptions(handshake_timeout=0.05)) as pair:
        raw = RawPeer(raw_configuration(is_client=True, identity=Identity.generate()), (pair.listener.host, pair.listener.port))
        try:
            raw.flush()
            await pair.until(lambda: handshakes_at(pair) == 1, "the handshake began")
            await pair.until(lambda: handshakes_at(pair) == 0, "the handshake was dropped")
        finally:
            raw.close()
        assert not pair.accepted
        await pair.connect()
