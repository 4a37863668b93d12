"""The transports of the package keep the contract that ``check_transport`` holds others to, and it notices one that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aster._reactor import Reactor
from aster.testing import TRANSPORT_CHECKS, check_transport
from aster.testing.transports import TransportCheck
from aster.transports.base import Connection, ConnectionHandler, ConnectionOptions, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from aster.trust import Address, Identity

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
async def test_memory_keeps_the_contract(check: TransportCheck) -> None:
    await check(MemoryTransport)


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
async def test_check_transport_passes(make_transport: Callable[[], Transport]) -> None:
    await check_transport(make_transport)


class _Gullible(MemoryTransport):
    """Takes whoever is there for who was meant."""

    async def connect(self, address: Address, *, identity: Identity, handler: ConnectionHandler, reactor: Reactor, options: ConnectionOptions) -> Connection:
        listener = self.listeners.get((address.host, address.port))
        if listener is not None:
            address = Address(listener.identity.endpoint_id, address.host, address.port)
        return await super().connect(address, identity=identity, handler=handler, reactor=reactor, options=options)


async def test_check_transport_notices_a_transport_that_accepts_a_wrong_key() -> None:
    with pytest.raises(AssertionError, match="IdentityError"):
        await check_transport(_Gullible)
