"""Sessions of the soak: those that go well, and those that fail; each instance is counted when it is made and when it is closed."""

from __future__ import annotations

import random
from collections import Counter

import anyio
import pytest

import aster
from aster import StatusCode
from aster.decorators import rpc, service
from tests.rpc.echo import Item
from tests.rpc.probes import cancelled_after

__all__ = ["COUNTS", "Locked", "Seat", "crashed", "hook_raised", "left_in_the_middle", "refused", "used", "with_background"]

COUNTS = Counter[str]()
"""How many instances were made and closed."""


@service("Seat", scoped="stream")
class Seat:
    """Does what the item's text says."""

    def __init__(self, peer: str) -> None:
        COUNTS["made"] += 1
        self._sum = 0
        self._raise = False

    @rpc
    async def do(self, item: Item) -> Item:
        match item.text:
            case "fail at the end":
                self._raise = True
            case "background":
                aster.current_session().task_group.start_soon(anyio.sleep_forever)
            case "crash":
                aster.current_session().task_group.start_soon(self._fail)
                await anyio.sleep_forever()
            case "wait":
                await anyio.sleep_forever()
            case _:
                self._sum += item.number
        return Item(self._sum)

    async def _fail(self) -> None:
        raise LookupError

    async def on_session_close(self) -> None:
        COUNTS["closed"] += 1
        if self._raise:
            raise LookupError


@service("Locked", scoped="stream")
class Locked:
    """Whose instances cannot be made."""

    def __init__(self, peer: str) -> None:
        raise aster.RpcError(StatusCode.PERMISSION_DENIED, "closed for today")

    @rpc
    async def do(self, item: Item) -> Item:
        return item


async def used(client: aster.AsterClient, chance: random.Random) -> None:
    """A few calls."""
    async with client.session(Seat) as seat:
        for number in range(chance.randrange(4)):
            assert (await seat.do(Item(1))).number == number + 1


async def with_background(client: aster.AsterClient, _: random.Random) -> None:
    """Something runs in the background until the end."""
    async with client.session(Seat) as seat:
        await seat.do(Item(text="background"))


async def left_in_the_middle(client: aster.AsterClient, chance: random.Random) -> None:
    """Cancelled wherever it is."""

    async def sit() -> None:
        async with client.session(Seat) as seat:
            await seat.do(Item(1))
            await seat.do(Item(text="wait"))

    await cancelled_after(chance.randrange(60), sit)


async def crashed(client: aster.AsterClient, _: random.Random) -> None:
    """A task in the background fails."""
    async with client.session(Seat) as seat:
        for text in ("crash", "any"):
            with pytest.raises(aster.RpcError) as caught:
                await seat.do(Item(text=text))
            assert caught.value.code is StatusCode.ABORTED


async def hook_raised(client: aster.AsterClient, _: random.Random) -> None:
    """The hook fails."""
    async with client.session(Seat) as seat:
        await seat.do(Item(text="fail at the end"))


async def refused(client: aster.AsterClient, _: random.Random) -> None:
    """The instance refuses."""
    with pytest.raises(aster.RpcError) as caught:
        async with client.session(Locked):
            raise AssertionError
    assert caught.value.code is StatusCode.PERMISSION_DENIED
