"""Where a client's calls find their connection: the one that takes calls, those that only let theirs end, and the way to the next one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Protocol

import anyio

from aster._client_connection import ClientConnection
from aster._contract import MalformedContractError, contract_differences, decode_form, known_contract, summary
from aster._declarations import service_info
from aster._endpoint import EndpointOptions
from aster._outgoing import OutgoingCall, OutgoingOwner, Repeater
from aster._protocol.events import CloseCode, Hello, ResetCode, ServiceEntry, Setting
from aster._reactor import Condition, spare_ctrl_c
from aster._retries import Backoff, RetryBudget
from aster._tasks import StartedTask, TaskSet
from aster.errors import AsterError, ConnectError, ConnectionLost, IdentityError, RefusedError, RpcError, StatusCode, UnreachableError
from aster.interceptors import Interception
from aster.types import ServiceInfo

if TYPE_CHECKING:
    from aster._lifetime import Lifetime

__all__ = [
    "FIRST_BACKOFF",
    "LONGEST_BACKOFF",
    "LONGEST_CLEANUP",
    "REMEMBERED_CONTRACTS",
    "ROUND_TRIP_ALLOWANCE",
    "CallChannel",
    "CallOwner",
    "ClientChannel",
    "ServiceChannel",
    "cleanup_time",
    "slot_of",
]

logger = logging.getLogger("aster")

FIRST_BACKOFF = 0.1
"""Seconds at the most before the second attempt to connect again; the first one is made at once."""

LONGEST_BACKOFF = 5.0
"""Seconds at the most between two attempts: half the default ``connect_timeout``, so that who waits that long sees two of them, if they fail at once.
A connection that lives as long has proved itself: the next one is tried at once again."""

ROUND_TRIP_ALLOWANCE = 1.0
"""Seconds that are added to the server's cleanup budget for its confirmations to arrive: some round trips of a slow mobile network."""

LONGEST_CLEANUP = 60.0
"""Seconds of cleanup budget that a client grants a server, whatever its hello says: the wait is shielded, and a hostile server could ask for ever.
Twelve times the default."""


REMEMBERED_CONTRACTS = 16
"""Contracts of servers that a stub remembers its verdict of. While servers are updated two answer in turn; a hostile one could make up any number."""


