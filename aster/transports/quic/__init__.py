"""The transport that crosses machines: QUIC version 1 (RFC 9000) by aioquic, with mutual TLS over Ed25519 keys. The only importer of aioquic."""

from __future__ import annotations

from aster.transports.quic.transport import QuicTransport

__all__ = ["QuicTransport"]
