"""How much memory this process has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["resident"]

_STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process that are in memory; zero where the system does not say, which is all but Linux."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
