"""TLS wants certificates; endpoints have only keys. So each endpoint shows a certificate that it signed itself, of which the peer reads nothing but the key."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from aster.trust import Identity

__all__ = ["certificate_for"]

# Nobody checks these. They are constant so that no clock is read, and so that the certificate of a key is always the same (Ed25519 signatures are, too).
_NOT_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # "no well-defined expiration date": RFC 5280, section 4.1.2.5
_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aster")])


@lru_cache(maxsize=16)
def certificate_for(identity: Identity) -> x509.Certificate:
    """The self-signed certificate of an identity."""
    key = identity.private_key
    builder = x509.CertificateBuilder(_NAME, _NAME, key.public_key(), serial_number=1, not_valid_before=_NOT_BEFORE, not_valid_after=_NOT_AFTER)
    return builder.sign(key, algorithm=None)
