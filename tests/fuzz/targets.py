"""All targets, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz.calls import CALLS
from tests.fuzz.codec import NATIVE, XLANG
from tests.fuzz.connection import CONNECTION, CONNECTION_ON_TRIO
from tests.fuzz.contract import CONTRACTS
from tests.fuzz.datagrams import DATAGRAMS
from tests.fuzz.frames import FRAMES
from tests.fuzz.hello import HELLO
from tests.fuzz.live_rows import LIVE_ROWS, LIVE_ROWS_ON_TRIO
from tests.fuzz.row import ROW
from tests.fuzz.sessions import SESSIONS
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (FRAMES, HELLO, CALLS, SESSIONS, CONTRACTS, XLANG, NATIVE, ROW, DATAGRAMS, CONNECTION, CONNECTION_ON_TRIO, LIVE_ROWS, LIVE_ROWS_ON_TRIO)
}
