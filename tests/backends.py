"""Which backends a test can have here."""

from __future__ import annotations

import importlib.util
import os

import pytest

__all__ = ["require_backend"]


def require_backend(name: str) -> None:
    """Skip the test that asks when its backend is not installed; fail it when ASTER_REQUIRE_TRIO=1 says that it must be."""
    if importlib.util.find_spec(name) is not None:
        return
    if os.environ.get("ASTER_REQUIRE_TRIO") == "1":
        pytest.fail(f"{name} is not installed, and ASTER_REQUIRE_TRIO=1 asks for it; install the package with its [test] extra")
    pytest.skip(f"{name} is not installed; install the package with its [trio] extra")