class ClientChannel:
    """A client's connections, one after the other.

    When the one that takes calls is lost, or its server goes away, a task connects again: at once, and then after ever longer waits. What is under way on a
    connection whose server goes away ends there.

    Args:
        lifetime: of the client's block.
        options: of the client.
        dial: connects what it is given, or raises ConnectError. Used for each connection, within the connect timeout.
        where: the server's host and port, for messages.
        endpoint_id: the client's own.
        connect_timeout: seconds that an attempt may take, and that a call waits for a connection.
        interception: what wraps each call.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        options: EndpointOptions,
        dial: Callable[[ClientConnection], Awaitable[object]],
        where: str,
        endpoint_id: str,
        connect_timeout: float,
        interception: Interception | None = None,
    ) -> None:
        self.current: ClientConnection | None = None
        """The connection that takes calls now."""
        self.budget = RetryBudget()
        self.connect_timeout = connect_timeout
        self.interception = interception
        self._task_sets: set[TaskSet] = set()
        self._lifetime = lifetime
        self.around = self.task_set()
        self._options = options
        self._dial = dial
        self.where = where
        self._endpoint_id = endpoint_id
        self._connections: set[ClientConnection] = set()
        self._repeating: set[OutgoingCall] = set()
        self._waiting = Condition(lifetime.reactor)
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF, at_once=True)
        self._used_since = 0.0
        self._reason: Exception | None = None
        self._is_final = False
        self._left = False
        self._redialing: StartedTask | None = None

    # Connecting

    async def open(self) -> None:
        """Connect for the first time. A failure is not tried again.

        Raises:
            ConnectError: as ``AsterClient`` tells.
        """
        self._use(await self._connect())

    async def _connect(self) -> ClientConnection:
        connection = ClientConnection(self._lifetime.reactor, self._options, self._lifetime.inner, self)
        # Known from the beginning, so that whoever leaves meanwhile waits until nothing of it is left.
        self._connections.add(connection)
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + self.connect_timeout) as scope:
                await self._dial(connection)
            if scope.cancelled_caught:
                raise UnreachableError(
                    f"{self.where} did not complete a handshake within {self.connect_timeout:g} s: check that the server runs there and that UDP reaches it"
                )
            if connection.why_closed is not None:
                raise self._turned_away(connection.why_closed) from connection.why_closed
        except BaseException:
            if not connection.connected:
                self._connections.discard(connection)
            connection.hang_up()
            raise
        return connection

    def _turned_away(self, why: AsterError) -> ConnectError:
        if isinstance(why, ConnectionLost) and why.silent:
            return UnreachableError(f"{self.where} took this client's connection, and then was heard no more: {why}")
        if isinstance(why, ConnectionLost) and why.code == CloseCode.REFUSED:
            reason = why.reason or "it does not say why"
            return RefusedError(f"the server at {self.where} does not admit this client, endpoint id {self._endpoint_id}: {reason}")
        return RefusedError(f"the server at {self.where} turned this client away: {why}")

    def _use(self, connection: ClientConnection) -> None:
        self.current, self._reason = connection, None
        self._used_since = self._lifetime.reactor.now()
        self._waiting.notify_all()

    def connection_changed(self, connection: ClientConnection) -> None:
        """A connection takes no new calls any more, or the last one of those that it had is over."""
        if connection.lost is not None:
            self._connections.discard(connection)
        elif connection.is_idle:
            connection.hang_up()
        if connection is self.current:
            self.current, self._reason = None, connection.why_closed
            if self._lifetime.reactor.now() - self._used_since >= LONGEST_BACKOFF:
                self._backoff.reset()
            logger.info("connecting to %s again: %s", self.where, self._reason)
            self._redial()
        self._waiting.notify_all()

    def _redial(self) -> None:
        self._redialing = StartedTask(self._lifetime.inner, spare_ctrl_c(self._keep_dialing), "aster reconnect", self._lifetime.reactor, shielded=True)

    async def _keep_dialing(self) -> None:
        try:
            while not self._is_settled():
                await anyio.sleep(self._backoff.next())
                await self._try_again()
        finally:
            self._redialed()

    async def _try_again(self) -> None:
        try:
            connection = await self._connect()
            if self._left:  # a cancelled attempt may succeed all the same
                connection.hang_up()
            else:
                self._use(connection)
        except IdentityError as exc:
            self._is_final, self._reason = True, exc.with_traceback(None)
            logger.info("giving up to connect again: %s", exc)
        except (AsterError, OSError) as exc:
            self._reason = exc.with_traceback(None)
            logger.info("connecting again failed: %s", exc)

    def _redialed(self) -> None:
        self._redialing = None
        if not self._is_settled():  # asyncio's own cancellation has ended the task, and nothing else will connect again
            self._redial()
        self._waiting.notify_all()

    # Waiting

    async def connection(self) -> ClientConnection:
        """The connection that takes calls; waits for one while there is none, up to the connect timeout.

        Raises:
            RpcError: UNAVAILABLE, there is still none.
        """
        with anyio.move_on_after(self.connect_timeout):
            await self._waiting.wait_for(self._is_settled)
        if self.current is None:
            raise self._unavailable()
        return self.current

    def _is_settled(self) -> bool:
        """Whether there is nothing to wait for: there is a connection, or there will be none."""
        return self.current is not None or self._is_final or self._left

    def _unavailable(self) -> RpcError:
        if self._left:
            return RpcError(StatusCode.UNAVAILABLE, "the client's block was left: connect again to make more calls")
        if self._is_final:
            message = f"the connection was lost, and it is not tried again, since another server answers now: {self._reason}"
        else:
            message = f"there was no connection to {self.where} for {self.connect_timeout:g} s: {self._reason}"
        error = RpcError(StatusCode.UNAVAILABLE, message)
        error.__cause__ = self._reason
        return error

    # Tasks beside the calls

    def task_set(self) -> TaskSet:
        """A set of tasks, which the end of the client's block cancels too."""
        tasks = TaskSet(self._lifetime.inner, self._lifetime.reactor)
        self._task_sets.add(tasks)
        return tasks

    def forget(self, tasks: TaskSet) -> None:
        """Nothing is started in a set any more."""
        self._task_sets.discard(tasks)

    # Repeating calls

    def repeat(self, call: OutgoingCall, delay: float, channel: ServiceChannel) -> StartedTask:
        """In ``delay`` seconds begin a call again, on the connection that ``channel`` gives, from a task that the call may cancel."""
        self._repeating.add(call)
        task = StartedTask(
            self._lifetime.inner, spare_ctrl_c(lambda: self._begin_again(call, delay, channel)), "aster retry", self._lifetime.reactor, shielded=True
        )
        task.check(lambda: self._repeated(call))
        return task

    async def _begin_again(self, call: OutgoingCall, delay: float, channel: ServiceChannel) -> None:
        try:
            await anyio.sleep(delay)
            call.begin_again(await slot_of(channel))
        except RpcError as exc:
            call.give_up(exc)
        finally:
            self._repeated(call)

    def _repeated(self, call: OutgoingCall) -> None:
        self._repeating.discard(call)
        # If it was not begun again, its first failure is its outcome.
        call.give_up()

    # Leaving

    async def leave(self) -> None:
        """Cancel all calls and take no new ones; wait until their handlers have unwound (law 4), or the server's budget for it is over; hang up."""
        self._left, self.current = True, None
        self._waiting.notify_all()
        if self._redialing is not None:
            self._redialing.cancel(self._redialed)
        for call in list(self._repeating):
            call.cancel(ResetCode.CANCELLED)
        for tasks in self._task_sets:
            tasks.cancel()
        began = anyio.current_time()
        for connection in self._connections:
            connection.leave()
        for connection in list(self._connections):
            await _finish_calls(connection, began)
            connection.hang_up()
        await self._waiting.wait_for(lambda: self._redialing is None and not self._connections)


