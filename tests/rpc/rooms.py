"""A chat room with every pattern of call, whose instances keep a record of themselves."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from tests.rpc.echo import Item

__all__ = ["Lobby", "Room"]


@dataclass
class Lobby:
    """What the rooms of a server share: all of them, in the order in which they were made, and what their handlers tell."""

    rooms: list[Room] = field(default_factory=list["Room"])
    log: list[str] = field(default_factory=list[str])
    make: Callable[[Room], None] = lambda room: None
    """Called at the end of each ``__init__``."""
    close: Callable[[Room], Awaitable[None]] = lambda room: anyio.lowlevel.checkpoint()
    """Called by each ``on_session_close``."""

    @property
    def closed(self) -> list[int]:
        """How often each room was closed."""
        return [room.closed for room in self.rooms]

    @property
    def service(self) -> object:
        """What a server is given."""
        return functools.partial(Room, lobby=self)


@service("Room", scoped="stream")
class Room:
    """Counts what it was sent."""

    def __init__(self, peer: str | None = None, *, lobby: Lobby) -> None:
        self.peer = peer
        self.lobby = lobby
        self.total_so_far = 0
        self.closed = 0
        self.fail = anyio.Event()
        """Makes tasks in the background fail."""
        lobby.rooms.append(self)
        lobby.make(self)

    @rpc
    async def add(self, item: Item) -> Item:
        """The sum of all numbers that this instance was sent."""
        self.total_so_far += item.number
        return Item(self.total_so_far)

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        """Numbers up to the sum."""
        for number in range(self.total_so_far):
            yield Item(number)

    @client_stream
    async def add_all(self, items: AsyncIterator[Item]) -> Item:
        """As ``add``, with many."""
        async for item in items:
            self.total_so_far += item.number
        return Item(self.total_so_far)

    @bidi_stream
    async def each(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """As ``add``, one by one."""
        async for item in items:
            self.total_so_far += item.number
            yield Item(self.total_so_far)

    @rpc
    async def hang(self, item: Item) -> Item:
        """Wait until it is cancelled, and then for a moment, shielded, if the number is not 0."""
        self.lobby.log.append("hangs")
        try:
            await anyio.sleep_forever()
        finally:
            if item.number:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.005)
            self.lobby.log.append("unwound")
        return item

    @rpc
    async def in_background(self, item: Item) -> Item:
        """Begin a task in the background that waits until it is told to fail."""
        aster.current_session().task_group.start_soon(self._background)
        return item

    async def _background(self) -> None:
        try:
            await self.fail.wait()
            raise ZeroDivisionError("in the background")
        finally:
            self.lobby.log.append("background ended")

    async def on_session_close(self) -> None:
        """Count that it was called."""
        self.closed += 1
        self.lobby.log.append("closed")
        await self.lobby.close(self)
