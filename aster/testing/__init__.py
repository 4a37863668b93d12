"""What helps to test with Aster, and to prove that what was built for it keeps its contracts."""

from __future__ import annotations

from aster.testing.clock import VirtualTimeLoop, virtual_time_backend
from aster.testing.link import Datagram, Link, Statistics
from aster.testing.network import SimulatedNetwork
from aster.testing.orphans import assert_no_orphans, live_connections
from aster.testing.simulation import Event, Simulation
from aster.testing.transports import TRANSPORT_CHECKS, check_transport

__all__ = [
    "TRANSPORT_CHECKS",
    "Datagram",
    "Event",
    "Link",
    "SimulatedNetwork",
    "Simulation",
    "Statistics",
    "VirtualTimeLoop",
    "assert_no_orphans",
    "check_transport",
    "live_connections",
    "virtual_time_backend",
]
