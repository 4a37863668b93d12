"""What a codec is to the rest of Aster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from aster.types import SerializationMode

__all__ = ["Codec"]

T = TypeVar("T")


class Codec(Protocol):
    """Turns messages of one service into bytes and back, in one serialization mode. Safe to use from any thread.

    Attributes:
        mode: the serialization mode.
    """

    @property
    def mode(self) -> SerializationMode: ...

    def encoder(self, cls: type[T]) -> Callable[[T], bytes]:
        """The function that encodes messages of exactly this class.

        It raises TypeError when the value, or anything in it, is of another type than declared, and ValueError when a value of the right type cannot be sent
        (an int beyond 64 bits, a lone surrogate, nesting without end); both name the field. An int given for a float is sent as a float.

        Raises:
            TypeError: the class is not a dataclass that this codec knows.
        """
        ...

    def decoder(self, cls: type[T], *, is_request: bool = False) -> Callable[[bytes], T]:
        """The function that decodes a message of exactly this class, whatever bytes it is given.

        It raises ``aster.errors.DecodeError`` unless the bytes are one value of exactly the declared types and nothing more, which ``__post_init__`` accepts,
        and for a message that decodes to more than 16 MiB of objects, however few bytes it has. A ``__post_init__`` refuses by ValueError or TypeError;
        whatever else it raises is a bug of its class, and comes through unchanged.

        In ROW it gives a view, which is read, and refused, piece by piece, when it is asked for them: see ``aster.materialize``.

        Args:
            cls: the class.
            is_request: whether a handler reads what is decoded, and its caller is to blame for what cannot be read.

        Raises:
            TypeError: the class is not a dataclass that this codec knows.
        """
        ...