async def _finish_calls(connection: ClientConnection, began: float) -> None:
    budget = cleanup_time(connection, sessions=bool(connection.sessions))
    with anyio.CancelScope(deadline=began + budget) as scope:
        await connection.wait_until(lambda: connection.is_idle)
    if scope.cancelled_caught and connection.lost is None:
        overdue = ", ".join(sorted({call.method.label for call in connection.calls} | {session.label for session in connection.sessions}))
        logger.info("the server did not confirm within %g s that these calls have unwound, so the connection is closed: %s", budget, overdue)
        connection.transport.close(CloseCode.CLEANUP_OVERDUE, "cancelled calls did not unwind in time")


def cleanup_time(connection: ClientConnection, *, sessions: bool) -> float:
    """Seconds that a client waits for a server to confirm that what it ran has unwound (law 4); of sessions, whose hooks have a budget of their own after their
    calls, twice its budget."""
    hello = connection.hello
    budget = min(hello.settings.get(Setting.CLEANUP_MILLISECONDS, 0) / 1000 if hello else 0.0, LONGEST_CLEANUP)
    return budget * (2 if sessions else 1) + ROUND_TRIP_ALLOWANCE


async def slot_of(channel: CallChannel) -> CallOwner:
    """Where a call may begin, if it does before anything else is awaited: a connection, or a session.

    Raises:
        RpcError: UNAVAILABLE, there was none within the connect timeout; FAILED_PRECONDITION, the server that is there now has no such service, or one
            that does not fit; of any code, the session is over.
        RuntimeError: the call would wait for one that its own task holds.
    """
    while True:
        connection = channel.current or await channel.connection()
        if connection.has_slot or await connection.acquire_slot():
            return connection


class CallOwner(OutgoingOwner, Protocol):
    """What calls begin on: one after the other, or so many at a time."""

    @property
    def has_slot(self) -> bool:
        """Whether one may begin now, with nobody before in the queue."""
        ...

    async def acquire_slot(self) -> bool:
        """Wait until one may begin; false when none may any more."""
        ...


class CallChannel(Protocol):
    """What a stub's calls go through."""

    @property
    def interception(self) -> Interception | None:
        """What wraps each call, if anything does."""
        ...

    @property
    def around(self) -> TaskSet:
        """The tasks of interceptors, which run around calls."""
        ...

    @property
    def repeater(self) -> Repeater | None:
        """What repeats those that fail; ``None`` when nothing does."""
        ...

    @property
    def current(self) -> CallOwner | None:
        """Where calls begin now, if there is anything; raises RpcError when there will be nothing any more."""
        ...

    async def connection(self) -> CallOwner:
        """The same, waited for."""
        ...


