"""The block of a session: what ``client.session(ChatRoomService)`` gives."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

import anyio

from aster._channel import ClientChannel, ServiceChannel, cleanup_time
from aster._client_connection import ClientConnection
from aster._outgoing_session import OutgoingSession
from aster._stub import make_stub
from aster._tasks import TaskSet, checkpoint_with_deadlines, outlast
from aster.errors import RpcError, StatusCode
from aster.types import ServiceInfo

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SessionBlock"]

logger = logging.getLogger("aster")

S = TypeVar("S")


class SessionBlock(Generic[S]):
    """A session of a service, for as long as its ``async with`` block lasts.

    ::

        async with client.session(ChatRoomService) as room:
            await room.set_nickname(SetNicknameRequest("ada"))

    Entering waits until the server has made an instance of the service for this block alone. ``room`` is a stub, and that instance serves all its calls, one at
    a time, first come first served; a call's timeout counts while it waits for its turn. Cancelling a call, or its deadline, leaves the session as it is, and
    the next call waits until the handler has unwound. A task that calls while it holds an open stream or ``open_call`` of the session gets a RuntimeError
    instead of waiting for itself.

    Leaving cancels what still runs and waits, shielded, until the server has closed the instance, whose ``on_session_close`` has run then: at the most for
    twice the server's cleanup budget, since its calls have one and its hook has one, and one second for the way. A session is never repeated or moved: when
    its connection is lost, the instance is gone, and calls fail with UNAVAILABLE.

    Raises:
        RpcError: on entering, there is no session: UNIMPLEMENTED, the server has no such service or version; FAILED_PRECONDITION, it has the service without
            sessions, or in a version that does not fit; PERMISSION_DENIED, this client was not granted what the service requires; UNAVAILABLE, there was no
            connection within ``connect_timeout`` seconds; RESOURCE_EXHAUSTED, the connection had as many sessions as the server allows for as long as that, or
            too many calls and sessions wait for the service; INTERNAL, the instance could not be made; or, with any code, what the instance's ``__init__``
            raised, without its details.
        RuntimeError: the block is entered twice.

    Cancellation while it is entered leaves no instance behind; while it is left, it comes out once that is done, unless the block raised something of its own.
    """

    def __init__(self, channel: ClientChannel, service: type[S], info: ServiceInfo) -> None:
        self._channel = channel
        self._checked = ServiceChannel(channel, service)
        self._service = service
        self._info = info
        self._entered = False
        self._around: TaskSet
        self._session: OutgoingSession
        self._connection: ClientConnection

    def __repr__(self) -> str:
        return f"<session of {self._info.name}>"

    if not TYPE_CHECKING:  # for those who do not use one: it finds these mistakes by itself

        def __getattr__(self, name: str) -> object:
            if not name.startswith("_") and name in self._info.methods:
                raise AttributeError(f"{name} is called on what the block of a session gives: {self._how}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

        def __await__(self) -> NoReturn:
            raise TypeError(f"a session is a block, and is not awaited: {self._how}")

    @property
    def _how(self) -> str:
        return f"write 'async with client.session({self._service.__name__}) as session:', and call 'session' in it"

    async def __aenter__(self) -> S:
        if self._entered:
            raise RuntimeError("this session was entered before: use client.session again for another one")
        self._entered = True
        self._around = self._channel.task_set()
        try:
            session = await self._opened()
            if session.was_turned_away:
                # Its server drains, and the news of that is still on the way; nothing has seen the session.
                self._connection.refused(f"it refused {session.label}")
                session = await self._opened()
            self._session = session.current
        except BaseException:
            self._channel.forget(self._around)
            raise
        return make_stub(self._service, session)

    async def _opened(self) -> OutgoingSession:
        self._connection = connection = await self._with_slot()
        session = OutgoingSession(connection, self._info, self._channel.interception, self._around)
        session.open()
        try:
            await session.wait_answer()
        except BaseException:
            session.leave()
            raise
        return session

    async def _with_slot(self) -> ClientConnection:
        """A connection on which a session may begin, if it does before anything else is awaited."""
        while True:
            connection = await self._checked.connection()
            slots = connection.session_slots
            if slots.has_slot:
                return connection
            with anyio.move_on_after(self._channel.connect_timeout) as scope:
                if await slots.acquire():
                    return connection
            if scope.cancelled_caught:
                raise RpcError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"no session could be opened within {self._channel.connect_timeout:g} s: {len(connection.sessions)} are open on this connection, "
                    f"of {connection.peer_session_limit} that the server takes; leave some, or connect again for more",
                )

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        session = self._session
        session.leave()
        self._channel.forget(self._around)
        try:
            await self._closed(session)
            if exc is None:
                await checkpoint_with_deadlines()
        except anyio.get_cancelled_exc_class():
            # What the body raised comes out rather than a cancellation that came later; the scope that was cancelled stays so.
            if exc is None:
                raise

    async def _closed(self, session: OutgoingSession) -> None:
        """Wait, whatever is cancelled meanwhile, until the server has closed the instance, or its time for that is over."""
        closed = anyio.Event()
        session.when_over(closed.set)
        budget = cleanup_time(self._connection, sessions=True)
        timer = session.reactor.call_at(session.reactor.now() + budget, partial(self._give_up, budget, closed))
        try:
            await outlast(closed)
        finally:
            timer.cancel()

    def _give_up(self, budget: float, closed: anyio.Event) -> None:
        logger.info("the server did not confirm within %g s that %s is closed, so it is abandoned", budget, self._session.label)
        self._session.abandon()
        closed.set()
