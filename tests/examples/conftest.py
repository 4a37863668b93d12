"""What the processes of the examples inherit."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def _children_hear_ctrl_c() -> Generator[None]:
    """A shell starts what it runs in the background deaf to Ctrl-C, and that is inherited."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
