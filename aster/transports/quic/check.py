"""Which engine the installed aioquic allows: proved by running it, on a pair in memory."""

from __future__ import annotations

import logging
import ssl
from dataclasses import replace
from functools import cache

import aioquic
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from aster.transports.quic.bounds import CONNECTION_WINDOW, STREAM_WINDOW
from aster.transports.quic.certificates import certificate_for
from aster.transports.quic.engine import ALPN, CONNECTION_ID_LENGTH, VERSIONS, ActiveEngine, Engine, EngineEnd
from aster.trust import Identity, endpoint_id_of

__all__ = ["TESTED_VERSIONS", "check_engine", "engine_class", "engine_configuration"]

TESTED_VERSIONS = frozenset({"1.7.2"})
"""Versions of aioquic with which the whole test suite was run, so that the first connection need not wait for ``check_engine``."""

logger = logging.getLogger("aster.quic")


def engine_configuration(identity: Identity, *, is_client: bool, idle_timeout: float, datagram_size: int) -> QuicConfiguration:
    """What an engine needs for its TLS and its limits. Certificates are checked by the connection, against keys, and by nobody else."""
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        certificate=certificate_for(identity),
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=idle_timeout,
        is_client=is_client,
        max_data=CONNECTION_WINDOW,
        max_datagram_size=datagram_size,
        max_stream_data=STREAM_WINDOW,
        private_key=identity.private_key,
        supported_versions=list(VERSIONS),
        verify_mode=ssl.CERT_NONE,
    )


@cache
def engine_class() -> type[Engine]:
    """The engine to use with the aioquic that is installed.

    Raises:
        ImportError: this version of aioquic lacks what Aster needs.
    """
    if aioquic.__version__ in TESTED_VERSIONS:
        return ActiveEngine
    try:
        check_engine(ActiveEngine)
    except Exception:
        logger.info("aioquic %s is not known to Aster: many open streams will slow it down", aioquic.__version__, exc_info=True)
    else:
        return ActiveEngine
    try:
        check_engine(Engine)
    except Exception as exc:
        tested = ", ".join(sorted(TESTED_VERSIONS))
        raise ImportError(f"aioquic {aioquic.__version__} lacks what Aster needs ({exc!r}); install a version that Aster was tested with: {tested}") from exc
    return Engine


def check_engine(kind: type[Engine]) -> None:
    """Prove on a pair in memory that an engine does what the transport relies on. Takes some 20 ms.

    Raises:
        Exception: of any kind, when it does not.
    """
    pair = _Pair(kind)
    pair.exchange()
    _check_handshake(pair)
    _check_streams(pair)
    _check_teardown(pair)
    _check_end(pair)


class _Pair:
    """Two engines whose datagrams reach each other at once, on a clock of their own."""

    def __init__(self, kind: type[Engine]) -> None:
        self.keys = Identity.generate(), Identity.generate()
        self.now = 0.0
        self.client = kind(engine_configuration(self.keys[0], is_client=True, idle_timeout=30.0, datagram_size=1200), max_streams=0)
        self.client.connect(("server", 1), self.now)
        self.server = kind(
            engine_configuration(self.keys[1], is_client=False, idle_timeout=30.0, datagram_size=1200),
            max_streams=7,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.at_client: list[QuicEvent] = []
        self.at_server: list[QuicEvent] = []

    def exchange(self) -> None:
        """Carry datagrams both ways until acknowledgements have settled."""
        for _ in range(8):
            self.now += 0.01
            for data, _ in self.client.datagrams_to_send(self.now):
                self.server.receive_datagram(data, ("client", 1), self.now)
            for data, _ in self.server.datagrams_to_send(self.now):
                self.client.receive_datagram(data, ("server", 1), self.now)
            for engine, seen in ((self.client, self.at_client), (self.server, self.at_server)):
                seen.extend(engine.event_queue)
                engine.event_queue.clear()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"the engine does not behave as expected: {what}")


def _check_handshake(pair: _Pair) -> None:
    for engine, other, seen in ((pair.client, pair.keys[1], pair.at_client), (pair.server, pair.keys[0], pair.at_server)):
        key = engine.peer_key()
        _require(key is not None and endpoint_id_of(key) == other.endpoint_id, "each side knows the other's key")
        _require(engine.handshake_confirmed and engine.end() is None, "the handshake is confirmed")
        _require(sum(isinstance(event, HandshakeCompleted) for event in seen) == 1, "the handshake completes once")
    _require((pair.client.stream_limit, pair.server.stream_limit) == (7, 0), "the client alone opens streams, as many as it was granted")
    _require(not pair.client.version_mismatch, "the versions of QUIC match")


def _check_streams(pair: _Pair) -> None:
    """A request and a reply on each of more streams than are granted at a time, while one stays open and idle."""
    client, server = pair.client, pair.server
    client.send_stream_data(0, b"idle")
    pair.exchange()
    for index in range(1, 20):
        stream_id = 4 * index
        _require(client.stream_limit > index, "streams that have ended are granted again")
        client.send_stream_data(stream_id, b"request", end_stream=True)
        _require(client.unsent(stream_id) == 7 and not client.all_acknowledged(), "what is queued is counted as unsent")
        pair.exchange()
        _require(pair.at_server[-1] == StreamDataReceived(data=b"request", end_stream=True, stream_id=stream_id), "a request arrives")
        server.send_stream_data(stream_id, b"reply", end_stream=True)
        pair.exchange()
        _require(pair.at_client[-1] == StreamDataReceived(data=b"reply", end_stream=True, stream_id=stream_id), "a reply arrives")
        _require(client.unsent(stream_id) == 0 and client.all_acknowledged() and server.all_acknowledged(), "what has arrived is acknowledged")
    client.send_stream_data(0, b"active again")
    pair.exchange()
    _require(pair.at_server[-1] == StreamDataReceived(data=b"active again", end_stream=False, stream_id=0), "an idle stream can become active again")


def _check_teardown(pair: _Pair) -> None:
    pair.client.stop_stream(0, 5)
    pair.client.reset_stream(0, 6)
    _require(not pair.client.all_acknowledged(), "a reset must be acknowledged")
    pair.exchange()
    _require(StopSendingReceived(error_code=5, stream_id=0) in pair.at_server, "a request to stop arrives")
    _require(StreamReset(error_code=6, stream_id=0) in pair.at_server, "a reset arrives")
    _require(StreamReset(error_code=5, stream_id=0) in pair.at_client, "what is asked to stop is reset")
    _require(pair.client.all_acknowledged() and pair.server.all_acknowledged(), "resets are acknowledged")


def _check_end(pair: _Pair) -> None:
    pair.client.close_application(9, "done")
    expected = EngineEnd(by_peer=False, silently=False, code=9, application=True, reason="done")
    _require(pair.client.end() == expected, "a close is known at once")
    for data, _ in pair.client.datagrams_to_send(pair.now):
        pair.server.receive_datagram(data, ("client", 1), pair.now)
    _require(pair.server.end() == replace(expected, by_peer=True), "the peer's close is known at once")
