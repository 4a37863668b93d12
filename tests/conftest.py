"""What all tests share: the two backends, and how hard Hypothesis tries.

Environment:
    ASTER_REQUIRE_TRIO: when set to 1, a missing trio fails the tests that need it instead of skipping them.
    ASTER_HYPOTHESIS: the Hypothesis profile: ``ci`` (the default), ``brief``, ``long`` or ``mutants``.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.backends import require_backend

_Backend = tuple[str, dict[str, Any]]
_ASYNCIO: _Backend = ("asyncio", {"debug": False})
_TRIO: _Backend = ("trio", {})

# The same examples in every run, and no verdict that depends on the machine's speed: the timeout of a test is the only clock.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("brief", settings.get_profile("ci"), max_examples=20)
# One failure is enough to know, and making it smaller takes minutes.
settings.register_profile("mutants", settings.get_profile("brief"), phases=(Phase.explicit, Phase.generate))
settings.register_profile("long", settings.get_profile("ci"), derandomize=False, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("ASTER_HYPOTHESIS") or "ci")


@pytest.fixture(autouse=True, scope="module")
def _a_small_heap() -> None:
    """Set aside what was made before a module's tests: the collector, which many of them run often, would walk it each time for whole seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", params=[pytest.param(_ASYNCIO, id="asyncio"), pytest.param(_TRIO, id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> _Backend:
    """The backend and its options. A test that carries ``pytest.mark.anyio`` runs once on each."""
    backend: _Backend = request.param
    require_backend(backend[0])
    return backend
