"""What helps to test with Aster, and to prove that what was built for it keeps its contracts."""

from __future__ import annotations

from aster.testing.transports import TRANSPORT_CHECKS, check_transport

__all__ = ["TRANSPORT_CHECKS", "check_transport"]
