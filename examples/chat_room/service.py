"""What both processes know of the chat room: its messages, and its methods without their bodies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aster


@aster.wire_type("example.chat/SetNicknameRequest")
@dataclass
class SetNicknameRequest:
    nickname: str = ""


@aster.wire_type("example.chat/SetNicknameResponse")
@dataclass
class SetNicknameResponse:
    greeting: str = ""


@aster.wire_type("example.chat/Line")
@dataclass
class Line:
    text: str = ""


@aster.service("ChatRoom", scoped="stream")
class ChatRoomService(ABC):
    @aster.rpc
    @abstractmethod
    async def set_nickname(self, req: SetNicknameRequest) -> SetNicknameResponse:
        """Choose how others see you; ALREADY_EXISTS when somebody has that name."""

    @aster.bidi_stream
    @abstractmethod
    def talk(self, lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        """Say lines, and hear what others say, until you have no more to say."""
