"""The conformance suite of ``aster.transports.base``: what every transport must do, whatever it is made of."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from aster.errors import ConnectError, ConnectionLost, IdentityError, LocalProtocolError, RefusedError, UnreachableError
from aster.testing.recorders import StreamRecorder, TransportPair, open_pair
from aster.transports.base import ConnectionOptions, Transport
from aster.trust import Address, Identity

__all__ = [
    "LARGE",
    "MANY",
    "TRANSPORT_CHECKS",
    "MakeTransport",
    "TransportCheck",
    "a_callback_may_close_the_connection",
    "a_cancelled_connect_leaves_nothing",
    "a_close_ends_everything_once",
    "a_closed_listener_releases_its_peers",
    "a_large_transfer_is_exact_both_ways",
    "a_loss_wakes_who_waits_for_acknowledgement",
    "a_refusing_listener_keeps_what_it_has",
    "a_reset_after_an_acknowledged_end_changes_nothing",
    "a_reset_ends_one_half_and_leaves_the_other",
    "a_reset_may_be_all_that_is_heard_of_a_stream",
    "a_reset_overtakes_an_end_that_is_still_on_its_way",
    "a_stopped_half_counts_as_reset",
    "a_wrong_key_is_refused",
    "an_end_needs_no_bytes",
    "an_ended_half_takes_nothing_more",
    "bytes_and_ends_cross_both_ways",
    "check_transport",
    "credit_is_taken_and_comes_back",
    "everything_acknowledged_is_awaited",
    "identities_are_known_to_both_ends",
    "ids_count_by_four_and_agree",
    "many_streams_stay_apart",
    "nobody_there_is_unreachable",
    "only_the_client_opens_streams",
    "unsent_counts_what_waits",
    "what_is_written_in_pieces_arrives_in_order",
]

MakeTransport = Callable[[], Transport]
TransportCheck = Callable[[MakeTransport], Awaitable[None]]

LARGE = 1_000_000
"""Bytes that fill every window and buffer on the way several times."""

MANY = 200
"""Streams at a time, enough to overflow what a transport may handle in one go."""


async def check_transport(make_transport: MakeTransport) -> None:
    """Prove a transport against the contract, on the backend that runs: each of ``TRANSPORT_CHECKS`` in turn.

    Args:
        make_transport: called anew for each check. It must be able to listen at port 0 of ``127.0.0.1``, or to pretend that it does.

    Raises:
        AssertionError: a rule is broken; the message says which.
    """
    for check in TRANSPORT_CHECKS:
        await check(make_transport)


async def bytes_and_ends_cross_both_ways(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"ping")
        client.finish()
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the request arrived")
        server = pair.server.streams[0]
        assert (bytes(server.data), server.ending) == (b"ping", "finished"), "the request did not arrive as it was sent"
        server.write(b"pong")
        server.finish()
        await pair.until(lambda: client.ending, "the reply arrived")
        assert (bytes(client.data), client.ending) == (b"pong", "finished"), "the reply did not arrive as it was sent"
        await _expect_no_streams(pair)


async def a_large_transfer_is_exact_both_ways(make_transport: MakeTransport) -> None:
    content = random.Random(1).randbytes(LARGE)
    async with open_pair(make_transport, on_data=_echo) as pair:
        stream = pair.open()
        sent = 0
        cuts = random.Random(2)
        while sent < LARGE:
            size = cuts.choice([1, 60, 1_200, 16_384, 100_000])
            stream.write(content[sent : sent + size])
            sent += size
        stream.finish()
        await pair.until(lambda: len(stream.data) >= LARGE, "everything came back")
        pair.server.streams[0].finish()
        await pair.until(lambda: stream.ending, "the end came back")
        assert bytes(stream.data) == content, "bytes were changed, lost or repeated"
        await _expect_no_streams(pair)


async def what_is_written_in_pieces_arrives_in_order(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        stream = pair.open()
        for number in range(1_000):
            stream.write(b"%d," % number)
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        stream.finish()
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "all pieces arrived")
        assert bytes(pair.server.streams[0].data) == b"".join(b"%d," % number for number in range(1_000)), "pieces were lost or changed places"


async def many_streams_stay_apart(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport, on_data=_echo) as pair:
        streams = [pair.open() for _ in range(MANY)]
        for number, stream in enumerate(streams):
            stream.write(b"stream %d" % number)
            stream.finish()
        await pair.until(lambda: len(pair.server.streams) == MANY and all(stream.ending for stream in pair.server.streams), "all requests arrived")
        for server in pair.server.streams:
            server.finish()
        await pair.until(lambda: all(stream.ending for stream in streams), "all replies arrived")
        for number, stream in enumerate(streams):
            assert bytes(stream.data) == b"stream %d" % number, "a stream got another one's bytes"
        await _expect_no_streams(pair)


async def ids_count_by_four_and_agree(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        streams = [pair.open() for _ in range(3)]
        assert [stream.stream.id for stream in streams] == [0, 4, 8], "ids must count 0, 4, 8 in the order in which streams were opened"
        for stream in reversed(streams):
            stream.write(b"%d" % stream.stream.id)
        await pair.until(lambda: len(pair.server.streams) == 3 and all(stream.data for stream in pair.server.streams), "the streams arrived")
        for server in pair.server.streams:
            assert bytes(server.data) == b"%d" % server.stream.id, "the two ends disagree about a stream's id"


async def an_end_needs_no_bytes(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.finish()
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the end arrived")
        server = pair.server.streams[0]
        assert (bytes(server.data), server.ending) == (b"", "finished"), "a stream without bytes must end as any other"
        server.finish()
        await pair.until(lambda: client.ending == "finished", "the end came back")
        await _expect_no_streams(pair)


async def an_ended_half_takes_nothing_more(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"all")
        client.write(b"")
        client.finish()
        client.write(b"too late")
        client.finish()
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the end arrived")
        server = pair.server.streams[0]
        server.stop(1)  # of a half that has ended
        server.reset(2)
        server.reset(3)
        server.write(b"too late")
        server.finish()
        await pair.until(lambda: client.ending, "the reset arrived")
        client.stop(4)
        await pair.settle()
        assert (bytes(server.data), server.ending, server.stopped) == (b"all", "finished", None), "a half that has ended was used again"
        assert (bytes(client.data), client.reset_code, client.stopped) == (b"", 2, None), "a half that has ended was used again"
        await _expect_no_streams(pair)


async def a_reset_ends_one_half_and_leaves_the_other(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"begin")
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].data, "the stream arrived")
        server = pair.server.streams[0]
        client.reset(2**62 - 1)
        await pair.until(lambda: server.ending, "the reset arrived")
        assert (server.ending, server.reset_code) == ("reset", 2**62 - 1), "the reset arrived with another code"
        server.write(b"still here")
        server.finish()
        await pair.until(lambda: client.ending, "the other half ended")
        assert (bytes(client.data), client.ending) == (b"still here", "finished"), "a reset of one half must leave the other alone"
        await _expect_no_streams(pair)


async def a_reset_may_be_all_that_is_heard_of_a_stream(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.reset(7)
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the reset arrived")
        server = pair.server.streams[0]
        assert (bytes(server.data), server.reset_code) == (b"", 7), "a stream that begins with a reset must be heard of"
        server.reset(8)
        await pair.until(lambda: client.reset_code == 8, "the other half was reset too")
        await _expect_no_streams(pair)


async def a_reset_overtakes_an_end_that_is_still_on_its_way(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"never mind")
        client.finish()
        client.reset(9)
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the half ended")
        assert pair.server.streams[0].reset_code == 9, "a reset in the same step as the end must win"


async def a_reset_after_an_acknowledged_end_changes_nothing(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"done")
        client.finish()
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].ending, "the half ended")
        await pair.settle()
        client.reset(9)
        await pair.settle()
        server = pair.server.streams[0]
        assert (bytes(server.data), server.ending) == (b"done", "finished"), "a half ended twice"


async def a_stopped_half_counts_as_reset(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        client = pair.open()
        client.write(b"begin")
        await pair.until(lambda: pair.server.streams and pair.server.streams[0].data, "the stream arrived")
        server = pair.server.streams[0]
        server.stop(5)
        await pair.until(lambda: client.stopped is not None, "the request to stop arrived")
        assert client.stopped == 5, "the request to stop arrived with another code"
        client.write(b"into the void")
        client.finish()
        client.reset(6)
        await pair.until(lambda: server.ending, "the stopped half ended")
        assert (bytes(server.data), server.ending) == (b"begin", "reset"), "a stopped half must end by a reset, whatever is written to it"
        server.finish()
        await pair.until(lambda: client.ending, "the other half ended")
        await pair.settle()
        assert client.ending == "finished", "a stop of one half must leave the other alone"
        await _expect_no_streams(pair)


async def unsent_counts_what_waits(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        stream = pair.open()
        assert stream.stream.unsent == 0, "nothing was written"
        stream.write(b"x" * 1_000)
        assert stream.stream.unsent == 1_000, "bytes that were written in this step cannot have been sent"
        await pair.settle()
        assert stream.stream.unsent == 0, "bytes that have arrived are not unsent"
        stream.write(b"x" * 1_000)
        stream.reset(1)
        await pair.settle()
        assert stream.stream.unsent == 0, "a reset drops what waits"


async def credit_is_taken_and_comes_back(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport, options=ConnectionOptions(max_streams=3)) as pair:
        for _ in range(4):
            await _use_up_credit_of_three(pair)


async def _use_up_credit_of_three(pair: TransportPair) -> None:
    before = pair.client.credits
    assert pair.client.connection.stream_credit == 3, "three streams may be open at a time"
    streams = [pair.open() for _ in range(3)]
    assert pair.client.connection.stream_credit == 0, "each open stream takes one of the peer's limit"
    _expect_raises(LocalProtocolError, pair.open)
    for stream in streams:
        stream.write(b"x")
        stream.finish()
    await pair.until(lambda: len(pair.server.streams) % 3 == 0 and all(stream.ending for stream in pair.server.streams), "the streams arrived")
    await pair.settle()
    assert pair.client.connection.stream_credit == 0, "a stream counts until both halves have ended"
    assert pair.client.credits == before, "streams_available was called without credit"
    for server in pair.server.streams[-3:]:
        server.finish()
    await pair.until(lambda: pair.client.credits > before, "credit came back")
    await pair.until(lambda: pair.client.connection.stream_credit == 3, "all credit came back")
    await _expect_no_streams(pair)


async def only_the_client_opens_streams(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        assert pair.server.connection.stream_credit == 0, "a server may not open streams"
        _expect_raises(LocalProtocolError, lambda: pair.open(pair.server))


async def everything_acknowledged_is_awaited(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        await pair.client.connection.wait_acknowledged()
        stream = pair.open()
        stream.write(random.Random(3).randbytes(LARGE))
        stream.finish()
        done: list[int] = []

        async def wait(number: int) -> None:
            await pair.client.connection.wait_acknowledged()
            done.append(number)

        async with anyio.create_task_group() as task_group:
            for number in range(5):
                task_group.start_soon(wait, number)
            with anyio.move_on_after(0):  # one that gives up must not disturb the others
                await pair.client.connection.wait_acknowledged()
        assert sorted(done) == [0, 1, 2, 3, 4], "several tasks may wait at once"
        assert stream.stream.unsent == 0, "what is acknowledged was sent"
        await pair.until(lambda: len(pair.server.streams[0].data) == LARGE, "what is acknowledged arrived")


async def a_close_ends_everything_once(make_transport: MakeTransport) -> None:
    for client_closes in (True, False):
        async with open_pair(make_transport) as pair:
            await _close_with_open_streams(pair, client_closes=client_closes)


async def _close_with_open_streams(pair: TransportPair, *, client_closes: bool) -> None:
    half, whole, open_ = pair.open(), pair.open(), pair.open()
    for stream in (half, whole, open_):
        stream.write(b"x")
    half.finish()
    whole.finish()
    await pair.until(lambda: len(pair.server.streams) == 3 and all(stream.data for stream in pair.server.streams), "the streams arrived")
    pair.server.streams[1].finish()
    await pair.until(lambda: whole.ending and pair.server.streams[1].ending, "one stream ended")
    closer, other = (pair.client, pair.server) if client_closes else (pair.server, pair.client)
    pair.watch.call(closer.connection.close, 42, "enough")
    pair.watch.call(closer.connection.close, 43, "again")
    assert closer.lost is None, "connection_lost must follow from the reactor"
    await pair.until(lambda: closer.lost and other.lost, "both owners were told")
    assert isinstance(other.lost, ConnectionLost)
    assert "enough" in str(other.lost), "the peer must learn the reason"
    assert (other.lost.code, other.lost.reason) == (42, "enough"), "the peer must learn the code and the reason as they were given"
    for owner in (closer, other):
        told = [stream.lost is not None for stream in owner.streams]
        assert told == [True, False, True], f"a stream is told exactly when one of its halves was open, not {told}"
        assert owner.connection.open_streams == 0, "a lost connection has no streams"
        await owner.connection.wait_acknowledged()
    for stream in (half, whole, open_):  # all of it without effect
        stream.write(b"x")
        stream.finish()
        stream.reset(1)
        stream.stop(1)
        assert stream.stream.unsent == 0, "nothing waits on a lost connection"
    _expect_raises(ConnectionLost, pair.open)


async def a_loss_wakes_who_waits_for_acknowledgement(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        pair.open().write(random.Random(4).randbytes(LARGE))
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(pair.client.connection.wait_acknowledged)
            await anyio.lowlevel.checkpoint()
            pair.client.connection.close()


async def a_callback_may_close_the_connection(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport, on_data=lambda stream, _: owner.connection.close(3, "from a callback")) as pair:
        owner = pair.server
        for _ in range(3):
            stream = pair.open()
            stream.write(b"x")
            stream.finish()
        await pair.until(lambda: pair.client.lost and pair.server.lost, "both owners were told")
        assert "from a callback" in str(pair.client.lost), "the peer must learn the reason"


async def identities_are_known_to_both_ends(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        assert pair.client.connection.peer.endpoint_id == pair.server_identity.endpoint_id, "the client does not know who it talks to"
        assert pair.server.connection.peer.endpoint_id == pair.client_identity.endpoint_id, "the server does not know who it talks to"
        second = await pair.connect()
        third = await pair.connect(identity=Identity.generate())
        await pair.until(lambda: len(pair.accepted) == 3, "each connection was accepted once")
        assert pair.accepted[1].connection.peer.endpoint_id == pair.client_identity.endpoint_id, "two connections of one endpoint are both its own"
        second.connection.close()
        await pair.until(lambda: pair.accepted[1].lost, "the second connection ended")
        stream = pair.open(third)
        stream.write(b"x")
        await pair.until(lambda: pair.accepted[2].streams, "the third connection goes on")
        assert pair.server.lost is None, "connections of one endpoint are independent"


async def a_wrong_key_is_refused(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        wrong = Address(Identity.generate().endpoint_id, pair.listener.host, pair.listener.port)
        await _expect_no_connection(pair, IdentityError, wrong)
        await pair.settle()
        assert len(pair.accepted) == 1, "a client that refused the server must not be accepted"


async def nobody_there_is_unreachable(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        address = pair.address
        await pair.listener.aclose()
        await _expect_no_connection(pair, UnreachableError, address)


async def a_refusing_listener_keeps_what_it_has(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport, on_data=_echo) as pair:
        pair.listener.refuse()
        pair.listener.refuse()
        await _expect_no_connection(pair, RefusedError, pair.address)
        stream = pair.open()
        stream.write(b"still served")
        await pair.until(lambda: bytes(stream.data) == b"still served", "the first connection goes on")
        assert len(pair.accepted) == 1, "a refused client must not be accepted"


async def a_closed_listener_releases_its_peers(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        stream = pair.open()
        stream.write(b"x")
        await pair.until(lambda: pair.server.streams, "the stream arrived")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pair.listener.aclose()
        assert pair.server.lost is not None, "its own owners are told before aclose returns, also when it is cancelled"
        await pair.until(lambda: pair.client.lost, "the peer was told")
        assert stream.lost is not None, "the peer's streams were told"
        await pair.listener.aclose()
        await _expect_no_connection(pair, ConnectError, pair.address)


async def a_cancelled_connect_leaves_nothing(make_transport: MakeTransport) -> None:
    async with open_pair(make_transport) as pair:
        for steps in range(25):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(_cancel_after, scope, steps)
                    owner = await pair.connect(identity=Identity.generate())
                    owner.connection.close()
        stream = pair.open()
        stream.write(b"x")
        await pair.until(lambda: pair.server.streams, "the first connection goes on")
        await pair.until(lambda: all(owner.lost for owner in pair.accepted[1:]), "what was accepted of cancelled connections ended")


async def _cancel_after(scope: anyio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


def _echo(stream: StreamRecorder, data: bytes) -> None:
    stream.write(data)


def _expect_raises(kind: type[Exception], action: Callable[[], object]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def _expect_no_connection(pair: TransportPair, kind: type[ConnectError], address: Address) -> None:
    message = ""
    try:
        await pair.connect(address=address)
    except kind as exc:
        message = str(exc)
    assert message, f"connect must raise {kind.__name__}, and say why"


async def _expect_no_streams(pair: TransportPair) -> None:
    for owner in (pair.client, pair.server):
        await pair.until(lambda owner=owner: owner.connection.open_streams == 0, "no stream was left behind")


TRANSPORT_CHECKS: tuple[TransportCheck, ...] = (
    bytes_and_ends_cross_both_ways,
    a_large_transfer_is_exact_both_ways,
    what_is_written_in_pieces_arrives_in_order,
    many_streams_stay_apart,
    ids_count_by_four_and_agree,
    an_end_needs_no_bytes,
    an_ended_half_takes_nothing_more,
    a_reset_ends_one_half_and_leaves_the_other,
    a_reset_may_be_all_that_is_heard_of_a_stream,
    a_reset_overtakes_an_end_that_is_still_on_its_way,
    a_reset_after_an_acknowledged_end_changes_nothing,
    a_stopped_half_counts_as_reset,
    unsent_counts_what_waits,
    credit_is_taken_and_comes_back,
    only_the_client_opens_streams,
    everything_acknowledged_is_awaited,
    a_close_ends_everything_once,
    a_loss_wakes_who_waits_for_acknowledgement,
    a_callback_may_close_the_connection,
    identities_are_known_to_both_ends,
    a_wrong_key_is_refused,
    nobody_there_is_unreachable,
    a_refusing_listener_keeps_what_it_has,
    a_closed_listener_releases_its_peers,
    a_cancelled_connect_leaves_nothing,
)
"""Every rule that is checked, each by itself: a name that says the rule, and a coroutine function."""
