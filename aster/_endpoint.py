"""The limits of an endpoint, as ``serve`` and ``connect`` are given them."""

from __future__ import annotations

from dataclasses import dataclass

from aster._protocol.events import Setting
from aster.transports.base import ConnectionOptions

__all__ = ["EndpointOptions"]

_WHOLE_NUMBERS = frozenset(
    {
        "window",
        "max_message_size",
        "max_metadata_size",
        "max_connection_buffer",
        "max_concurrent_calls",
        "max_sessions",
        "max_connections",
        "max_connections_per_address",
    }
)

_UNITS = {
    **dict.fromkeys(("window", "max_message_size", "max_metadata_size", "max_connection_buffer"), " of bytes"),
    **dict.fromkeys(("idle_timeout", "keepalive_interval", "cleanup_budget"), " of seconds"),
}

_KEEPALIVES_BEFORE_IDLE = 3
"""How often a silent peer is asked, at the least, before its connection counts as lost: a datagram or two may be lost on the way."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """The limits of an endpoint. Sizes are in bytes, times in seconds.

    The default of ``max_connection_buffer`` lets the thousand calls that are allowed at a time hold half a megabyte each. A connection without calls takes some
    100 KB, so that those of ``max_connections`` take some 400 MB; a quarter of them may come from one address, behind which there may be a whole company. A
    client accepts no connections: to it these two mean nothing.

    Raises:
        TypeError: an option is no number, or a size or count not whole; the message names it.
        ValueError: it is not positive.
    """

    window: int = 262_144
    max_message_size: int = 4_194_304
    max_metadata_size: int = 8_192
    max_connection_buffer: int = 536_870_912
    max_concurrent_calls: int = 1_000
    max_sessions: int = 256
    max_connections: int = 4_096
    max_connections_per_address: int = 1_024
    idle_timeout: float = 30.0
    keepalive_interval: float = 10.0
    cleanup_budget: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number{_UNITS.get(name, '')}, not {value!r}")
            if name in _WHOLE_NUMBERS and not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number{_UNITS.get(name, '')}, not {value!r}")
            if not 0 < value < 1 << 53:
                raise ValueError(f"{name} must be a positive number{_UNITS.get(name, '')}, not {value!r}")

    def for_transport(self) -> ConnectionOptions:
        """What the transport needs to know: one stream a call, one a session, one for control."""
        return ConnectionOptions(
            idle_timeout=self.idle_timeout,
            # A connection must not be lost for mere silence because someone has set the one option without the other.
            keepalive=min(self.keepalive_interval, self.idle_timeout / _KEEPALIVES_BEFORE_IDLE),
            max_streams=self.max_concurrent_calls + self.max_sessions + 1,
            max_connections=self.max_connections,
            max_connections_per_address=self.max_connections_per_address,
        )

    def settings(self) -> dict[int, int]:
        """What this endpoint says of itself in its hello."""
        return {
            Setting.WINDOW: self.window,
            Setting.MESSAGE_LIMIT: self.max_message_size,
            Setting.METADATA_LIMIT: self.max_metadata_size,
            Setting.CALL_LIMIT: self.max_concurrent_calls,
            Setting.SESSION_LIMIT: self.max_sessions,
            Setting.CLEANUP_MILLISECONDS: round(self.cleanup_budget * 1000),
        }
