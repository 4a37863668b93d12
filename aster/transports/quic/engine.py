"""aioquic's sans-I/O connection, with the few changes that Aster needs. The only module that touches aioquic's private names.

What it needs of them is either essential (``Engine``), so that a version of aioquic without it is refused, or an improvement (``ActiveEngine``), without which
the plain class serves; ``check.py`` finds out which.
"""

# This module is the wall around aioquic's private names; nothing outside it uses one.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aioquic.buffer import Buffer  # pyright: ignore[reportPrivateImportUsage] # its documented place
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicConnectionState
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import QuicEvent
from aioquic.quic.packet import QuicErrorCode, QuicHeader, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["ALPN", "CONNECTION_ID_LENGTH", "CONNECTION_WINDOW", "STREAM_WINDOW", "VERSIONS", "ActiveEngine", "Engine", "EngineEnd"]

ALPN = "aster/1"
CONNECTION_ID_LENGTH = 8
VERSIONS = [int(QuicProtocolVersion.VERSION_1)]
"""QUIC version 1 alone (RFC 9000): with a second version every handshake derives keys for both, and gains nothing."""

STREAM_WINDOW = 2 * 1024 * 1024
"""Bytes of one stream that a peer may have under way, counted from the first that is missing here. What arrives is passed on at once, so that this need cover
no message, only what a path carries in a round trip: 100 ms at 160 Mbit/s, about what one core sends in datagrams for the internet."""

CONNECTION_WINDOW = 4 * 1024 * 1024
"""The same over all streams of a connection, twice as much so that one stream with a gap does not hold up the others. This is the memory that a peer can take
here for data out of order, however it spreads it, since a single byte at the end of a window takes all of it."""

_MAX_CRYPTO = 64 * 1024
"""Bytes of each of the handshake's three streams from its beginning to its end. They need no key and no identity, and aioquic waits for a message of up to
16 MiB, copying what it has of it at each piece. Aster's whole handshake is some 2 KB, that of a server with a long chain of certificates some 10 KB."""

_MAX_PIECES = 256
"""Pieces of a stream behind its first gap; each costs memory and time at each later one. A lossy network makes some dozens at a time."""

_MAX_CRYPTO_PIECES = 32
"""The same for the handshake, which takes a handful of packets. Some clients of other makes cut their first message into a dozen pieces on purpose."""

_MAX_ACK_RANGES = 512
"""Ranges of an acknowledgement, whose cost is quadratic in aioquic: tenths of a second for as many as a datagram can hold. aioquic sends 64 at most."""

_MAX_IN_FLIGHT = 4096
"""Packets that ask for an acknowledgement and have none. Their bytes are bounded by the congestion window, their number is not: a peer that acknowledges much
widens the window, and could then have it filled with the smallest packets, each of which takes half a kilobyte here. As many full ones carry a window of
Aster's."""

_MAX_BARE_ACKS = 128
"""Packets with nothing but an acknowledgement that are remembered, to learn what the peer has heard. It need not acknowledge those, and one that only asks for
acknowledgements never does."""

_MAX_ISLANDS = 256
"""Acknowledged pieces of a stream behind the first gap, above which nothing new of it is sent until gaps are closed. Each costs time at each later
acknowledgement: 7,000 of them took a second. Pieces that were under way already come on top."""

_MAX_ID_NUMBERS = 64
"""Numbers of the peer's connection ids, in use or retired, that are remembered one by one. Eight can be in use."""

_MAX_REASON = 256
"""Bytes of a close reason: the whole frame must fit into one packet of 1,200 bytes next to a second and third copy for the handshake's keys."""

_SMALLEST_FRAME = 20
"""Bytes of a packet below which a frame with data may not fit: type, stream, offset, length and the first byte."""

_logger = logging.getLogger("aster.quic")


class _EngineLog:
    """Stands in for aioquic's logger: what peers do is theirs, so nothing that they cause may come out above DEBUG, nor under another library's name."""

    def __init__(self, connection_id: bytes) -> None:
        self._id = connection_id.hex()

    def debug(self, msg: object, *args: object) -> None:
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("[%s] %s", self._id, str(msg) % args if args else msg)

    info = warning = error = debug


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """Why an engine's connection is over.

    Attributes:
        by_peer: the peer sent CONNECTION_CLOSE.
        silently: nobody sent anything: the idle timeout, no usable path, or no common QUIC version.
        code: an error code of QUIC, or of the application.
        application: whether ``code`` is the application's.
        reason: what the closing side said.
    """

    by_peer: bool
    silently: bool
    code: int
    application: bool
    reason: str


