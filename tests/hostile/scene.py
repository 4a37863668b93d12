"""The scene of an attack: a server, an honest client at work, and what can be seen of the server's state."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import anyio

import aster
from aster.decorators import client_stream, server_stream
from tests.rpc.echo import Echo, Item, numbers_of

__all__ = ["Scene", "Work", "loud_records", "scene"]

_STREAM_EVERY = 10
_MESSAGES = 50


class Post(Echo):
    """Takes no requests from a stream, and gives as many responses as it is asked for."""

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        await anyio.sleep_forever()
        return Item()

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number, data=bytes(100))


@dataclass
class Work:
    """What an honest client has done: unary calls one after the other, and a stream of responses after every tenth."""

    seconds: list[float] = field(default_factory=list[float])
    """What each unary call took."""

    async def go_on(self, echo: Echo, until: Callable[[], bool]) -> None:
        """Work until it is enough; a call that fails or answers wrongly raises."""
        while not until():
            number = len(self.seconds)
            began = anyio.current_time()
            assert await echo.same(Item(number, "honest")) == Item(number, "honest")
            self.seconds.append(anyio.current_time() - began)
            if number % _STREAM_EVERY == 0:
                assert await numbers_of(echo.count(Item(_MESSAGES))) == list(range(_MESSAGES))

    @property
    def slowest_percentile(self) -> float:
        """The 99th percentile of the calls' seconds."""
        return sorted(self.seconds)[len(self.seconds) * 99 // 100]


@dataclass
class Scene:
    """A server with one honest client."""

    server: aster.AsterServer
    echo: Echo

    @property
    def guests(self) -> int:
        """Connections that the server has let in and that have not ended, with all their handlers: the honest client's is one."""
        return len(vars(self.server)["_hosting"].connections)

    async def alone(self) -> None:
        """Wait until nothing is left of other clients. In real time: vanished peers are known by their silence."""
        while self.guests > 1:  # noqa: ASYNC110 (a connection's end is no event for others)
            await anyio.sleep(0.02)

    async def serves_newcomers(self) -> None:
        """A client that comes now is served as well."""
        async with aster.connect(self.server.address) as client:
            await Work().go_on(await client.client(Echo), iter([False, True]).__next__)


@asynccontextmanager
async def scene() -> AsyncGenerator[Scene]:
    """Serve over QUIC, with one client connected."""
    async with aster.serve([Post()], drain_grace=0) as server, aster.connect(server.address) as client:
        yield Scene(server, await client.client(Echo))


@contextmanager
def loud_records() -> Generator[list[str]]:
    """What is logged above INFO by anybody during the block."""
    records: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "quic":  # plain aioquic's own, of the hostile peer; Aster's engines log as aster.quic
                records.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    ear = Ear(logging.WARNING)
    logging.getLogger().addHandler(ear)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(ear)
