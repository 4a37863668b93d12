"""While a hostile peer does its worst, every call of an honest client succeeds, and when it is gone nothing is left of it.

``python -m tests.hostile`` does the same for longer, with the hostile peer in a process of its own, and measures.
"""

from __future__ import annotations

import anyio
import pytest

from aster.testing import assert_no_orphans
from tests.hostile.attacks import ATTACKS
from tests.hostile.peers import Target
from tests.hostile.scene import Work, loud_records, scene
from tests.memory import resident

pytestmark = pytest.mark.anyio

_CALLS = 20
_BLOWS = 20
_HANDSHAKES = 200
"""More than are let begin without a proof of the address, and fewer than those above which newcomers must wait until the first are given up."""

_MOST_GROWTH = 96 * 1024 * 1024
"""Bytes: what one connection may hold of windows and calls, and what the attacker, who is in this process too, needs itself."""


@pytest.mark.timeout(60)  # silence is known by its length, which is real time, and attacker and server share this one core
@pytest.mark.parametrize("name", ATTACKS)
async def test_calls_of_an_honest_client_succeed_while_another_attacks(name: str) -> None:
    with loud_records() as loud:
        async with assert_no_orphans(), scene() as at:
            target, work, before = Target.at(at.server.address, _HANDSHAKES), Work(), resident()
            async with anyio.create_task_group() as group:
                group.start_soon(ATTACKS[name], target)
                await work.go_on(at.echo, lambda: len(work.seconds) >= _CALLS and target.blows >= _BLOWS)
                assert resident() - before < _MOST_GROWTH
                group.cancel_scope.cancel()
            await at.alone()
            await at.serves_newcomers()
    assert not loud
