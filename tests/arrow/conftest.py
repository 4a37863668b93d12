"""The fixtures of the tests of calls, for those of streams that come over the wire."""

from __future__ import annotations

from tests.rpc.conftest import running, transport

__all__ = ["running", "transport"]
