"""What a peer can make aioquic's connection keep or do: each kind has a number here."""

# With engine.py the wall around aioquic's private names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioquic.buffer import Buffer  # pyright: ignore[reportPrivateImportUsage] # its documented place
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

__all__ = ["CONNECTION_WINDOW", "STREAM_WINDOW", "BoundedConnection"]

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


class _TooManyPieces(Exception):
    """A packet would leave more gaps than are kept, or names more. It is dropped unacknowledged, as if the network had lost it, so that an honest peer sends
    its data again when the gaps are filled; to close would punish one whose path drops every other packet of a burst."""


class BoundedConnection(QuicConnection):
    """aioquic's connection, which keeps no more for a peer however long it lasts.

    What a peer may send is counted from what was delivered, where aioquic doubles its limits by the highest offset seen, so that a few bytes far ahead would
    take gigabytes.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._delivered = 0
        self._raise_connection_at = configuration.max_data // 4
        self._newest_id_sent = 0

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        try:
            super().receive_datagram(data, addr, now)
        except _TooManyPieces:
            self._logger.debug("A packet that would leave too many gaps was dropped")

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
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


def _delivered(stream: QuicStream) -> int:
    """Bytes of the peer's half that need no room any more: it has passed them on, or they will never come."""
    receiver = stream.receiver
    return receiver.highest_offset if receiver.is_finished else receiver._buffer_start


def _check_pieces(receiver: QuicStreamReceiver, offset: int, most: int) -> None:
    """Refuse what would leave one more gap, and never what fills one from its beginning."""
    pieces = receiver._ranges
    if len(pieces) >= most and offset > receiver._buffer_start and not any(piece.start <= offset <= piece.stop for piece in pieces):
        raise _TooManyPieces
