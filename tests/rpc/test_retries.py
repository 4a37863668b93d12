"""What is repeated when a call fails, and what never is: over memory in virtual time, over QUIC where no time has to pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
from aster._hosted import HostedMethod
from aster._incoming import IncomingCall
from aster._protocol.events import GoAway, Header, Trailer
from aster._protocol.frames import encode_go_away, encode_message, encode_trailer
from aster._retries import FIRST_WAIT, LONGEST_WAIT, MAX_ATTEMPTS, TOKENS
from aster._server_connection import ServerConnection
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.errors import RpcError, StatusCode
from aster.testing import assert_no_orphans, live_connections
from aster.transports.base import Stream, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.conftest import Refusals, Running
from tests.rpc.echo import Echo, Item, encode_item, numbers_of
from tests.rpc.probes import CALLS, backend_for, error_of, until
from tests.rpc.raw import manifest_of, raw_server

pytestmark = pytest.mark.anyio

_ADMIT = ServerConnection.admit

_UNAVAILABLE = RpcError(StatusCode.UNAVAILABLE, "not now")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, transport: Transport) -> object:
    """Virtual time over memory: waits between attempts take none."""
    return backend_for(request.param, transport)


@service("Flaky")
class Flaky:
    """Each handler fails as ``failures`` tells, one after the other, and then succeeds; it notes when it ran."""

    def __init__(self) -> None:
        self.failures = list[RpcError]()
        self.times = list[float]()

    def _run(self) -> None:
        self.times.append(anyio.current_time())
        if self.failures:
            raise self.failures.pop(0)

    @rpc(idempotent=True)
    async def safe(self, item: Item) -> Item:
        self._run()
        return item

    @rpc
    async def unsafe(self, item: Item) -> Item:
        self._run()
        return item

    @server_stream(idempotent=True)
    async def late(self, item: Item) -> AsyncIterator[Item]:
        """Fails after as many responses as the item says."""
        for number in range(item.number):
            yield Item(number)
        self._run()
        yield item

    @client_stream(idempotent=True)
    async def gather(self, items: AsyncIterator[Item]) -> Item:
        total = Item()
        async for item in items:
            total.number += item.number
        self._run()
        return total

    @bidi_stream(idempotent=True)
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item
        self._run()

    @property
    def attempts(self) -> int:
        return len(self.times)


# What no handler saw


@pytest.mark.parametrize("pattern", CALLS)
async def test_a_call_that_was_refused_is_repeated_once_whatever_it_is(running: Running, refusals: Refusals, pattern: str) -> None:
    async with assert_no_orphans(), running(Echo()) as (_, client):
        echo = await client.client(Echo)
        refusals.left = 1
        await CALLS[pattern](echo)
        assert refusals.given == 1
        refusals.left = 3
        error = await error_of(CALLS[pattern](echo))
        assert (error.code, error.message) == (StatusCode.UNAVAILABLE, "refused")
        assert refusals.given == 3
        refusals.left = 0
        await CALLS[pattern](echo)


async def test_requests_that_were_sent_to_nobody_are_sent_again_in_order_and_once(running: Running, refusals: Refusals) -> None:
    closed = list[str]()

    async def requests() -> AsyncIterator[Item]:
        try:
            for number in range(20):
                yield Item(number, data=bytes(1000))
                if number % 7 == 0:
                    await anyio.lowlevel.checkpoint()
        finally:
            closed.append("once")

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for calls in range(1, 4):
            refusals.left = 1
            assert await numbers_of(echo.chat(requests())) == list(range(20))
            assert closed == ["once"] * calls
        refusals.left = 1
        assert (await echo.total(requests())).number == sum(range(20))


async def test_requests_that_fill_the_window_are_sent_again_and_the_others_after_them(running: Running, refusals: Refusals) -> None:
    async with running(Echo(), window=2000) as (_, client):
        echo = await client.client(Echo)
        refusals.left = 1
        assert await numbers_of(echo.chat(Item(number, data=bytes(900)) for number in range(50))) == list(range(50))
        assert refusals.given == 1


async def test_a_call_message_by_message_is_repeated_without_its_caller_noticing(running: Running, refusals: Refusals) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for sent_before in range(4):
            refusals.left = 1
            async with aster.open_call(echo.chat) as call:
                for number in range(sent_before):
                    await call.send(Item(number))
                await until(lambda: not refusals.left)
                for number in range(sent_before, 4):
                    await call.send(Item(number))
                await call.end()
                assert await numbers_of(call) == [0, 1, 2, 3]
        refusals.left = 1
        async with aster.open_call(echo.same) as single:
            await single.send(Item(7))
            assert await single.receive() == Item(7)


@pytest.mark.parametrize("last", ["none", "this one"])
async def test_calls_above_the_last_one_that_a_lost_server_names_are_repeated_and_no_others(transport: Transport, last: str) -> None:
    streams = list[Stream]()
    controls = list[Stream]()

    def answer(stream: Stream, header: Header) -> None:
        streams.append(stream)
        if len(streams) > 1:
            stream.write(encode_message(encode_item(Item(len(streams)))) + encode_trailer(Trailer()))
            stream.finish()

    async with (
        raw_server((manifest_of(Echo),), transport, answer, on_control=controls.append) as address,
        aster.connect(address, transport=transport) as client,
    ):
        echo = await client.client(Echo)
        outcomes = list[Item | StatusCode]()

        async def call() -> None:
            try:
                outcomes.append(await echo.same(Item()))
            except RpcError as exc:
                outcomes.append(exc.code)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(lambda: streams)
            controls[0].write(encode_go_away(GoAway(-1 if last == "none" else streams[0].id)))
            await until(lambda: len(controls) == 2)
            for connection in live_connections():
                if connection.peer.endpoint_id == client.endpoint_id and connection.open_streams == 2:
                    connection.close()
        assert outcomes == ([Item(2)] if last == "none" else [StatusCode.UNAVAILABLE])


# Idempotent methods


async def test_an_idempotent_call_is_repeated_while_the_server_is_unavailable(running: Running) -> None:
    flaky = Flaky()
    async with running(flaky) as (_, client):
        stub = await client.client(Flaky)
        for call in (lambda: stub.safe(Item(1)), lambda: anext(stub.late(Item()))):
            flaky.failures, flaky.times = [_UNAVAILABLE], []
            assert await call() in (Item(1), Item())
            assert flaky.attempts == 2


async def test_what_is_not_marked_idempotent_is_not_repeated(running: Running) -> None:
    flaky = Flaky()
    async with running(flaky) as (_, client):
        stub = await client.client(Flaky)
        flaky.failures = [_UNAVAILABLE]
        assert (await error_of(stub.unsafe(Item()))).message == "not now"
        assert flaky.attempts == 1


@pytest.mark.parametrize("code", [code for code in StatusCode if code not in (StatusCode.OK, StatusCode.UNAVAILABLE)])
async def test_no_other_code_is_a_reason_to_repeat(running: Running, code: StatusCode) -> None:
    flaky = Flaky()
    async with running(flaky) as (_, client):
        stub = await client.client(Flaky)
        flaky.failures = [RpcError(code)]
        assert (await error_of(stub.safe(Item()))).code is code
        assert flaky.attempts == 1


async def test_a_call_that_has_given_a_response_is_not_repeated(running: Running) -> None:
    flaky = Flaky()
    async with running(flaky) as (_, client):
        stub = await client.client(Flaky)
        for responses in (1, 2, 5):
            flaky.failures, flaky.times = [_UNAVAILABLE], []
            numbers = list[int]()
            assert (await error_of(numbers_of(stub.late(Item(responses)), into=numbers))).message == "not now"
            assert (numbers, flaky.attempts) == (list(range(responses)), 1)


async def test_a_call_whose_metadata_has_arrived_is_not_repeated(running: Running) -> None:
    """Its caller may have read it: another attempt would change it."""

    class Telling(Flaky):
        def _run(self) -> None:
            aster.current_call().send_metadata({"attempt": str(len(self.times))})
            super()._run()

    telling = Telling()
    async with running(telling) as (_, client):
        stub = await client.client(Flaky)
        telling.failures = [_UNAVAILABLE]
        assert (await error_of(stub.safe(Item(1)))).message == "not now"
        assert telling.attempts == 1


async def test_a_call_that_has_taken_a_request_is_not_repeated(running: Running) -> None:
    flaky = Flaky()
    async with running(flaky) as (_, client):
        stub = await client.client(Flaky)
        flaky.failures = [_UNAVAILABLE, _UNAVAILABLE]
        assert (await error_of(stub.gather([Item(1)]))).message == "not now"
        assert (await error_of(numbers_of(stub.talk([Item(1)])))).message == "not now"
        assert flaky.attempts == 2


@pytest.mark.parametrize("calls", [1, 100])
async def test_idempotent_calls_survive_the_loss_of_their_connection_and_no_others_do(running: Running, calls: int) -> None:
    """The loss is one failure of the server, however many calls it costs: the budget pays for it once."""
    began = list[str]()

    @service("Slow")
    class Slow:
        @rpc(idempotent=True)
        async def safe(self, item: Item) -> Item:
            began.append("safe")
            if began.count("safe") <= calls:
                await anyio.sleep_forever()
            return item

        @rpc
        async def unsafe(self, item: Item) -> Item:
            began.append("unsafe")
            await anyio.sleep_forever()
            return item

    async def answered() -> None:
        assert await slow.safe(Item(1)) == Item(1)

    async with running(Slow()) as (_, client):
        slow = await client.client(Slow)
        async with anyio.create_task_group() as group:
            for _ in range(calls):
                group.start_soon(answered)
            group.start_soon(error_of, slow.unsafe(Item()))
            await until(lambda: len(began) == calls + 1)
            for connection in live_connections():
                if connection.peer.endpoint_id == client.endpoint_id:
                    connection.close()
        assert Counter(began) == {"safe": 2 * calls, "unsafe": 1}


_Step = st.sampled_from(["refused", "unavailable", "internal"])


class TestInVirtualTime:
    """What takes seconds."""

    @pytest.fixture
    def transport(self) -> Transport:
        """In memory."""
        return MemoryTransport()

    async def test_the_waits_are_random_grow_and_are_five_attempts_at_the_most(self, running: Running) -> None:
        flaky = Flaky()
        async with running(flaky) as (_, client):
            stub = await client.client(Flaky)
            flaky.failures = [_UNAVAILABLE] * 10
            assert (await error_of(stub.safe(Item()))).message == "not now"
            assert flaky.attempts == MAX_ATTEMPTS
            expected = FIRST_WAIT
            for earlier, later in pairwise(flaky.times):
                assert expected / 2 <= later - earlier <= expected
                expected = min(2 * expected, LONGEST_WAIT)

    async def test_no_attempt_begins_when_it_would_be_too_late(self, running: Running) -> None:
        flaky = Flaky()
        async with running(flaky) as (_, client):
            stub = aster.with_options(await client.client(Flaky), timeout=0.12)
            flaky.failures = [_UNAVAILABLE] * 10
            began = anyio.current_time()
            error = await error_of(stub.safe(Item()))
            # The last failure tells more than a deadline would that passes while nothing is under way.
            assert (error.code, error.message) == (StatusCode.UNAVAILABLE, "not now")
            assert anyio.current_time() - began <= 0.12
            assert flaky.attempts == 2

    async def test_the_deadline_of_a_call_holds_for_all_its_attempts_together(self, running: Running) -> None:
        remaining = list[float]()

        @service("Timed")
        class Timed:
            @rpc(idempotent=True, timeout=5.0)
            async def ask(self, item: Item) -> Item:
                deadline = aster.current_call().deadline
                assert deadline is not None
                remaining.append(deadline - anyio.current_time())
                await anyio.sleep(1.0)
                raise _UNAVAILABLE

        async with running(Timed()) as (_, client):
            timed = await client.client(Timed)
            began = anyio.current_time()
            error = await error_of(timed.ask(Item()))
            assert anyio.current_time() - began <= 5.0
            assert error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        assert len(remaining) > 2
        assert remaining[0] == pytest.approx(5.0, abs=1e-5)
        assert all(later <= earlier - 1.0 for earlier, later in pairwise(remaining))

    async def test_a_cancelled_call_is_not_repeated(self, running: Running) -> None:
        flaky = Flaky()
        async with assert_no_orphans(), running(flaky) as (_, client):
            stub = await client.client(Flaky)
            flaky.failures = [_UNAVAILABLE] * 10
            async with anyio.create_task_group() as group:
                group.start_soon(stub.safe, Item())
                await anyio.sleep(FIRST_WAIT / 4)
                group.cancel_scope.cancel()
            assert anyio.current_time() < flaky.times[0] + FIRST_WAIT / 2
            await anyio.sleep(60)
            assert flaky.attempts == 1

    async def test_leaving_the_clients_block_ends_calls_that_wait_to_be_repeated(self, running: Running) -> None:
        flaky, outcomes = Flaky(), list[RpcError]()

        async def call() -> None:
            outcomes.append(await error_of(stub.safe(Item())))

        async with anyio.create_task_group() as group, running(flaky) as (_, client):
            stub = await client.client(Flaky)
            flaky.failures = [_UNAVAILABLE] * 10
            group.start_soon(call)
            await until(lambda: flaky.attempts)
            await anyio.wait_all_tasks_blocked()
        assert anyio.current_time() < flaky.times[0] + FIRST_WAIT / 2
        assert [error.code for error in outcomes] == [StatusCode.CANCELLED]

    async def test_when_all_calls_fail_they_are_soon_not_repeated_any_more(self, running: Running) -> None:
        flaky = Flaky()
        async with running(flaky) as (_, client):
            stub = await client.client(Flaky)
            flaky.failures = [_UNAVAILABLE] * 1000
            for _ in range(10):
                await error_of(stub.safe(Item()))
            # Five calls' worth of tokens were there; each of the others is one attempt.
            before = flaky.attempts
            await error_of(stub.safe(Item()))
            assert flaky.attempts == before + 1
            assert before < 10 + TOKENS / 2
            # Successes pay for repetitions again.
            flaky.failures.clear()
            for _ in range(int(TOKENS * 10)):
                await stub.safe(Item())
            flaky.failures = [_UNAVAILABLE]
            assert await stub.safe(Item(3)) == Item(3)

    @given(idempotent=st.booleans(), steps=st.lists(_Step, max_size=8))
    async def test_the_number_of_attempts_is_what_the_rules_say(self, idempotent: bool, steps: list[str]) -> None:
        """Against a model of the rules in a few lines."""
        attempts, refused = 1, False
        for step in steps:
            if step == "refused" and not refused:
                refused = True
            elif not (idempotent and step != "internal" and attempts < MAX_ATTEMPTS):
                break
            attempts += 1
        fails = attempts <= len(steps)
        seen = 0

        class Scripted(Flaky):
            def _run(self) -> None:
                if seen <= len(steps):
                    raise RpcError(StatusCode.INTERNAL if steps[seen - 1] == "internal" else StatusCode.UNAVAILABLE)

        def scripted(connection: ServerConnection, call: IncomingCall, header: Header) -> HostedMethod:
            nonlocal seen
            seen += 1
            if seen <= len(steps) and steps[seen - 1] == "refused":
                raise RpcError(StatusCode.UNAVAILABLE)
            return _ADMIT(connection, call, header)

        memory = MemoryTransport()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ServerConnection, "admit", scripted)
            async with aster.serve([Scripted()], transport=memory) as server, aster.connect(server.address, transport=memory) as client:
                stub = await client.client(Flaky)
                try:
                    await (stub.safe if idempotent else stub.unsafe)(Item())
                    failed = False
                except RpcError:
                    failed = True
        assert (seen, failed) == (attempts, fails)
