"""A client's way in: from the handshake, which proved its key, to the server's HELLO. No call of its reaches a handler before that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from aster._failures import told_apart
from aster._policy import Policy
from aster._protocol.events import CloseCode
from aster._reactor import Reactor, TimerHandle
from aster._tasks import StartedTask
from aster.transports.base import Connection
from aster.types import Peer

__all__ = ["DECISION_TIME", "Entrance", "EntranceOwner"]

logger = logging.getLogger("aster")

DECISION_TIME = 5.0
"""Seconds for the policy's answer: half the default ``connect_timeout`` of clients, which so hear that there was none."""

_NOT_ADMITTED = "ask the server's operator to add that id to admit="
_POLICY_FAILED = "the server could not decide; its log has the reason"


class EntranceOwner(Protocol):
    """What an entrance needs of its connection."""

    reactor: Reactor
    peer: Peer

    @property
    def transport(self) -> Connection:
        """The connection below."""
        ...

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> StartedTask:
        """Run the task that asks the policy."""
        ...

    def welcome(self, capabilities: frozenset[str]) -> None:
        """The client is admitted, and this is what it holds: say hello."""
        ...

    def turn_away(self, reason: str) -> None:
        """The client is not admitted: say so in place of the hello."""
        ...


class Entrance:
    """Waits for a client's HELLO, asks the policy, and then tells the owner once, or closes the connection.

    Args:
        owner: the connection.
        policy: of the server; ``None`` to let everyone in, who hold nothing.
        limit: seconds that the client may take for its HELLO, and to acknowledge a refusal.
    """

    def __init__(self, owner: EntranceOwner, policy: Policy | None, limit: float) -> None:
        self.is_open = False
        """Whether calls may come."""
        self._owner = owner
        self._policy = policy
        self._limit = limit
        self._is_settled = False
        self._task: StartedTask | None = None
        self._timer: TimerHandle | None = None
        self._wait(limit, self._hello_overdue)

    def hello_came(self) -> None:
        """The client has said hello, once."""
        if self._policy is None:
            self._let_in(frozenset())
        elif not self._is_settled:
            self._wait(DECISION_TIME, self._answer_overdue)
            self._task = self._owner.spawn(self._ask, "aster admission")

    def shut(self) -> None:
        """The connection is gone, or about to go: whatever the policy says now comes too late. Idempotent."""
        self._is_settled = True
        self._drop_timer()
        self._cancel_task()

    async def _ask(self) -> None:
        policy, peer = self._policy, self._owner.peer
        assert policy is not None
        option = "admit"
        try:
            if not await policy.admits(peer):
                self._refuse(_NOT_ADMITTED)
                return
            option = "authorize"
            capabilities = await policy.capabilities_of(peer)
        except BaseException as exc:
            cancellation, failure = told_apart(exc)
            if failure is not None:
                logger.error("%s= failed for %s, which is turned away", option, peer.endpoint_id, exc_info=failure)  # noqa: TRY400 (of a group, a part)
                self._refuse(_POLICY_FAILED)
            if cancellation is not None:
                raise cancellation  # noqa: B904 (it is what was caught, or a part of it)
            return
        self._let_in(capabilities)

    def _cancel_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel(lambda: None)

    def _let_in(self, capabilities: frozenset[str]) -> None:
        if not self._is_settled:
            self._is_settled = self.is_open = True
            self._drop_timer()
            self._owner.welcome(capabilities)

    def _refuse(self, reason: str) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        logger.info("%s is not admitted: %s", self._owner.peer.endpoint_id, reason)
        self._owner.turn_away(reason)
        self._wait(self._limit, lambda: self._close(reason))
        self._task = self._owner.spawn(lambda: self._close_once_heard(reason), "aster refusal")

    async def _close_once_heard(self, reason: str) -> None:
        # A close is sent once, and may be lost; the client would wait for nothing.
        try:
            await self._owner.transport.wait_acknowledged()
        except BaseException as exc:
            # asyncio's own cancellation, of this task alone, closes at once.
            cancellation, _ = told_apart(exc)
            if cancellation is not None:
                raise
        self._close(reason)

    def _close(self, reason: str) -> None:
        self._drop_timer()
        self._owner.transport.close(CloseCode.REFUSED, reason)

    def _hello_overdue(self) -> None:
        self._timer = None
        self._owner.transport.close(CloseCode.HELLO_TIMEOUT, "no HELLO in time")

    def _answer_overdue(self) -> None:
        logger.error("admit= and authorize= gave no answer within %g s for %s, which is turned away", DECISION_TIME, self._owner.peer.endpoint_id)
        self._cancel_task()
        self._refuse(_POLICY_FAILED)

    def _wait(self, seconds: float, overdue: Callable[[], None]) -> None:
        self._drop_timer()
        self._timer = self._owner.reactor.call_at(self._owner.reactor.now() + seconds, overdue)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
