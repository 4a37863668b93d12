"""What bounds the making of a plain value from what was received lazily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FREE_DEFAULTS", "Making"]

FREE_DEFAULTS = 4_096
"""Fields that a plain value may have filled in though no byte of its row stands for them, besides one for each four bytes. A peer's class may have fewer fields
than ours, and its rows none at all: of 4 MB of these each instance of a hundred fields with defaults would take a hundred times its bytes."""


class Making:
    """A plain value that is being made, or several that share what they may cost.

    Attributes:
        depth: how many dataclasses are around.
        free: how many fields may still be filled in that the peer does not send.
        kept: the defaults that the view of it has made, by their fields.
    """

    __slots__ = ("_message", "depth", "free", "kept")

    def __init__(self, size: int = 0) -> None:
        self._message = b""
        self.depth = 0
        self.kept: Mapping[str, Any] = {}
        self.free = FREE_DEFAULTS + size // 4

    def add(self, message: bytes, size: int) -> None:
        """One more value is to be made, of so many bytes of a message. Another one than the last has its own free defaults, as if it were made alone."""
        self.free += size // 4
        if self._message and message is not self._message:
            self.free += FREE_DEFAULTS
        self._message = message
