"""aioquic's sans-I/O connection, with the few changes that Aster needs. It and ``bounds.py`` alone touch aioquic's private names.

What it needs of them is either essential (``Engine``), so that a version of aioquic without it is refused, or an improvement (``ActiveEngine``), without which
the plain class serves; ``check.py`` finds out which.
"""

# This module and bounds.py are the wall around aioquic's private names; nothing outside them uses one.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import QuicEvent
from aioquic.quic.packet import QuicHeader, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.stream import QuicStream
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aster.transports.quic.bounds import BoundedConnection

__all__ = ["ALPN", "CONNECTION_ID_LENGTH", "VERSIONS", "ActiveEngine", "Engine", "EngineEnd", "OrderedEngine"]

ALPN = "aster/1"
CONNECTION_ID_LENGTH = 8
VERSIONS = [int(QuicProtocolVersion.VERSION_1)]
"""QUIC version 1 alone (RFC 9000): with a second version every handshake derives keys for both, and gains nothing."""

_MAX_KNOCKS_BACKOFF = 2
"""How often the pause between a client's first packets doubles, from 0.2 s, while it has no answer. A server that is asked by more than it takes in a second is
silent to the others, which should come again in the next second: with pauses that double on, half of a thousand that came at once had no turn in 10 s."""

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


class Engine(BoundedConnection):
    """One QUIC connection without I/O, for mutual TLS over Ed25519 keys and for bidirectional streams that the client opens."""

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
        self._heard_at = -math.inf
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
        super().receive_datagram(data, addr, now)
        if self._close_at != idle_at:  # set for each packet that is the peer's beyond doubt
            self._heard_at = now
        if shaking_hands and not self._configuration.is_client:
            self._doubt_addresses()

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        recovery = self._loss
        if self._configuration.is_client and not recovery._rtt_initialized:
            recovery._pto_count = min(recovery._pto_count, _MAX_KNOCKS_BACKOFF)

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
        datagrams = super().datagrams_to_send(now)
        # aioquic keeps to three times what came from an address that is not proved (RFC 9000, section 8.1), but for the close of the connection. Whoever
        # wrote from a forged address need not be told.
        return datagrams if path.is_validated or path.bytes_sent <= 3 * path.bytes_received else []

    @property
    def heard_at(self) -> float:
        """When a packet of the peer was last accepted; minus infinity before the first. Anyone can send others."""
        return self._heard_at

    @property
    def proved_address(self) -> Any:
        """The address that the handshake of a client has proved to be its own; None when several took part, which anyone can claim to have."""
        return self._proved_address

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


class _OrderedStream(QuicStream):
    """A stream of which a set has the same order in every run."""

    def __hash__(self) -> int:
        return self.stream_id or 0

    def __eq__(self, other: object) -> bool:
        return self is other


class OrderedEngine(ActiveEngine):
    """Serves streams in an order that depends on nothing but what was sent, for simulations that are to repeat exactly. aioquic puts the streams that it has
    served into a set, whose order depends on where they are in memory; in real life that is as good as any other, and a hash of our own costs some time."""

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        return _in_order(super()._get_or_create_stream(frame_type, stream_id))

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        return _in_order(super()._get_or_create_stream_for_send(stream_id))


def _in_order(stream: QuicStream) -> QuicStream:
    stream.__class__ = _OrderedStream
    return stream


def _has_work(stream: QuicStream) -> bool:
    """Whether a stream may have to be written, raised, stopped or discarded without another frame or call for it coming first."""
    receiver = stream.receiver
    return (
        _unacknowledged(stream)
        or stream.is_finished
        or (receiver._stop_error_code is not None and not receiver.is_finished)
        or stream.max_stream_data_local_sent != stream.max_stream_data_local
    )
