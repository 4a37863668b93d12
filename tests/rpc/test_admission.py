"""``admit=`` and ``authorize=`` at work: when they are asked, what a client sees that is not admitted, and what becomes of a function that misbehaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import Identity, RefusedError, StatusCode
from aster._entrance import DECISION_TIME
from aster._protocol.events import CloseCode, Describe, GoAway
from aster._protocol.frames import FrameKind, decode_go_away, encode_describe
from aster.decorators import rpc, service
from aster.testing import Link, SimulatedNetwork, assert_no_orphans, live_connections, virtual_time_backend
from aster.transports.base import Connection, Stream, Transport
from aster.transports.memory import MemoryTransport
from aster.types import Peer
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Endless, Witness, backend_for, cancelled_at_every_step, error_of, kept_cancellation, on_asyncio, server_records, until
from tests.rpc.raw import END, HELLO, RawOwner, RawStream, header_of, raw, raw_listener

pytestmark = pytest.mark.anyio

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client may take for its hello, and to acknowledge a refusal."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> object:
    """Virtual time over memory."""
    return backend_for(request.param, transport)


_IN_MEMORY = pytest.mark.parametrize("transport", [MemoryTransport()], ids=["memory"])

_FRIEND, _STRANGER = Identity.generate(), Identity.generate()


def _sync(peer: Peer) -> bool:
    return peer.endpoint_id == _FRIEND.endpoint_id


async def _async(peer: Peer) -> bool:
    await anyio.lowlevel.checkpoint()
    return _sync(peer)


async def _async_everyone(peer: Peer) -> bool:
    await anyio.lowlevel.checkpoint()
    return True


@service("Whoami")
class Whoami:
    @rpc(idempotent=True)  # a call may begin before the news that its connection is gone
    async def roles(self, item: Item) -> Item:
        return Item(text=" ".join(sorted(aster.current_call().capabilities)))


def _serve(transport: Transport, **options: Any) -> aster.AsterServer:
    return aster.serve([Echo()], transport=transport, **options)


async def _refusal(address: str, transport: Transport, identity: Identity | None = None) -> str:
    """What ``connect`` says to a client that is not admitted."""
    with pytest.raises(RefusedError) as caught:
        async with aster.connect(address, transport=transport, identity=identity or _STRANGER, connect_timeout=60):
            raise AssertionError("the client is in")
    return str(caught.value)


async def _call(address: str, transport: Transport, identity: Identity = _FRIEND) -> None:
    async with aster.connect(address, transport=transport, identity=identity) as client:
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


class Asked:
    """An async policy that waits until it is told what to say, and knows what becomes of it."""

    def __init__(self, answer: object = True) -> None:
        self.witness = Witness()
        self.go_on = anyio.Event()
        self.peers = list[Peer]()
        self._answer = answer

    async def __call__(self, peer: Peer) -> Any:
        with self.witness.watch():
            self.peers.append(peer)
            await self.go_on.wait()
        return self._answer


# Who is admitted


@pytest.mark.parametrize("admit", [[_FRIEND.endpoint_id], {_FRIEND.endpoint_id}, _sync, _async], ids=["list", "set", "sync", "async"])
async def test_a_client_that_is_not_admitted_is_refused_by_name_and_others_are_served(transport: Transport, admit: Any) -> None:
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, admit=admit) as server:
        await _call(server.address, transport)
        where = server.address.rpartition("@")[2]
        assert await _refusal(server.address, transport) == (
            f"the server at {where} does not admit this client, endpoint id {_STRANGER.endpoint_id}: ask the server's operator to add that id to admit="
        )
        await _call(server.address, transport)
        await until(lambda: not server_records())


async def test_an_empty_list_admits_nobody(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport, admit=[]) as server:
        assert "does not admit this client" in await _refusal(server.address, transport, _FRIEND)


async def test_a_refused_client_hears_the_reason_in_place_of_the_hello_and_then_the_code_for_that(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport, admit=[]) as server, raw(server, transport) as peer:
        await peer.lost.wait()
        ((kind, payload),) = peer.heard.frames()
        assert kind == FrameKind.GO_AWAY
        assert decode_go_away(payload) == GoAway(-1, "ask the server's operator to add that id to admit=")
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.REFUSED})" in peer.why


async def test_the_function_is_given_who_connects_once_a_connection(transport: Transport) -> None:
    seen = list[tuple[str, Peer]]()

    def admit(peer: Peer) -> bool:
        seen.append(("admit", peer))
        return True

    async def authorize(peer: Peer) -> str:
        seen.append(("authorize", peer))
        return "reader"

    async with (
        aster.serve([Whoami()], transport=transport, admit=admit, authorize=authorize) as server,
        aster.connect(server.address, transport=transport) as client,
    ):
        whoami = await client.client(Whoami)
        for _ in range(3):
            assert (await whoami.roles(Item())).text == "reader"
        assert [(what, peer.endpoint_id) for what, peer in seen] == [("admit", client.endpoint_id), ("authorize", client.endpoint_id)]


async def test_a_client_that_is_not_admitted_is_granted_nothing(transport: Transport) -> None:
    asked = Asked()
    async with aster.serve([Echo()], transport=transport, admit=[], authorize=asked) as server:
        await _refusal(server.address, transport)
    assert asked.peers == []


async def _cut() -> None:
    """End the one connection, at the server's end."""
    (record,) = server_records()
    record.transport.close()
    await until(lambda: record.lost)


