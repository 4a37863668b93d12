"""A guest of the chat room: ``ASTER_ENDPOINT_ADDR=aster://... python examples/chat_room/client.py ada``. Type to talk; Ctrl-D leaves."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator

import anyio
from service import ChatRoomService, Line, SetNicknameRequest

import aster


async def typed() -> AsyncIterator[Line]:
    """What is typed at a terminal, or comes through a pipe, line by line."""
    with open(0, "rb", buffering=0, closefd=False) as keyboard:  # noqa: ASYNC230  (it is open already; and without a buffer no line waits in here unseen)
        while True:
            await anyio.wait_readable(keyboard)
            line = keyboard.readline()
            if not line:
                return
            yield Line(line.decode().strip())


async def main(nickname: str) -> int:
    try:
        async with aster.connect() as client, client.session(ChatRoomService) as room:
            welcome = await room.set_nickname(SetNicknameRequest(nickname))
            print(welcome.greeting, flush=True)
            async with room.talk(typed()) as heard:
                async for line in heard:
                    print(line.text, flush=True)
    except (aster.RpcError, aster.ConnectError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nickname")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    try:
        sys.exit(anyio.run(main, options.nickname, backend=options.backend))
    except KeyboardInterrupt:
        # By now the others have heard that this guest has left.
        sys.exit(130)
