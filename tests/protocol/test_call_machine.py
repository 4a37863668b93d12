"""A call as a state machine: both ends against a model that knows nothing of tables or of how frames look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from aster._protocol.events import SUCCESS, Trailer, TrailerOrigin
from aster._protocol.frames import MESSAGE_CHARGE
from aster.errors import LocalProtocolError, StatusCode
from aster.types import Metadata, RpcPattern
from tests.protocol import strategies
from tests.protocol.pair import Direction, Pair

_FAILURE = Trailer(StatusCode.NOT_FOUND, TrailerOrigin.HANDLER, "gone")
_METADATA = Metadata({"early": "yes"})
_WINDOWS = st.sampled_from((1, 300, 20_000))
_PIECES = st.sampled_from((1_000_000, 1, 7, 100, 16_384, 1_000_000))


class _Side:
    """One side as a sender, in plain words: what it may send, and what of it the other side has taken and granted."""

    def __init__(self, direction: Direction, *, many: bool) -> None:
        self.direction = direction
        self.many = many
        self.open = False
        self.ended_at: int | None = None
        self.delivered = 0
        self.outstanding = 0
        self.taken = 0
        self.grants_under_way: list[tuple[int, int]] = []

    @property
    def written(self) -> int:
        return self.delivered + len(self.direction.wire)

    @property
    def sending(self) -> bool:
        return self.open and self.ended_at is None

    @property
    def may_send(self) -> bool:
        return self.sending and self.outstanding < self.direction.window and (self.many or not self.direction.sent)

    @property
    def may_end(self) -> bool:
        return self.sending and (self.many or len(self.direction.sent) == 1)

    @property
    def known_ended(self) -> bool:
        return self.ended_at is not None and self.ended_at <= self.delivered

    def take(self, size: int, other: _Side) -> bool:
        """The other side took a message of this one; whether it grants, as it does once it has taken half a window."""
        self.taken += size + MESSAGE_CHARGE
        if self.taken * 2 >= self.direction.window and self.many and not self.known_ended:
            self.grants_under_way.append((other.written, self.taken))
            self.taken = 0
            return True
        return False

    def hear_grants(self, delivered: int) -> None:
        """So many bytes of the other side have arrived here."""
        while self.grants_under_way and self.grants_under_way[0][0] <= delivered:
            self.outstanding -= self.grants_under_way.pop(0)[1]


class CallMachine(RuleBasedStateMachine):
    """Every rule tries something; the model says whether it must work or be refused."""

    pattern: ClassVar[RpcPattern]
    seen: ClassVar[Counter[str]]

    @initialize(request_window=_WINDOWS, response_window=_WINDOWS, hasty=st.sampled_from((False, False, False, True)))
    def begin(self, request_window: int, response_window: int, *, hasty: bool) -> None:
        pattern = self.pattern
        self.pair = Pair(pattern, request_window=request_window, response_window=response_window)
        self.client = _Side(self.pair.requests, many=pattern.streams_requests)
        self.server = _Side(self.pair.responses, many=pattern.streams_responses)
        self.metadata_sent = False
        self.trailer: Trailer | None = None
        self.hasty = hasty
        if not hasty:
            self.client_sends_header()
            self.requests_travel(1_000_000)

    def _try(self, action: Callable[[], None], *, allowed: bool) -> bool:
        if not allowed:
            with pytest.raises(LocalProtocolError):
                action()
            self.seen["refused"] += 1
            return False
        action()
        return True

    def _message(self, direction: Direction, size: int) -> bytes:
        return bytes((len(direction.sent) % 256,)) * size

    @rule()
    def client_sends_header(self) -> None:
        self._try(lambda: self.pair.send_header(metadata=_METADATA), allowed=not self.client.open)
        self.client.open = True

    @rule(size=strategies.sizes)
    def client_sends_request(self, size: int) -> None:
        if self._try(lambda: self.pair.send_request(self._message(self.pair.requests, size)), allowed=self.client.may_send):
            self.client.outstanding += size + MESSAGE_CHARGE

    @rule(size=strategies.sizes)
    def server_sends_response(self, size: int) -> None:
        if self._try(lambda: self.pair.send_response(self._message(self.pair.responses, size)), allowed=self.server.may_send):
            self.server.outstanding += size + MESSAGE_CHARGE

    # The ends may come at any time; mostly they come late here, or no call would live long.
    @precondition(lambda self: self.hasty or not self.client.many or len(self.pair.requests.sent) > 5)
    @rule()
    def client_ends(self) -> None:
        if self._try(self.pair.send_end, allowed=self.client.may_end):
            self.client.ended_at = self.client.written

    @rule()
    def server_sends_metadata(self) -> None:
        allowed = self.server.sending and not self.pair.responses.sent and not self.metadata_sent
        self.metadata_sent |= self._try(lambda: self.pair.send_metadata(_METADATA), allowed=allowed)

    @precondition(lambda self: self.may_conclude)
    @rule()
    def server_succeeds(self) -> None:
        self._outcome(SUCCESS, allowed=self.server.may_end)

    @precondition(lambda self: self.may_conclude)
    @rule()
    def server_fails(self) -> None:
        self._outcome(_FAILURE, allowed=self.server.ended_at is None)

    @property
    def may_conclude(self) -> bool:
        return self.hasty or (self.client.ended_at is not None and (not self.server.many or len(self.pair.responses.sent) > 5))

    def _outcome(self, trailer: Trailer, *, allowed: bool) -> None:
        if self._try(lambda: self.pair.send_trailer(trailer), allowed=allowed):
            self.seen["outcomes"] += 1
            self.trailer = trailer
            self.server.ended_at = self.server.written

    @rule(size=_PIECES)
    def requests_travel(self, size: int) -> None:
        self.client.delivered += min(size, len(self.pair.requests.wire))
        self.pair.deliver_requests(size)
        self.server.open = self.pair.server.header is not None
        self.server.hear_grants(self.client.delivered)

    @rule(size=_PIECES)
    def responses_travel(self, size: int) -> None:
        self.server.delivered += min(size, len(self.pair.responses.wire))
        self.pair.deliver_responses(size)
        self.client.hear_grants(self.server.delivered)

    @precondition(lambda self: self.pair.server.requests.inbox and self.server.ended_at is None)
    @rule()
    def handler_takes_a_request(self) -> None:
        self.pair.take_request()
        self.seen["granted"] += self.client.take(len(self.pair.requests.taken[-1]), self.server)

    @precondition(lambda self: self.pair.client.responses.inbox)
    @rule()
    def caller_takes_a_response(self) -> None:
        self.pair.take_response()
        self.seen["granted"] += self.server.take(len(self.pair.responses.taken[-1]), self.client)

    @rule()
    def all_travels_and_is_taken(self) -> None:
        self.requests_travel(1_000_000)
        while self.pair.server.requests.inbox and self.server.ended_at is None:
            self.handler_takes_a_request()
        self.responses_travel(1_000_000)
        while self.pair.client.responses.inbox:
            self.caller_takes_a_response()

    @invariant()
    def order_and_bounds_hold(self) -> None:
        self.pair.check()

    @invariant()
    def credit_is_what_the_model_says(self) -> None:
        assert self.pair.client.requests.ready == (self.client.outstanding < self.pair.requests.window)
        self.seen["stalled"] += not (self.pair.client.requests.ready and self.pair.server.responses.ready)
        assert self.pair.server.responses.ready == (self.server.outstanding < self.pair.responses.window)

    @invariant()
    def the_outcome_is_the_one_that_was_sent(self) -> None:
        arrived = self.server.known_ended
        assert self.pair.client.trailer == (self.trailer if arrived else None)
        assert self.pair.server.requests_ended == self.client.known_ended


# A test for each pattern: all examples together take 4 s of a processor, which is too much for one test on a busy machine.
@pytest.mark.parametrize("pattern", RpcPattern, ids=lambda pattern: pattern.name)
def test_both_ends_of_a_call_do_what_a_plain_model_says(pattern: RpcPattern) -> None:
    seen = Counter[str]()
    machine = type("OfOnePattern", (CallMachine,), {"pattern": pattern, "seen": seen})
    share = max(20, settings().max_examples // len(RpcPattern))  # in fewer, something may never happen
    run_machine(machine, settings=settings(max_examples=share, stateful_step_count=80))
    expected = ["refused", "stalled", "outcomes", *(["granted"] if pattern is not RpcPattern.UNARY else [])]
    assert not [what for what in expected if not seen[what]], "never happened"
