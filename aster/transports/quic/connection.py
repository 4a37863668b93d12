"""One QUIC connection, driven by the reactor: what both ends have in common."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
from aioquic.quic.events import ConnectionIdIssued, ConnectionIdRetired, HandshakeCompleted, QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from aster._reactor import Condition, Reactor, TimerHandle
from aster.errors import AsterError, ConnectionLost, LocalProtocolError
from aster.transports.base import Connection, ConnectionHandler, ConnectionOptions, StreamSink, tell_lost
from aster.transports.quic.engine import Engine, EngineEnd
from aster.transports.quic.failures import lost
from aster.transports.quic.stream import QuicStream, check_code
from aster.types import Peer

__all__ = ["Datagrams", "QuicConnection"]

logger = logging.getLogger("aster.quic")

Datagrams = list[tuple[bytes, Any]]
"""Datagrams to send, each with the socket address that it goes to."""

_FINISH_DELAY = 0.001
"""Seconds that the end of a stream may wait for other data to leave with. The engine delays its acknowledgements as long, so both often share a packet."""

_ROUNDS_FOR_ANSWERS = 4
"""Rounds of the loop that received datagrams may wait for answers to leave with their acknowledgement. A handler takes about as many from its start to its
reply; on trio, where a round runs its tasks in any order, that saves a packet in every other call. A round takes microseconds."""

_TICK = 0.000_001
"""Seconds that pass at least before the engine's timer fires again. By a rounding error it can find at the due time that nothing is due yet; on a virtual
clock, which jumps to that time exactly and stays there, it would do so for ever."""

_MANY_EVENTS = 1024
"""Events of the engine above which they are passed on before the next datagram is read. A large one can bring some ten thousand."""

_PING_ID = 0
"""aioquic wants an id a PING, to tell when it is acknowledged; nobody asks."""


class QuicConnection(Connection):
    """Feeds an engine with datagrams and time, and turns its events into calls of the owner.

    Nothing is sent at the moment it is written: a write asks for one flush in the next round of the loop, which sends for all streams. A batch of received
    datagrams asks for one some rounds later, so that what the tasks that it wakes have to say leaves in the packet that acknowledges.
    """

    def __init__(self, engine: Engine, reactor: Reactor, options: ConnectionOptions) -> None:
        self.engine = engine
        self.has_ended = False
        self._reactor = reactor
        self._options = options
        self._handler: ConnectionHandler | None = None
        self._peer: Peer | None = None
        self._streams: dict[int, QuicStream] = {}
        self._opened = 0
        self._opened_in_engine = 0
        self._opened_by_peer = 0
        self._starved = False
        self._dirty: list[QuicStream] = []
        self._flush_scheduled = False
        self._flush_wanted = False
        self._rounds_left = 0
        self._waiting = Condition(reactor)
        self._told = False
        self._error: AsterError | None = None
        # One timer for all that waits; each of these is when something is due.
        self._timer: TimerHandle | None = None
        self._timer_at = math.inf
        self._engine_at = math.inf
        self._finish_at = math.inf
        self._keepalive_at = math.inf
        self._handshake_at = math.inf
        self._heard_at = engine.heard_at
        self._on_event: dict[type[QuicEvent], Callable[[Any], None]] = {
            StreamDataReceived: self._data_received,
            StreamReset: self._stream_reset,
            StopSendingReceived: self._stop_received,
            HandshakeCompleted: self._handshake_completed,
            ConnectionIdIssued: self._id_issued,
            ConnectionIdRetired: self._id_retired,
        }

    # What the two ends do differently.

    @abstractmethod
    def _transmit(self, datagrams: Datagrams) -> None:
        """Put datagrams on the network, or lose them as a network may."""

    @abstractmethod
    def _release(self) -> None:
        """Give up what receives datagrams for this connection."""

    @abstractmethod
    def _handshake_completed(self, event: HandshakeCompleted) -> None:
        """Check who the peer is, before any of its streams is looked at."""

    def _id_issued(self, event: ConnectionIdIssued) -> None:
        """The peer may from here on use another id for this connection."""

    def _id_retired(self, event: ConnectionIdRetired) -> None:
        """The peer will use an id no more."""

    # The owner's side: base.Connection.

    @property
    def peer(self) -> Peer:
        assert self._peer is not None, "only an authenticated connection is handed out"
        return self._peer

    @property
    def stream_credit(self) -> int:
        return 0 if self.has_ended else max(0, self.engine.stream_limit - self._opened)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def open_stream(self, sink: StreamSink) -> QuicStream:
        if self.has_ended:
            raise ConnectionLost(f"no stream can be opened: {self._error}")
        if self.stream_credit == 0:
            raise LocalProtocolError("no stream can be opened: the peer's limit of open streams is reached; wait for streams_available()")
        stream = QuicStream(self, self._opened * 4)
        stream.sink = sink
        self._opened += 1
        self._starved = self.stream_credit == 0
        self._streams[stream.id] = stream
        return stream

    async def wait_acknowledged(self) -> None:
        await anyio.lowlevel.checkpoint()
        if not self.has_ended:
            self.flush_soon()
        await self._waiting.wait_for(lambda: self.has_ended or (not self._dirty and self.engine.all_acknowledged()))

    def close(self, code: int = 0, reason: str = "") -> None:
        check_code(code)
        if self.has_ended:
            return
        self._send_close(lambda: self.engine.close_application(code, reason))
        self._finish_off(ConnectionLost(f"closed on this side: {reason or 'no reason was given'} (code {code})"))
        self._reactor.call_soon(self.tell_lost)

    # The streams' side.

    def queue(self, stream: QuicStream) -> None:
        """Remember that a stream has something for the engine."""
        self._dirty.append(stream)

    def open_in_engine(self, stream_id: int) -> None:
        """Make a stream known to the engine, which wants all in the order of their ids, whichever is used first."""
        if self.engine.configuration.is_client:
            while self._opened_in_engine <= stream_id:
                self.engine.send_stream_data(self._opened_in_engine, b"")
                self._opened_in_engine += 4

    def half_ended(self, stream: QuicStream) -> None:
        """Forget a stream once both its halves have ended; a callback that is still due needs its sink taken before."""
        if not stream.sending and not stream.receiving and self._streams.pop(stream.id, None) is not None:
            # An owner holds its stream and the stream its owner: left so, every call would wait for the garbage collector.
            del stream.sink

    def flush_soon(self) -> None:
        """Flush in the next round of the loop, once for all that asked."""
        self._flush_wanted = True
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._reactor.call_soon(self._flush)

    def flush_later(self) -> None:
        """Flush when something else does, or after ``_FINISH_DELAY``."""
        if not self._flush_scheduled and self._finish_at == math.inf and not self.has_ended:
            self._finish_at = self._reactor.now() + _FINISH_DELAY
            self._arm()

    # The network's side.

    def receive(self, data: bytes, addr: Any, now: float) -> None:
        """Give one datagram to the engine. After a batch of them, ``settle`` does the rest."""
        if self.has_ended:
            return
        try:
            self.engine.receive_datagram(data, addr, now)
        except Exception as exc:
            self._engine_failed(exc)
        if len(self.engine.event_queue) > _MANY_EVENTS:
            self.settle()

    def settle(self) -> None:
        """Tell the owner what the datagrams that were just received mean."""
        if self.has_ended:
            return
        # A forged datagram or a report of the system's also wakes the reader; the peer was heard only when the engine took a packet for its own.
        if self.engine.heard_at > self._heard_at:
            self._heard_at = self.engine.heard_at
            self._keepalive_at = self._heard_at + self._options.keepalive
        self._after_engine()

    def _after_engine(self) -> None:
        """The engine has made progress, by datagrams or by time."""
        try:
            self._dispatch()
            if self._starved and self.stream_credit > 0 and self._handler is not None and not self.has_ended:
                self._starved = False
                self._handler.streams_available()
        except Exception:
            logger.exception("internal error in the owner of a connection, which is closed; please report it")
            self._abort("internal error")
        if self.has_ended:
            return
        if self.engine.end() is not None:
            self._engine_ended()
            return
        self._progressed()
        if self._waiting:
            self._waiting.notify_all()
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._rounds_left = _ROUNDS_FOR_ANSWERS
            self._reactor.call_soon(self._flush_with_answers)

    def _progressed(self) -> None:
        """A hook for the state of the handshake."""

    def _dispatch(self) -> None:
        events = self.engine.event_queue
        actions = self._on_event
        while events and not self.has_ended:
            event = events.popleft()
            action = actions.get(type(event))
            if action is not None:
                action(event)

    def _data_received(self, event: StreamDataReceived) -> None:
        stream = self._stream(event.stream_id)
        if stream is None or not stream.receiving:
            return
        if event.data:
            stream.sink.data_received(event.data)
        if event.end_stream and not self.has_ended:
            sink = stream.sink
            stream.receiving = False
            self.half_ended(stream)
            sink.finished()

    def _stream_reset(self, event: StreamReset) -> None:
        stream = self._stream(event.stream_id)
        if stream is not None and stream.receiving:
            sink = stream.sink
            stream.receiving = False
            self.half_ended(stream)
            sink.was_reset(event.error_code)

    def _stop_received(self, event: StopSendingReceived) -> None:
        stream = self._stream(event.stream_id)
        if stream is not None and stream.sending:
            sink = stream.sink
            stream.stopped_by_peer()
            self.half_ended(stream)
            sink.was_stopped(event.error_code)

    def _stream(self, stream_id: int) -> QuicStream | None:
        """The stream of an event; None when it has ended for its owner."""
        stream = self._streams.get(stream_id)
        if stream is None and not self.engine.configuration.is_client:
            # To open a stream opens all lower ones (RFC 9000, section 2.1), so an id below the count that is not in the table has ended.
            while self._opened_by_peer <= stream_id // 4 and not self.has_ended:
                self._open_for_peer()
            stream = self._streams.get(stream_id)
        return stream

    def _open_for_peer(self) -> None:
        assert self._handler is not None, "streams come after the peer was authenticated"
        stream = QuicStream(self, self._opened_by_peer * 4)
        self._opened_by_peer += 1
        self._streams[stream.id] = stream
        stream.sink = self._handler.stream_opened(stream)

    # Sending and time.

    def _flush_with_answers(self) -> None:
        """Flush after a batch of datagrams, as soon as a task that it woke has written something, or when none has for some rounds."""
        if self._flush_wanted or not self._rounds_left:
            self._flush()
        else:
            self._rounds_left -= 1
            self._reactor.call_soon(self._flush_with_answers)

    def _flush(self) -> None:
        self._flush_scheduled = self._flush_wanted = False
        if self.has_ended:
            return
        now = self._reactor.now()
        try:
            datagrams = self._collect(now)
        except Exception as exc:
            self._engine_failed(exc)
            return
        if datagrams:
            self._transmit(datagrams)
        if self.engine.event_queue:
            # Writing issues connection ids, which must be known before the peer uses one.
            self._dispatch()
        self._arm()

    def _collect(self, now: float) -> Datagrams:
        """Hand over what the streams have queued, and take what the engine wants to send."""
        engine = self.engine
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for stream in dirty:
                stream.hand_over(engine)
        self._finish_at = math.inf
        datagrams = engine.datagrams_to_send(now)
        at = engine.get_timer()
        self._engine_at = math.inf if at is None else max(at, now + _TICK)
        return datagrams

    def _arm(self) -> None:
        """Make sure that the timer fires early enough; too early costs one look at the clock."""
        if self.has_ended:
            return
        at = min(self._engine_at, self._finish_at, self._keepalive_at, self._handshake_at)
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._reactor.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self.has_ended:
            return
        now = self._reactor.now()
        if now < min(self._engine_at, self._finish_at, self._keepalive_at, self._handshake_at):
            self._arm()
            return
        self._flush_scheduled = True  # below, at once
        if now >= self._handshake_at:
            self._abort("the handshake took too long")
            return
        if now >= self._keepalive_at:
            self._keepalive_at = now + self._options.keepalive
            self.engine.send_ping(_PING_ID)
        if now >= self._engine_at:
            try:
                self.engine.handle_timer(now)
            except Exception as exc:
                self._engine_failed(exc)
                return
            self._after_engine()
        self._flush()

    # The end.

    def _engine_ended(self) -> None:
        """The engine's connection is over, by the peer, by the network, or because the peer broke a rule, which it must still be told."""
        self._transmit_quietly()
        end = self.engine.end()
        assert end is not None, "called once the engine has ended"
        self._finish_off(self._explain(end))
        self.tell_lost()

    def _explain(self, end: EngineEnd) -> AsterError:
        """What the owner is told about the engine's end."""
        return lost(end, self._reactor.now() - self._heard_at)

    def _engine_failed(self, exc: Exception) -> None:
        """The engine raised where it should not, most likely at a packet that it does not understand: this connection is lost, and nothing else."""
        logger.info("the QUIC engine failed, its connection is closed", exc_info=exc)
        self._abort("internal error")

    def _abort(self, reason: str) -> None:
        """Close from within a callback of the reactor."""
        if not self.has_ended:
            self._send_close(lambda: self.engine.close_application(0, reason))
            self._finish_off(ConnectionLost(f"closed on this side: {reason}"))
            self.tell_lost()

    def _send_close(self, close: Callable[[], None]) -> None:
        """One flush for what is queued, then CONNECTION_CLOSE. It is sent once: a peer that misses it finds out by its idle timeout."""
        self._transmit_quietly()
        close()
        self._transmit_quietly()

    def _transmit_quietly(self) -> None:
        """Send what the engine still has, when nothing can be done any more if it fails."""
        try:
            self._transmit(self._collect(self._reactor.now()))
        except Exception as exc:
            logger.debug("nothing more can be sent on a closing connection", exc_info=exc)

    def _finish_off(self, error: AsterError) -> None:
        """From here on the connection does nothing but to tell its owner."""
        self.has_ended = True
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._release()
        self._waiting.notify_all()

    def tell_lost(self) -> None:
        """Tell each open stream and then the handler that the connection has ended, once."""
        if self._told or self._error is None:
            return
        self._told = True
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.sending = stream.receiving = False
            tell_lost(stream.sink, self._error)
        if self._handler is not None:
            tell_lost(self._handler, self._error)
