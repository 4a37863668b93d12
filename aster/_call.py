"""What the two ends of a call share: taking messages, waiting for credit, and the context that a handler sees.

A call has one driver. Its client end is ``_outgoing.OutgoingCall``, driven by whoever made the call; its server end is
``_incoming.IncomingCall``, a task of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel

from aster._protocol.call import ReceiveHalf, SendHalf
from aster._reactor import Reactor, Waiter
from aster.codec import RowDecoder, RowEncoder
from aster.errors import RemoteProtocolError
from aster.transports.base import Stream
from aster.types import CallContext, Metadata, RpcPattern

__all__ = ["CURRENT_CALL", "NO_METADATA", "CallDriver", "Decode", "Encode", "current_call", "of_one_call"]

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

_WORK_PER_CHECKPOINT = 128
"""How much a stream passes on without letting other tasks run: 128 small messages or 32 others, some hundreds of microseconds either way.
What is passed on between two checkpoints leaves in one flush, so that a checkpoint for each message would cost more than the message
itself, and one for every 32 makes streams of small ones half as slow again (measured); none at all would starve the loop."""

_FRAMING = 2_048
"""Bytes of a message for which its frames add one at the most (a frame's head for each chunk of 16 KiB)."""

_ROOM_FOR_CREDIT = 65_536
"""Bytes of CREDIT frames that may wait among the messages: a few for each half window that the peer has sent, and it cannot send without receiving them."""

_WORK_OF_A_MESSAGE = 4
_SMALL_MESSAGE = 256
"""Bytes below which a message counts as one instead."""

NO_METADATA = Metadata()

CURRENT_CALL: ContextVar[CallContext] = ContextVar("aster_current_call")


def of_one_call(encode: Encode, decode: Decode, pattern: RpcPattern, *, is_client: bool) -> dict[str, Any]:
    """What of a method is another for the messages of one call, by its attribute: of a stream of rows the first alone has the schema with it."""
    if not (isinstance(encode, RowEncoder) and isinstance(decode, RowDecoder)):
        return {}
    sends_many, receives_many = pattern.streams_requests, pattern.streams_responses
    if not is_client:
        sends_many, receives_many = receives_many, sends_many
    changes: dict[str, Any] = {"decode": decode.for_stream()} if receives_many else {}
    if sends_many:
        stream = encode.for_stream()
        changes |= {"encode": stream, "sent": stream.sent}
    return changes


def current_call() -> CallContext:
    """The call that the running handler serves.

    Raises:
        RuntimeError: no handler is running here.
    """
    try:
        return CURRENT_CALL.get()
    except LookupError:
        raise RuntimeError("there is no current call: aster.current_call() works in a handler and in what it calls") from None


class CallDriver(ABC):
    """What both ends of a call share: taking messages, and waiting for credit to send."""

    __slots__ = ("_inbound", "_outbound", "_reactor", "_receiver", "_sender", "_since_checkpoint", "stream")

    stream: Stream

    def __init__(self, reactor: Reactor, inbound: ReceiveHalf, outbound: SendHalf) -> None:
        self._reactor = reactor
        self._inbound = inbound
        self._outbound = outbound
        self._receiver: Waiter | None = None
        self._sender: Waiter | None = None
        self._since_checkpoint = 0

    @abstractmethod
    def _inbound_is_over(self) -> bool:
        """Whether no message will come any more; raises what ended the call, if that was a failure."""

    @abstractmethod
    def _outbound_is_over(self) -> bool:
        """Whether what would be sent goes nowhere."""

    async def receive(self) -> bytes | None:
        """The next message, or ``None`` after the last one. Cancellation loses nothing.

        Raises:
            RpcError: the call failed, and all messages before that were taken.
            BusyResourceError: another task is receiving.
        """
        # Ahead of the look at the inbox, since meanwhile another task may take what is there or end the call.
        if self.checkpoint_is_due:
            await self.checkpoint()
        while not self._inbound.inbox:
            if self._inbound_is_over():
                return None
            await self.wait_receiver()
        data = self.take()
        self.count(len(data))
        return data

    def take(self) -> bytes:
        """A message that has arrived; grants credit when it is time."""
        data = self._inbound.take()
        grant = self._inbound.grant()
        if grant:
            self.stream.write(grant)
        return data

    async def wait_credit(self) -> bool:
        """Wait until a message may be sent; false when the call ended instead."""
        while not self._outbound.ready:
            if self._outbound_is_over():
                return False
            if self._sender is not None:
                raise anyio.BusyResourceError("sending on")
            self._sender = self._reactor.waiter()
            try:
                await self._sender.wait()
            finally:
                self._sender = None
        return not self._outbound_is_over()

    def check_credit(self) -> None:
        """Look at the credit that has just arrived: a peer that grants for what has not left this machine would make it hold ever more.

        Raises:
            RemoteProtocolError: it did that.
        """
        outbound = self._outbound
        outbound.credited = False
        if self.stream.unsent > outbound.outstanding + outbound.outstanding // _FRAMING + _ROOM_FOR_CREDIT:
            raise RemoteProtocolError("the peer granted credit for messages that it has not received")

    async def wait_receiver(self) -> None:
        if self._receiver is not None:
            raise anyio.BusyResourceError("receiving from")
        self._receiver = self._reactor.waiter()
        try:
            await self._receiver.wait()
        finally:
            self._receiver = None

    def count(self, size: int) -> None:
        """Count a message, of ``size`` bytes, among what was passed on since other tasks could last run."""
        self._since_checkpoint += 1 if size < _SMALL_MESSAGE else _WORK_OF_A_MESSAGE

    async def checkpoint(self) -> None:
        """Let other tasks run; wanted once ``checkpoint_is_due``."""
        self._since_checkpoint = 0
        await anyio.lowlevel.checkpoint()

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether enough was passed on since other tasks could last run."""
        return self._since_checkpoint >= _WORK_PER_CHECKPOINT

    def _wake(self) -> None:
        if self._receiver is not None:
            self._receiver.wake()
        if self._sender is not None:
            self._sender.wake()