async def test_a_list_that_changes_holds_for_the_next_connection_and_a_refused_client_tries_again(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aster")
    admitted = {_FRIEND.endpoint_id}
    async with (
        aster.serve([Echo()], transport=transport, admit=admitted) as server,
        aster.connect(server.address, transport=transport, identity=_FRIEND) as client,
    ):
        echo = await client.client(Echo)
        admitted.clear()
        assert await echo.same(Item(1)) == Item(1)
        await _cut()
        await until(lambda: "connecting again failed" in caplog.text)
        assert f"does not admit this client, endpoint id {client.endpoint_id}" in caplog.text
        admitted.add(client.endpoint_id)
        assert await echo.same(Item(2)) == Item(2)


@_IN_MEMORY
async def test_calls_of_a_client_that_is_admitted_no_more_fail_with_the_reason(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster")
    admitted = {_FRIEND.endpoint_id}
    async with (
        aster.serve([Echo()], transport=transport, admit=admitted) as server,
        aster.connect(server.address, transport=transport, identity=_FRIEND) as client,
    ):
        echo = await client.client(Echo)
        admitted.clear()
        await _cut()
        await until(lambda: "connecting again failed" in caplog.text)
        error = await error_of(echo.same(Item(2)))
        assert error.code is StatusCode.UNAVAILABLE
        assert f"does not admit this client, endpoint id {client.endpoint_id}" in error.message
        assert isinstance(error.__cause__, RefusedError)


async def test_what_is_granted_changes_with_the_next_connection(transport: Transport) -> None:
    granted = {_FRIEND.endpoint_id: "reader"}
    async with (
        aster.serve([Whoami()], transport=transport, authorize=granted) as server,
        aster.connect(server.address, transport=transport, identity=_FRIEND) as client,
    ):
        whoami = await client.client(Whoami)
        granted[_FRIEND.endpoint_id] = "writer"
        assert (await whoami.roles(Item())).text == "reader"
        await _cut()
        assert (await whoami.roles(Item())).text == "writer"


# Functions that fail


async def _raise(peer: Peer) -> Any:
    await anyio.lowlevel.checkpoint()
    raise LookupError("secret")


async def _raise_together(peer: Peer) -> Any:
    async with anyio.create_task_group() as group:
        group.start_soon(_raise, peer)
        await anyio.sleep_forever()


def _raise_at_once(peer: Peer) -> Any:
    raise LookupError("secret")


async def _raise_cancellation(peer: Peer) -> Any:
    raise await kept_cancellation()


def _say_nonsense(peer: Peer) -> Any:
    return 5


async def _say_nonsense_later(peer: Peer) -> Any:
    return 5


def _say_a_mapping(peer: Peer) -> Any:
    return {"admin": False}


def _say_halfway(peer: Peer) -> Any:
    def roles() -> Any:
        yield "reader"
        raise LookupError("secret")

    return roles()


@_IN_MEMORY
@pytest.mark.parametrize("option", ["admit", "authorize"])
@pytest.mark.parametrize(
    "function", [_raise, _raise_together, _raise_at_once, _raise_cancellation, _say_nonsense, _say_nonsense_later, _say_a_mapping, _say_halfway]
)
async def test_a_function_that_fails_admits_nobody_and_tells_the_log_alone(
    transport: Transport, option: str, function: Callable[[Peer], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with assert_no_orphans(), _serve(transport, **{option: function}) as server:
        message = await _refusal(server.address, transport)
        assert message.endswith(f"endpoint id {_STRANGER.endpoint_id}: the server could not decide; its log has the reason")
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert (record.levelname, record.message) == ("ERROR", f"{option}= failed for {_STRANGER.endpoint_id}, which is turned away")
        assert record.exc_info is not None
        assert record.exc_info[1] is not None


async def test_a_server_whose_function_failed_once_serves_the_next_client(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    async def admit(peer: Peer) -> bool:
        if peer.endpoint_id == _STRANGER.endpoint_id:
            raise LookupError
        return True

    async with aster.serve([Echo()], transport=transport, admit=admit) as server:
        await _refusal(server.address, transport)
        await _call(server.address, transport)
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1


# Functions that take their time


async def test_nobody_waits_for_the_answer_about_another_client(transport: Transport) -> None:
    asked = Asked()

    async def admit(peer: Peer) -> bool:
        return True if peer.endpoint_id == _FRIEND.endpoint_id else await asked(peer)

    async with aster.serve([Echo()], transport=transport, admit=admit) as server, anyio.create_task_group() as group:
        group.start_soon(_call, server.address, transport, _STRANGER)
        await until(lambda: asked.peers)
        await _call(server.address, transport)
        assert asked.witness.running == 1
        asked.go_on.set()


@_IN_MEMORY
@pytest.mark.parametrize("option", ["admit", "authorize"])
async def test_an_answer_that_does_not_come_is_a_refusal_that_clients_hear_of(transport: Transport, option: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked()
    async with assert_no_orphans(), _serve(transport, **{option: asked}) as server:
        began = anyio.current_time()
        message = await _refusal(server.address, transport)
        assert anyio.current_time() - began == pytest.approx(DECISION_TIME)
        assert message.endswith("the server could not decide; its log has the reason")
        await until(lambda: asked.witness.cancelled)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.message == f"admit= and authorize= gave no answer within 5 s for {_STRANGER.endpoint_id}, which is turned away"


@_IN_MEMORY
async def test_a_client_that_says_hello_late_leaves_the_function_its_time(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    async def admit(peer: Peer) -> bool:
        await anyio.sleep(DECISION_TIME - 1)
        return True

    async with aster.serve([Echo()], transport=transport, admit=admit) as server, raw(server, transport, hello=b"") as peer:
        await anyio.sleep(HANDSHAKE_TIMEOUT - 1)
        peer.control.write(HELLO)
        await anyio.sleep(HANDSHAKE_TIMEOUT)
        assert peer.heard.frames()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("option", ["admit", "authorize"])
async def test_a_function_is_cancelled_when_its_client_leaves(transport: Transport, option: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked()
    async with assert_no_orphans(), _serve(transport, **{option: asked}) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(_call, server.address, transport)
            await until(lambda: asked.peers)
            group.cancel_scope.cancel()
        await until(lambda: asked.witness.unwound)
        assert asked.witness.cancelled == 1
        assert not server_records()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("option", ["admit", "authorize"])
async def test_a_function_is_cancelled_when_the_server_closes(transport: Transport, option: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked()
    async with assert_no_orphans(), anyio.create_task_group() as group:
        async with _serve(transport, **{option: asked}) as server:
            group.start_soon(_refusal, server.address, transport)
            await until(lambda: asked.peers)
        assert (asked.witness.cancelled, asked.witness.running) == (1, 0)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_function_that_shields_itself_keeps_the_servers_block_and_its_answer_comes_too_late(transport: Transport) -> None:
    left, go_on, asked = list[str](), anyio.Event(), anyio.Event()

    async def admit(peer: Peer) -> bool:
        asked.set()
        with anyio.CancelScope(shield=True):
            await go_on.wait()
        left.append("function")
        return True

    async def let_go() -> None:
        await until(lambda: not server_records())
        left.append("connection")
        go_on.set()

    async with assert_no_orphans(), anyio.create_task_group() as group:
        async with aster.serve([Echo()], transport=transport, admit=admit) as server:
            group.start_soon(_refusal, server.address, transport)
            await asked.wait()
            group.start_soon(let_go)
        left.append("server")
    assert left == ["connection", "function", "server"]


async def test_a_failure_while_it_is_cancelled_is_logged_and_harms_nobody(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    asked = anyio.Event()

    async def admit(peer: Peer) -> bool:
        if peer.endpoint_id == _FRIEND.endpoint_id:
            return True
        try:
            asked.set()
            await anyio.sleep_forever()
        finally:
            raise LookupError("the database is gone as well")

    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, admit=admit) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(_call, server.address, transport, _STRANGER)
            await asked.wait()
            group.cancel_scope.cancel()
        await until(lambda: [each for each in caplog.records if each.levelno >= logging.WARNING])
        await _call(server.address, transport)


# Before the answer


@pytest.mark.parametrize("answer", [True, False])
async def test_a_call_that_comes_before_the_answer_reaches_no_handler(transport: Transport, answer: bool) -> None:
    endless = Endless()

    asked = anyio.Event()

    async def admit(peer: Peer) -> bool:
        asked.set()
        with anyio.CancelScope(shield=True):
            await early.lost.wait()
        return answer

    async with assert_no_orphans(), aster.serve([endless], transport=transport, admit=admit) as server, raw(server, transport) as early:
        await asked.wait()
        _, sink = early.call(header_of("total"))
        await early.lost.wait()
        assert "the client opened a call before the server's HELLO" in early.why
        assert isinstance(transport, MemoryTransport) or f"(code {CloseCode.PROTOCOL})" in early.why
        assert not sink.received
        assert not early.heard.received
    assert endless.witness.began == 0


async def test_a_call_that_comes_with_the_hello_reaches_no_handler_either(transport: Transport) -> None:
    endless = Endless()
    async with assert_no_orphans(), aster.serve([endless], transport=transport, admit=[]) as server, raw(server, transport) as early:
        _, sink = early.call(header_of("total") + END)
        await early.lost.wait()
        assert not sink.received
    assert endless.witness.began == 0


_QUESTION = encode_describe(Describe("Echo", 1))


async def test_a_client_that_asks_for_a_contract_before_the_answer_gets_nothing_of_it(transport: Transport) -> None:
    asked = Asked()
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, admit=asked) as server, raw(server, transport) as early:
        await until(lambda: asked.peers)
        early.control.write(_QUESTION)
        await early.lost.wait()
        assert "the client asked for a contract before the server's HELLO" in early.why
        assert not early.heard.received
        await until(lambda: asked.witness.cancelled)


async def test_a_client_that_asks_for_a_contract_with_its_hello_or_after_its_refusal_gets_nothing_of_it_either(transport: Transport) -> None:
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, admit=[]) as server:
        async with raw(server, transport, HELLO + _QUESTION) as early:
            await early.lost.wait()
            assert not early.heard.received
        async with raw(server, transport) as refused:
            refused.heard.on_data = lambda: refused.control.write(_QUESTION)
            await refused.lost.wait()
            assert [kind for kind, _ in refused.heard.frames()] == [FrameKind.GO_AWAY]


async def test_a_client_that_is_admitted_asks_after_the_hello(transport: Transport) -> None:
    async with aster.serve([Echo()], transport=transport, admit=_async_everyone) as server, raw(server, transport) as peer:
        await peer.said_hello()
        peer.control.write(_QUESTION)
        await until(lambda: len(peer.heard.frames()) == 2)
        assert [kind for kind, _ in peer.heard.frames()] == [FrameKind.HELLO, FrameKind.CONTRACT]


async def test_a_drain_before_the_answer_is_told_after_the_hello(transport: Transport) -> None:
    asked = Asked()
    async with aster.serve([Echo()], transport=transport, admit=asked) as server, raw(server, transport) as peer:
        await until(lambda: asked.peers)
        await server.drain(0)
        assert not peer.heard.received
        asked.go_on.set()
        await until(lambda: len(peer.heard.frames()) == 2)
        assert [kind for kind, _ in peer.heard.frames()] == [FrameKind.HELLO, FrameKind.GO_AWAY]


# Anywhere


@pytest.mark.parametrize("anyio_backend", [virtual_time_backend("asyncio"), virtual_time_backend("trio")], ids=["asyncio", "trio"])
async def test_a_refusal_is_told_whatever_datagram_is_lost() -> None:
    told = 0
    for seed in range(30):
        network = SimulatedNetwork(Link(loss=0.15), seed=seed)
        async with aster.serve([Echo()], transport=network, admit=[]) as server:
            assert "does not admit this client" in await _refusal(server.address, network)
        told += network.statistics.lost > 0
    assert told > 10


class Unmoved:
    """A server that closes with the code of a refusal and has said nothing before, as one that is not Aster's may."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def accept(self, connection: Connection) -> RawOwner:
        def stream_opened(stream: Stream) -> RawStream:
            connection.close(CloseCode.REFUSED, self._reason)
            return RawStream()

        return RawOwner(stream_opened)


@pytest.mark.parametrize(("reason", "told"), [("go home", "go home"), ("", "it does not say why")])
async def test_the_code_alone_says_that_a_client_is_not_admitted(transport: Transport, reason: str, told: str) -> None:
    async with raw_listener(transport, Unmoved(reason).accept) as address:
        assert (await _refusal(address, transport)).endswith(f"does not admit this client, endpoint id {_STRANGER.endpoint_id}: {told}")


@pytest.mark.parametrize("anyio_backend", [virtual_time_backend("asyncio"), virtual_time_backend("trio")], ids=["asyncio", "trio"])
async def test_a_client_that_acknowledges_no_refusal_is_closed_after_ten_seconds() -> None:
    network = SimulatedNetwork()
    async with assert_no_orphans(), aster.serve([Echo()], transport=network, admit=[]) as server, raw(server, network) as peer:
        peer.heard.on_data = network.partition
        await until(peer.heard.frames)
        (record,) = server_records()
        await anyio.sleep(HANDSHAKE_TIMEOUT - 1)
        assert record.lost is None
        await anyio.sleep(2)
        assert record.lost is not None


async def test_a_function_whose_task_asyncio_cancels_admits_nobody_and_harms_nobody(transport: Transport) -> None:
    """A program may cancel all tasks that it finds."""
    if not on_asyncio():
        return
    asked = Asked()
    async with assert_no_orphans(), aster.serve([Echo()], transport=transport, admit=asked) as server, anyio.create_task_group() as group:
        group.start_soon(_refusal, server.address, transport)
        await until(lambda: asked.peers)
        (task,) = _tasks("aster admission")
        task.cancel()
        await until(lambda: not server_records())
        asked.go_on.set()
        await _call(server.address, transport)


def _tasks(name: str) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


@pytest.mark.parametrize("anyio_backend", [virtual_time_backend("asyncio")], ids=["asyncio"])
async def test_a_refusal_whose_task_asyncio_cancels_closes_at_once() -> None:
    network = SimulatedNetwork()
    async with assert_no_orphans(), aster.serve([Echo()], transport=network, admit=[]) as server, raw(server, network) as peer:
        peer.heard.on_data = network.partition
        await until(peer.heard.frames)
        (record,) = server_records()
        (task,) = _tasks("aster refusal")
        task.cancel()
        await anyio.sleep(1)
        assert record.lost is not None


@_IN_MEMORY
async def test_cancelling_a_program_that_is_being_admitted_at_any_step_leaves_nothing(transport: Transport, native: bool) -> None:
    async def patient(peer: Peer) -> Any:
        await anyio.lowlevel.checkpoint()
        return True

    async def authorize(peer: Peer) -> str:
        await anyio.lowlevel.checkpoint()
        return "reader"

    async def program() -> None:
        async with aster.serve([Echo()], transport=transport, admit=patient, authorize=authorize, drain_grace=0) as server:
            await _call(server.address, transport)

    async def nothing_is_left() -> None:
        assert not live_connections()

    assert await cancelled_at_every_step(program, nothing_is_left, transport, assert_no_orphans, native=native) > 10