class ServiceChannel:
    """A client's channel as one stub uses it: the server of each new connection has to have the service, and to mean the same by it.

    Args:
        channel: the client's.
        service: the class of the service that the stub stands for.

    Raises:
        ValueError: the service's contract is above the limit.
    """

    def __init__(self, channel: ClientChannel, service: type) -> None:
        self.budget = channel.budget
        self.interception = channel.interception
        self.around = channel.around
        self._channel = channel
        self._service = service_info(service)
        self._contract, contract_id = known_contract(service)
        # A server that does not tell its contract's id is taken at its word.
        self._alike = (contract_id, b"")
        self._verdicts: dict[bytes, str] = {}
        # The hello, which is small: a stub that is kept would keep a whole connection.
        self._checked: Hello | None = None

    @property
    def repeater(self) -> ServiceChannel:
        """Itself."""
        return self

    @property
    def current(self) -> ClientConnection | None:
        """The connection that takes calls now, if there is one and its server is known to have the service.

        Raises:
            RpcError: FAILED_PRECONDITION, its server has no such service, or one that does not fit.
        """
        current = self._channel.current
        if current is None or current.hello is self._checked:
            return current
        verdict = self._known_verdict(self._entry(current))
        return None if verdict is None else self._accept(current, verdict)

    async def connection(self) -> ClientConnection:
        """As ``ClientChannel.connection`` and ``current``; asks the server for its contract where that is not known yet.

        Raises:
            RpcError: as they do; and UNAVAILABLE, the server did not tell its contract within the connect timeout.
        """
        deadline = anyio.current_time() + self._channel.connect_timeout
        while True:
            verdict = None
            connection = await self._channel.connection()
            with anyio.CancelScope(deadline=deadline) as scope:
                verdict = await self._verdict(connection)
            if verdict is not None:
                return self._accept(connection, verdict)
            if scope.cancelled_caught:
                break
        raise RpcError(
            StatusCode.UNAVAILABLE, f"{self._channel.where} did not tell the contract of {self._label} within {self._channel.connect_timeout:g} s: try again"
        )

    def repeat(self, call: OutgoingCall, delay: float) -> StartedTask:
        """As ``ClientChannel.repeat``."""
        return self._channel.repeat(call, delay, self)

    @property
    def _label(self) -> str:
        return f"service {self._service.name!r} version {self._service.version}"

    def _entry(self, connection: ClientConnection) -> ServiceEntry:
        """What the server's hello says of the service."""
        assert connection.hello is not None
        entries = {entry.version: entry for entry in connection.hello.services if entry.name == self._service.name}
        entry = entries.get(self._service.version)
        if entry is None:
            missing = _missing(self._service, connection.hello, entries)
            if self._checked is None:
                raise RpcError(StatusCode.UNIMPLEMENTED, missing)
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"{_CHANGED}: {missing}")
        return entry

    async def _verdict(self, connection: ClientConnection) -> str | None:
        """Why the service cannot be called, empty if it can; ``None`` when the connection takes no calls any more."""
        entry = self._entry(connection)
        verdict = self._known_verdict(entry)
        if verdict is None:
            form = await connection.contract_of(entry)
            if form is not None:
                verdict = self._compare(form)
                self._remember(entry.contract_id, verdict)
        return verdict

    def _known_verdict(self, entry: ServiceEntry) -> str | None:
        return "" if entry.contract_id in self._alike else self._verdicts.get(entry.contract_id)

    def _compare(self, form: bytes) -> str:
        try:
            differences = contract_differences(self._contract, decode_form(form))
        except MalformedContractError as exc:
            return f"the contract of {self._label} that the server tells cannot be read: {exc}; update the older side"
        if not differences:
            return ""
        mend = "update the older side, or give the newer one another version"
        return f"{self._label} at the server does not fit this client's; {mend}:{summary(differences)}"

    def _remember(self, contract_id: bytes, verdict: str) -> None:
        if len(self._verdicts) >= REMEMBERED_CONTRACTS:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[contract_id] = verdict

    def _accept(self, connection: ClientConnection, verdict: str) -> ClientConnection:
        if verdict:
            raise RpcError(StatusCode.FAILED_PRECONDITION, verdict if self._checked is None else f"{_CHANGED}: {verdict}")
        self._checked = connection.hello
        return connection


_CHANGED = "the server has changed since this stub was made"


def _missing(info: ServiceInfo, hello: Hello, versions: Collection[int]) -> str:
    if not versions:
        names = ", ".join(f"{entry.name!r} (version {entry.version})" for entry in hello.services)
        return f"the server has no service {info.name!r}; it has {names or 'none'}: serve it too, or correct the name"
    known = ", ".join(map(str, sorted(versions)))
    return f"the server has no version {info.version} of service {info.name!r}; it has {known}: update the older side, or serve both versions"