class _TooManyPieces(Exception):
    """A packet would leave more gaps than are kept, or names more. It is dropped unacknowledged, as if the network had lost it, so that an honest peer sends
    its data again when the gaps are filled; to close would punish one whose path drops every other packet of a burst."""


class Engine(QuicConnection):
    """One QUIC connection without I/O, for mutual TLS over Ed25519 keys and for bidirectional streams that the client opens.

    What a peer may send is counted from what was delivered, where aioquic doubles its limits by the highest offset seen, so that a few bytes far ahead would
    take gigabytes.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        max_streams: int,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        log: Any = _EngineLog(self._original_destination_connection_id or b"")
        self._logger = log
        self._loss._logger = log
        # A limit of zero makes the engine itself refuse the streams that the protocol does not have.
        _set_limit(self._local_max_streams_bidi, 0 if configuration.is_client else max_streams)
        _set_limit(self._local_max_streams_uni, 0)
        self._version_mismatch = False
        self._delivered = 0
        self._raise_connection_at = configuration.max_data // 4
        self._heard_at = -math.inf
        self._newest_id_sent = 0
        self._proved_address: Any = None
        self.event_queue: deque[QuicEvent] = self._events

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # Without effect on a client, which answers a request by itself.
        self.tls._request_client_certificate = True

    def _receive_version_negotiation_packet(self, header: QuicHeader, now: float) -> None:
        super()._receive_version_negotiation_packet(header=header, now=now)
        self._version_mismatch = self._close_event is not None

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        idle_at, shaking_hands = self._close_at, not self._handshake_complete
        try:
            super().receive_datagram(data, addr, now)
        except _TooManyPieces:
            self._logger.debug("A packet that would leave too many gaps was dropped")
        if self._close_at != idle_at:  # set for each packet that is the peer's beyond doubt
            self._heard_at = now
        if shaking_hands and not self._configuration.is_client:
            self._doubt_addresses()

    def _doubt_addresses(self) -> None:
        """Let the handshake prove the address that it took place with, and none if there were several: what proves one address may have been sent to another,
        and so a client could name a stranger's. Such an address is proved by a challenge, as any later one (RFC 9000, sections 8.1 and 9.3)."""
        paths = self._network_paths
        if len(paths) == 1:
            self._proved_address = paths[0].addr if paths[0].is_validated else None
        else:
            for path in paths:
                path.is_validated &= path.addr == self._proved_address

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        path = self._network_paths[0]
        datagrams = self._datagrams_in_bounds(now)
        # aioquic keeps to three times what came from an address that is not proved (RFC 9000, section 8.1), but for the close of the connection. Whoever
        # wrote from a forged address need not be told.
        return datagrams if path.is_validated or path.bytes_sent <= 3 * path.bytes_received else []

    def _datagrams_in_bounds(self, now: float) -> list[tuple[bytes, Any]]:
        """What there is to send, with no more in flight than is kept a record of."""
        congestion = self._loss._cc
        window = congestion.congestion_window
        room = self._room_in_flight() * self._max_datagram_size
        if room < window - congestion.bytes_in_flight:
            congestion.congestion_window = congestion.bytes_in_flight + room
        try:
            return super().datagrams_to_send(now)
        finally:
            congestion.congestion_window = window
            for space in self._loss.spaces:
                if len(space.sent_packets) - space.ack_eliciting_in_flight > 2 * _MAX_BARE_ACKS:
                    self._forget_bare_acks(space)

    def _room_in_flight(self) -> int:
        """How many packets more may ask for an acknowledgement."""
        return max(0, _MAX_IN_FLIGHT - sum(space.ack_eliciting_in_flight for space in self._loss.spaces))

    def _forget_bare_acks(self, space: QuicPacketSpace) -> None:
        """Forget the older packets that nobody need acknowledge."""
        bare = [packet for packet in space.sent_packets.values() if not packet.is_ack_eliciting][:-_MAX_BARE_ACKS]
        self._loss._cc.on_packets_expired(packets=[packet for packet in bare if packet.in_flight])
        for packet in bare:
            del space.sent_packets[packet.packet_number]

    def _send_probing_frames(self, network_path: Any, now: float) -> list[tuple[bytes, Any]]:
        # aioquic sends these whatever is in flight.
        return super()._send_probing_frames(network_path, now) if self._room_in_flight() else []

    def _write_stream_frame(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream, max_offset: int) -> int:
        islands = stream.sender._acked
        if len(islands) >= _MAX_ISLANDS:
            max_offset = min(max_offset, islands[-1].stop)  # what is missing between them still goes
        return super()._write_stream_frame(builder=builder, space=space, stream=stream, max_offset=max_offset)

    def _handle_stop_sending_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream = self._streams.get(buf.pull_uint_var())
        if stream is not None and (stream.sender.is_finished or stream.sender._reset_error_code is not None):
            buf.pull_uint_var()  # there is nothing to stop any more, and aioquic would make an event of each frame
            return
        buf.seek(start)
        super()._handle_stop_sending_frame(context, frame_type, buf)

    def _handle_new_connection_id_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        super()._handle_new_connection_id_frame(context, frame_type, buf)
        numbers = self._peer_cid_sequence_numbers
        if len(numbers) > _MAX_ID_NUMBERS:
            # aioquic forgets those of retired ids only when the peer asks it to retire.
            in_use = [self._peer_cid, *self._peer_cid_available, *(path.peer_cid for path in self._network_paths if path.peer_cid is not None)]
            oldest = min(connection_id.sequence_number or 0 for connection_id in in_use)
            self._peer_retire_prior_to = max(self._peer_retire_prior_to, oldest)
            self._peer_cid_sequence_numbers = numbers = {number for number in numbers if number >= oldest}
            if len(numbers) > _MAX_ID_NUMBERS:
                raise QuicConnectionError(QuicErrorCode.CONNECTION_ID_LIMIT_ERROR, frame_type, "too many connection ids after one that stays in use")

    def _write_new_connection_id_frame(self, builder: QuicPacketBuilder, connection_id: Any) -> None:
        super()._write_new_connection_id_frame(builder=builder, connection_id=connection_id)
        self._newest_id_sent = max(self._newest_id_sent, connection_id.sequence_number)

    def _handle_retire_connection_id_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        number = buf.pull_uint_var()
        buf.seek(start)
        if number > self._newest_id_sent:
            # aioquic makes a new id for each that is retired, sent or not, and would go on so through a whole datagram.
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "the peer retires a connection id that it was not given")
        super()._handle_retire_connection_id_frame(context, frame_type, buf)

    def _on_ping_delivery(self, delivery: QuicDeliveryState, uids: Sequence[int]) -> None:
        # Nobody asks which PING was acknowledged, and one that was lost need be sent again only once.
        if delivery is not QuicDeliveryState.ACKED:
            self._ping_pending[:] = self._ping_pending or uids[:1]

    def _handle_ack_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        _largest, _delay, ranges = buf.pull_uint_var(), buf.pull_uint_var(), buf.pull_uint_var()
        buf.seek(start)
        if ranges > _MAX_ACK_RANGES:
            raise _TooManyPieces
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        offset, length = buf.pull_uint_var(), buf.pull_uint_var()
        buf.seek(start)
        if offset + length > _MAX_CRYPTO:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "the handshake is too long")
        _check_pieces(self._crypto_streams[context.epoch].receiver, offset, _MAX_CRYPTO_PIECES)
        super()._handle_crypto_frame(context, frame_type, buf)

    def _handle_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        # Runs for every frame with data, and so takes a look at pieces only where there are some.
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        stream = self._streams.get(stream_id)
        before = 0
        if stream is not None:
            before = _delivered(stream)
            if stream.receiver._buffer:
                _check_pieces(stream.receiver, buf.pull_uint_var() if frame_type & 4 else 0, _MAX_PIECES)
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        self._raise_limits(stream or self._streams[stream_id], before)

    def _handle_reset_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        known = self._streams.get(stream_id)
        before = _delivered(known) if known is not None else 0
        super()._handle_reset_stream_frame(context, frame_type, buf)
        stream = self._streams[stream_id]
        # aioquic keeps what will never be delivered for as long as the other half lives.
        stream.receiver._buffer, stream.receiver._ranges = bytearray(), RangeSet()
        self._raise_limits(stream, before)

    def _raise_limits(self, stream: QuicStream, delivered_before: int) -> None:
        """Let the peer send on, in steps of a quarter of a window."""
        delivered = _delivered(stream)
        self._delivered = total = self._delivered + delivered - delivered_before
        if total >= self._raise_connection_at:
            self._local_max_data.value = total + self._configuration.max_data
            self._raise_connection_at = total + self._configuration.max_data // 4
        window = self._configuration.max_stream_data
        if stream.receiver._final_size is None and delivered + window - stream.max_stream_data_local >= window // 4:
            stream.max_stream_data_local = delivered + window

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: Any) -> None:
        limit = self._local_max_data
        used, limit.used = limit.used, 0  # or aioquic would double the limit
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0  # the same
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            receiver.highest_offset = highest

    @property
    def heard_at(self) -> float:
        """When a packet of the peer was last accepted; minus infinity before the first. Anyone can send others."""
        return self._heard_at

    @property
    def version_mismatch(self) -> bool:
        """Whether the server speaks only other versions of QUIC."""
        return self._version_mismatch

    @property
    def handshake_confirmed(self) -> bool:
        """Whether the peer has accepted this side's part of the handshake."""
        return self._handshake_confirmed

    @property
    def stream_limit(self) -> int:
        """How many streams the peer has allowed since the connection began."""
        return self._remote_max_streams_bidi

    def peer_key(self) -> Ed25519PublicKey | None:
        """The key that the peer has proved to hold, once the handshake is complete; None for no certificate or one over another kind of key."""
        certificate = self.tls._peer_certificate
        key = certificate.public_key() if certificate is not None else None
        return key if isinstance(key, Ed25519PublicKey) else None

    def was_reset(self, stream_id: int) -> bool:
        """Whether this side's half of a stream was torn down, by whichever side."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is not None

    def unsent(self, stream_id: int) -> int:
        """Bytes given to a stream that were never put into a packet."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender.highest_offset

    def all_acknowledged(self) -> bool:
        """Whether the peer has acknowledged every byte, end and reset of every stream."""
        return not any(_unacknowledged(stream) for stream in self._streams_queue)

    def end(self) -> EngineEnd | None:
        """Why the connection is over, at once: aioquic's own event comes only after the draining period, and never for a close that is still unsent."""
        event = self._close_event
        if event is None:
            return None
        return EngineEnd(
            by_peer=self._state is QuicConnectionState.DRAINING,
            silently=self._state is QuicConnectionState.TERMINATED,
            code=event.error_code,
            application=event.frame_type is None,
            reason=event.reason_phrase,
        )

    def close_application(self, code: int, reason: str) -> None:
        """Close with a code of the application; the reason is cut to what fits."""
        self.close(error_code=code, reason_phrase=reason.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore"))


def _delivered(stream: QuicStream) -> int:
    """Bytes of the peer's half that need no room any more: it has passed them on, or they will never come."""
    receiver = stream.receiver
    return receiver.highest_offset if receiver.is_finished else receiver._buffer_start


def _check_pieces(receiver: QuicStreamReceiver, offset: int, most: int) -> None:
    """Refuse what would leave one more gap, and never what fills one from its beginning."""
    pieces = receiver._ranges
    if len(pieces) >= most and offset > receiver._buffer_start and not any(piece.start <= offset <= piece.stop for piece in pieces):
        raise _TooManyPieces


def _set_limit(limit: Any, value: int) -> None:
    limit.value = limit.sent = value


def _unacknowledged(stream: QuicStream) -> bool:
    sender = stream.sender
    if sender.is_finished:
        return False
    return sender._buffer_stop > sender._buffer_start or sender._buffer_fin is not None or sender._reset_error_code is not None


class _PacketFull(Exception):
    """No stream's data fits into the packet any more."""


class ActiveEngine(Engine):
    """Looks only at streams with something to do when it writes packets, where aioquic looks at all that are open: with 1,000 idle streams that makes
    sequential calls seven times faster. It ends a packet when it is full, where aioquic goes on to ask each stream that waits: with 1,000 large transfers at
    once that makes them several times faster. And it knows when it is done, where aioquic tries one more packet after each last one, to find it empty.

    ``_streams_queue`` holds the active streams in service order and ``_active`` the same by id; the superclass writes packets with ``_active`` in place of
    ``_streams``, which it uses there only to walk over all streams and to drop finished ones.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._active: dict[int | None, QuicStream] = {}

    def _write_application(self, builder: QuicPacketBuilder, network_path: Any, now: float) -> None:
        everything, queue, count = self._streams, self._streams_queue, len(self._active)
        active: Any = self._active  # aioquic types the id of a stream as optional, since it uses streams for the handshake too
        self._streams = active
        self._stop_when_done(builder)
        try:
            while True:
                try:
                    super()._write_application(builder, network_path, now)
                except _PacketFull:
                    self._loss._pacer.update_after_send(now=now)  # what the superclass does after a packet, before it begins the next
                else:
                    break
        finally:
            self._streams = everything
            if len(self._active) != count:
                for stream in queue:
                    stream_id: Any = stream.stream_id
                    if stream_id not in self._active:
                        del everything[stream_id]
            self._retire_idle_streams()

    def _stop_when_done(self, builder: QuicPacketBuilder) -> None:
        start_packet = builder.start_packet
        started = False

        def start_if_needed(packet_type: QuicPacketType, crypto: CryptoPair) -> None:
            nonlocal started
            if started and self._nothing_left():
                raise QuicPacketBuilderStop
            started = True
            start_packet(packet_type, crypto)

        builder.start_packet = start_if_needed

    def _nothing_left(self) -> bool:
        """Whether a packet that was not too full took all there was: only streams can have more, and those that it ended may let the peer open others."""
        limit = self._local_max_streams_bidi
        if limit.sent - limit.used < limit.value - limit.sent:
            return False
        return all(stream.sender.buffer_is_empty for stream in self._streams_queue)

    def _write_stream_frame(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream, max_offset: int) -> int:
        if builder.remaining_flight_space < _SMALLEST_FRAME and not builder.packet_is_empty:
            raise _PacketFull  # aioquic goes on to ask each stream
        used = super()._write_stream_frame(builder=builder, space=space, stream=stream, max_offset=max_offset)
        sender = stream.sender
        if not len(sender._pending) and not sender._pending_eof:
            sender.buffer_is_empty = True  # aioquic notices at the next attempt
        return used

    def _retire_idle_streams(self) -> None:
        idle = [stream for stream in self._streams_queue if not _has_work(stream)]
        if idle:
            for stream in idle:
                del self._active[stream.stream_id]
            self._streams_queue = [stream for stream in self._streams_queue if stream.stream_id in self._active]

    def _activate(self, stream: QuicStream) -> None:
        if stream.stream_id not in self._active:
            self._active[stream.stream_id] = stream
            self._streams_queue.append(stream)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = self._active.get(stream_id)
        if stream is None:
            known = len(self._streams)
            stream = super()._get_or_create_stream(frame_type, stream_id)
            if len(self._streams) == known:
                self._activate(stream)
            else:  # a new stream, and all lower ones that it opens; the superclass has queued them
                self._active.update((new.stream_id, new) for new in self._streams_queue[known - len(self._streams) :])
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = self._active.get(stream_id)
        if stream is None:
            known = len(self._streams)
            stream = super()._get_or_create_stream_for_send(stream_id)
            if len(self._streams) == known:
                self._activate(stream)
            else:
                self._active[stream_id] = stream
        return stream

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        super().stop_stream(stream_id, error_code)
        self._activate(self._streams[stream_id])

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id in self._streams:
            self._activate(stream)


def _has_work(stream: QuicStream) -> bool:
    """Whether a stream may have to be written, raised, stopped or discarded without another frame or call for it coming first."""
    receiver = stream.receiver
    return (
        _unacknowledged(stream)
        or stream.is_finished
        or (receiver._stop_error_code is not None and not receiver.is_finished)
        or stream.max_stream_data_local_sent != stream.max_stream_data_local
    )
