"""Where the laws are tested, how often, and that each test has exercised what it says."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.backends import require_backend
from tests.laws.world import SETTINGS, Setting, Tally, World

_EXAMPLES: dict[str, dict[str, int]] = {
    "ci": {"memory": 300, "simulated": 300, "quic": 50},
    "brief": dict.fromkeys(("memory", "simulated", "quic"), 20),
    "mutants": dict.fromkeys(("memory", "simulated", "quic"), 20),
    "long": {"memory": 10_000, "simulated": 10_000, "quic": 2_000},
}


def examples_of(setting: Setting) -> int:
    """How many each test has in a setting."""
    profile = os.environ.get("ASTER_HYPOTHESIS") or "ci"
    examples = _EXAMPLES[profile][setting.transport]
    # The dearest of all settings: what is under the calls is the same on both backends, so that CI looks at half as many on this one.
    return examples // 2 if (profile, setting.transport, setting.backend) == ("ci", "simulated", "trio") else examples


_COSTLY = 6
"""How many times fewer a test has that makes connections of its own for each, unless its mark says another number."""


EXHAUSTED = "nothing left to do"
"""What Hypothesis's statistics of a test say when it drew from so little that it stopped before its number of examples."""


_PATIENCE = {"brief": 30, "mutants": 30, "long": 1_800}.get(os.environ.get("ASTER_HYPOTHESIS") or "ci", 90)
"""Seconds after which a test of a law counts as hung: all its examples take up to six on a free core, and sixty times as long in the long session."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests beside this file, and no others, the time for all their examples."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.timeout(_PATIENCE))


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    """The backend and the transport of all tests of a module, one after the other."""
    setting: Setting = request.param
    require_backend(setting.backend)
    return setting


@pytest.fixture(scope="module")
def anyio_backend(setting: Setting) -> tuple[str, dict[str, Any]]:
    """In place of the one that all other tests have."""
    return setting.backend_options


@pytest.fixture(scope="module")
async def world(setting: Setting, anyio_backend: object) -> AsyncGenerator[World]:
    """What all tests of a module share in one setting."""
    async with World.made(setting) as world:
        yield world


@pytest.fixture(scope="module")
def tally(setting: Setting) -> Tally:
    """What tests use that run each example in a loop of its own, by ``setting.run``, and share no world."""
    return Tally(setting)


@pytest.fixture(autouse=True)
def _examples_and_counts(request: pytest.FixtureRequest, setting: Setting) -> Generator[None]:
    if request.node.get_closest_marker("virtual_time") is not None and not setting.virtual:
        pytest.skip("it would take long in real time")
    if request.node.get_closest_marker("simulated") is not None and setting.transport != "simulated":
        pytest.skip("it disturbs the network")
    test: Any = request.function
    if hasattr(test, "hypothesis"):
        # What @settings would set if it could know where the test runs; a name of Hypothesis's own, so test_kit.py looks whether it still has an effect.
        examples = examples_of(setting)
        costly = request.node.get_closest_marker("costly")
        if costly is not None:
            examples = max(examples // (costly.args[0] if costly.args else _COSTLY), 5)
        test._hypothesis_internal_use_settings = settings(settings.default, max_examples=examples)
    world: Tally = request.getfixturevalue("world" if "world" in request.fixturenames else "tally")
    world.counts.clear()
    before = world.disturbances
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        return  # one cause is enough
    assert EXHAUSTED not in getattr(request.node, "hypothesis_statistics", ""), "there are fewer different examples than are asked for: draw more"
    marker = request.node.get_closest_marker("exercises")
    if marker is None:
        return
    counts = world.counts + (world.disturbances - before)
    wanted = [*marker.args, *(marker.kwargs["simulated"] if world.network is not None else ())]
    never = [what for what in wanted if not counts[what]]
    assert not never, f"no example has exercised: {', '.join(never)}"
