"""What an engine's end means to the owner of a connection, in words."""

from __future__ import annotations

from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from aster.errors import ConnectError, ConnectionLost, IdentityError, IncompatiblePeerError, RefusedError, UnreachableError
from aster.transports.quic.engine import EngineEnd

__all__ = ["CERTIFICATE_REFUSED", "NO_CERTIFICATE", "connect_error", "lost"]

NO_CERTIFICATE = QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.certificate_required)
"""What a listener closes with when a client shows no certificate over an Ed25519 key."""

CERTIFICATE_REFUSED = QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.bad_certificate)
"""What a client closes with when the server's key is not the one in the address."""

_NOT_PROVED = QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.decrypt_error)
"""What TLS calls a signature that is not by the key of the certificate (RFC 8446, section 4.4.3)."""

_REFUSALS = frozenset(
    {
        int(QuicErrorCode.NO_ERROR),
        int(QuicErrorCode.CONNECTION_REFUSED),
        int(QuicErrorCode.INVALID_TOKEN),
        int(QuicErrorCode.APPLICATION_ERROR),  # what QUIC makes of an application's code before the handshake is complete (RFC 9000, section 10.2.3)
        int(NO_CERTIFICATE),
        int(QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.access_denied)),
    }
)


def lost(end: EngineEnd, silence: float) -> ConnectionLost:
    """The error for streams of an established connection. ``silence``: seconds since the peer was last heard."""
    if end.silently:
        if end.code == QuicErrorCode.NO_VIABLE_PATH:
            return ConnectionLost("connection lost: the peer moved to an address that does not answer", silent=True)
        return ConnectionLost(f"connection lost: idle for {silence:.3g} s, nothing came from the peer", silent=True)
    if end.by_peer:
        return ConnectionLost(f"closed by peer: {_cause(end)}", code=end.code if end.application else None, reason=end.reason)
    return ConnectionLost(f"closed because the peer broke a rule of QUIC: {_cause(end)}")


def connect_error(end: EngineEnd, place: str, version_mismatch: bool) -> ConnectError:
    """The error of a ``connect`` whose handshake failed."""
    if version_mismatch:
        return IncompatiblePeerError(f"{place} speaks other versions of QUIC, not version 1; check that an Aster server listens there")
    if end.silently:
        return UnreachableError(f"{place} did not answer; check that the server runs and that UDP packets reach it")
    if end.by_peer and (end.application or end.code in _REFUSALS):
        return RefusedError(f"{place} refused this client: {_cause(end)}; the server may be full, draining, or not admit this endpoint")
    if end.code == QuicErrorCode.CRYPTO_ERROR + int(AlertDescription.no_application_protocol):
        return IncompatiblePeerError(f"{place} answers by QUIC, but not for this protocol; check that an Aster server listens there")
    if end.code == _NOT_PROVED and not end.by_peer:
        return IdentityError(f"{place} did not prove that it holds the key of the certificate that it showed; distrust it: that certificate is somebody else's")
    side = "the server ended" if end.by_peer else "the server broke a rule of"
    return IncompatiblePeerError(f"{place} answers by QUIC, but {side} the handshake: {_cause(end)}; check that an Aster server of this version listens there")


def _cause(end: EngineEnd) -> str:
    if end.application:
        return f"{end.reason} (code {end.code})" if end.reason else f"code {end.code}"
    name = _code_name(end.code)
    return f"{end.reason} ({name})" if end.reason else name


def _code_name(code: int) -> str:
    if QuicErrorCode.CRYPTO_ERROR <= code < QuicErrorCode.CRYPTO_ERROR + 0x100:
        try:
            return f"TLS alert {AlertDescription(code - QuicErrorCode.CRYPTO_ERROR).name}"
        except ValueError:
            return f"TLS alert {code - QuicErrorCode.CRYPTO_ERROR}"
    try:
        return f"QUIC error {QuicErrorCode(code).name}"
    except ValueError:
        return f"QUIC error {code:#x}"
