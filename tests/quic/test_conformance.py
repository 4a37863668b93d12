"""QUIC keeps the transports' contract."""

from __future__ import annotations

import pytest

from aster.testing.transports import TRANSPORT_CHECKS, TransportCheck
from aster.transports.quic import QuicTransport

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_quic_keeps_the_contract(check: TransportCheck) -> None:
    await check(QuicTransport)
