"""What both ends of a connection have: the hello, and the stream for control.

Connections are plain objects that the transport calls back; the tasks that they need live in the task groups of the client or server that owns them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from anyio.abc import TaskGroup

from aster._endpoint import EndpointOptions
from aster._protocol.call import CallLimits, SharedBuffer
from aster._protocol.events import Hello, Setting
from aster._protocol.frames import (
    CLIENT_CONTROL_KINDS,
    CLIENT_HELLO_LIMIT,
    SERVER_CONTROL_KINDS,
    FrameKind,
    FrameReader,
    decode_hello,
    frame_limits,
)
from aster._reactor import Condition, Reactor
from aster._tasks import StartedTask
from aster.errors import AsterError, RemoteProtocolError
from aster.transports.base import Connection, Stream

__all__ = ["FROM_CLIENT", "FROM_SERVER", "PROTOCOL_VERSION", "REQUIRED_SETTINGS", "ControlStream", "PeerConnection", "numbers"]

PROTOCOL_VERSION = 1


REQUIRED_SETTINGS = (Setting.WINDOW, Setting.MESSAGE_LIMIT, Setting.METADATA_LIMIT)
"""What each side must say of itself; a server its CALL_LIMIT besides."""


FROM_SERVER: Mapping[int, int] = frame_limits(0, SERVER_CONTROL_KINDS)
FROM_CLIENT: Mapping[int, int] = {**frame_limits(0, CLIENT_CONTROL_KINDS), FrameKind.HELLO: CLIENT_HELLO_LIMIT}
"""The most bytes of each kind of frame that either end may send on the control stream."""


class ControlStream:
    """The first stream of a connection: frames that concern all of it."""

    def __init__(self, on_frame: Callable[[int, bytes], None], on_end: Callable[[str], None], limits: Mapping[int, int] = FROM_SERVER) -> None:
        self._reader = FrameReader(limits)
        self._on_frame = on_frame
        self._on_end = on_end

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                self._on_frame(kind, payload)
        except RemoteProtocolError as exc:
            self._on_end(str(exc))

    def finished(self) -> None:
        self._on_end("the peer ended the control stream")

    def was_reset(self, code: int) -> None:
        self._on_end(f"the peer reset the control stream (code {code})")

    def was_stopped(self, code: int) -> None:
        self._on_end(f"the peer stopped the control stream (code {code})")

    def connection_lost(self, error: AsterError) -> None:
        """The connection itself is told as well."""


class PeerConnection(ABC):
    """What both ends of a connection have."""

    required_settings: tuple[Setting, ...] = REQUIRED_SETTINGS
    """What the peer's hello must give."""

    def __init__(self, reactor: Reactor, options: EndpointOptions, inner: TaskGroup) -> None:
        self.reactor = reactor
        self.options = options
        self.lost: AsterError | None = None
        self.hello: Hello | None = None
        self.limits: CallLimits
        self.peer_metadata_limit = 0
        self.peer_message_limit = 0
        self.peer_call_limit = 0
        self.peer_session_limit = 0
        self._inner = inner
        self._transport: Connection | None = None
        self._control: Stream | None = None
        self._waiting = Condition(reactor)

    @property
    def connected(self) -> bool:
        """Whether there is a connection below."""
        return self._transport is not None

    @property
    def transport(self) -> Connection:
        """The connection below; there is one from the hello on."""
        assert self._transport is not None
        return self._transport

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run a task in the inner task group, the one that ends before the connection does."""
        return StartedTask(self._inner, function, name, self.reactor)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something about the connection's calls has changed so that ``condition`` holds."""
        await self._waiting.wait_for(condition)

    def _receive_hello(self, payload: bytes) -> Hello:
        if self.hello is not None:
            raise RemoteProtocolError("the peer sent a second HELLO")
        hello = decode_hello(payload)
        peer = hello.settings.get
        for setting in self.required_settings:
            if not peer(setting):
                raise RemoteProtocolError(f"the peer's HELLO gives no {setting.name}; without it nothing can be sent")
        self.peer_message_limit = peer(Setting.MESSAGE_LIMIT, 0)
        self.peer_metadata_limit = peer(Setting.METADATA_LIMIT, 0)
        self.peer_call_limit = peer(Setting.CALL_LIMIT, 0)
        self.peer_session_limit = peer(Setting.SESSION_LIMIT, 0)
        # Both sides know both windows and use the smaller: a receiver that offers more could make the sender buffer without bound,
        # and a sender that used less on its own would wait for grants that come by half of the other's.
        window = min(self.options.window, peer(Setting.WINDOW, 0))
        self.limits = CallLimits.create(
            window=window,
            peer_window=window,
            message=self.options.max_message_size,
            metadata=self.options.max_metadata_size,
            shared=SharedBuffer(self.options.max_connection_buffer),
        )
        self.hello = hello
        return hello

    @abstractmethod
    def _broken(self, why: str) -> None:
        """The peer broke a rule that concerns the whole connection."""


def numbers(versions: Iterable[int]) -> str:
    """Versions, for people."""
    return ", ".join(map(str, versions)) or "none"
