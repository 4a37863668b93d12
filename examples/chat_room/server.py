"""A chat room: ``python examples/chat_room/server.py``. Its first line of output is its address. Each guest has a session, and so an own ``ChatRoom``."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import anyio
from service import ChatRoomService, Line, SetNicknameRequest, SetNicknameResponse

import aster


class House:
    """What all sessions share: who is here."""

    def __init__(self) -> None:
        self.guests: set[ChatRoom] = set()

    def tell(self, text: str, *, but: ChatRoom) -> None:
        for guest in self.guests - {but}:
            guest.hear(text)


class ChatRoom(ChatRoomService):
    def __init__(self, house: House, *, peer: str) -> None:
        self.house = house
        self.nickname = f"guest {peer[:4]}"
        self.unheard: deque[Line] = deque(maxlen=100)  # who does not listen misses what is older
        self.news = anyio.Event()
        self.has_finished = False
        house.guests.add(self)

    def hear(self, text: str) -> None:
        self.unheard.append(Line(text))
        self.news.set()

    @aster.rpc
    async def set_nickname(self, req: SetNicknameRequest) -> SetNicknameResponse:
        if any(guest.nickname == req.nickname for guest in self.house.guests):
            raise aster.RpcError(aster.StatusCode.ALREADY_EXISTS, f"somebody here is called {req.nickname} already")
        self.nickname = req.nickname
        self.house.tell(f"({self.nickname} is here)", but=self)
        return SetNicknameResponse(f"Welcome, {self.nickname}! Guests: {len(self.house.guests)}")

    @aster.bidi_stream
    async def talk(self, lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        # In the background, so that this guest can speak and hear at the same time.
        aster.current_session().task_group.start_soon(self.listen_to, lines)
        while not self.has_finished:
            while self.unheard:
                yield self.unheard.popleft()
            self.news = anyio.Event()
            await self.news.wait()

    async def listen_to(self, lines: AsyncIterator[Line]) -> None:
        with suppress(aster.RpcError):  # the call was cancelled: no more lines come, and that is no reason to end the session
            async for line in lines:
                self.house.tell(f"{self.nickname}: {line.text}", but=self)
        self.has_finished = True
        self.news.set()

    async def on_session_close(self) -> None:
        """However the guest has left: by Ctrl-D, by Ctrl-C, or by pulling the plug."""
        self.house.guests.discard(self)
        self.house.tell(f"({self.nickname} has left)", but=self)


async def main() -> None:
    async with aster.serve(services=[partial(ChatRoom, House())]) as server:
        print(server.address, flush=True)
        await server.serve()  # until SIGTERM or Ctrl-C
    print("the room is closed", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    anyio.run(main, backend=parser.parse_args().backend)
