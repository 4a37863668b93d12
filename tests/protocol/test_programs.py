"""Random programs through both ends at once: the same messages come out, in order, once, with one outcome, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from aster._protocol.events import SUCCESS, Target, Trailer
from aster._protocol.frames import CHUNK_SIZE
from aster._protocol.states import State
from aster.errors import StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol import strategies
from tests.protocol.pair import Pair

_WINDOWS = st.sampled_from((1, 63, 64, 65, 128, 1_000, 16_384, 65_536))
_MOST_STEPS = 4_000


@dataclass
class _Program:
    """What both sides mean to do."""

    pattern: RpcPattern
    requests: list[bytes]
    responses: list[bytes]
    trailer: Trailer
    early: Metadata | None
    metadata: Metadata
    early_return: bool


@st.composite
def _programs(draw: st.DrawFn) -> _Program:
    pattern = draw(strategies.patterns)
    trailer = draw(st.just(SUCCESS) | strategies.trailers)
    responses = draw(_messages(0, 8)) if pattern.streams_responses else draw(_messages(1, 1))
    if trailer.status is not StatusCode.OK and draw(st.booleans()):
        responses = responses[: len(responses) // 2]
    return _Program(
        pattern=pattern,
        requests=draw(_messages(0, 8)) if pattern.streams_requests else draw(_messages(1, 1)),
        responses=responses,
        trailer=trailer,
        early=draw(st.none() | strategies.metadata),
        metadata=draw(strategies.metadata),
        early_return=draw(st.booleans()),
    )


def _messages(least: int, most: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(strategies.sizes, min_size=least, max_size=most).map(lambda sizes: [bytes((index + 1,)) * size for index, size in enumerate(sizes)])


class _Run:
    """A program under way: at each moment, some of these actions are possible."""

    def __init__(self, program: _Program, pair: Pair, cuts: list[int]) -> None:
        self.program = program
        self.pair = pair
        self.cuts = cuts
        self.turn = 0
        self.early_sent = program.early is None

    def actions(self) -> list[Callable[[], None]]:
        """What can happen now; empty when the program is over, or stuck."""
        pair, program = self.pair, self.program
        possible = [
            (pair.client.requests.state is State.IDLE, self._begin),
            (self._has_request and pair.client.requests.ready, self._request),
            (self._begun and not self._has_request and pair.client.requests.state is not State.ENDED, pair.send_end),
            (bool(pair.requests.wire), lambda: pair.deliver_requests(self._cut(pair.requests.wire))),
            (bool(pair.responses.wire), lambda: pair.deliver_responses(self._cut(pair.responses.wire))),
            (bool(pair.server.requests.inbox) and self._serves, pair.take_request),
            (bool(pair.client.responses.inbox), pair.take_response),
            (self._serves and not self.early_sent, self._early),
            (self._serves and self.early_sent and self._has_response and pair.server.responses.ready, self._response),
            (self._serves and self.early_sent and not self._has_response and self._may_return, lambda: pair.send_trailer(program.trailer)),
        ]
        return [action for holds, action in possible if holds]

    @property
    def _begun(self) -> bool:
        return self.pair.client.requests.state is not State.IDLE

    @property
    def _has_request(self) -> bool:
        return self._begun and len(self.pair.requests.sent) < len(self.program.requests)

    @property
    def _serves(self) -> bool:
        # A handler that has returned takes no more.
        return self.pair.server.header is not None and self.pair.server.responses.state is not State.ENDED

    @property
    def _has_response(self) -> bool:
        return len(self.pair.responses.sent) < len(self.program.responses)

    @property
    def _may_return(self) -> bool:
        return self.program.early_return or (self.pair.server.requests_ended and not self.pair.server.requests.inbox)

    def _begin(self) -> None:
        self.pair.send_header(1.5, self.program.metadata)

    def _request(self) -> None:
        self.pair.send_request(self.program.requests[len(self.pair.requests.sent)])

    def _early(self) -> None:
        self.pair.send_metadata(self.program.early or Metadata())
        self.early_sent = True

    def _response(self) -> None:
        self.pair.send_response(self.program.responses[len(self.pair.responses.sent)])

    def _cut(self, wire: bytearray) -> int:
        self.turn += 1
        return self.cuts[self.turn % len(self.cuts)] + (len(wire) >> 4)


def test_any_program_gives_the_same_messages_in_order_once_and_one_outcome() -> None:
    seen: Counter[str] = Counter()

    @given(_programs(), _WINDOWS, _WINDOWS, strategies.cuts, st.lists(st.integers(0, 9), max_size=60))
    def run(program: _Program, request_window: int, response_window: int, cuts: list[int], choices: list[int]) -> None:
        pair = Pair(program.pattern, request_window=request_window, response_window=response_window)
        _run(program, pair, cuts, choices, seen)
        _check_outcome(program, pair, seen)

    run()
    for what in ("stalls", "refills", "chunked messages", "early returns", "failures"):
        assert seen[what], f"no program had {what}"


def _run(program: _Program, pair: Pair, cuts: list[int], choices: list[int], seen: Counter[str]) -> None:
    run = _Run(program, pair, cuts)
    for step in range(_MOST_STEPS):
        actions = run.actions()
        if not actions:
            break
        # Drawn choices first; then each in turn, so that every program comes to its end.
        actions[(choices[step] if step < len(choices) else step) % len(actions)]()
        pair.check()
        seen["stalls"] += not (pair.client.requests.ready and pair.server.responses.ready)
    assert run.actions() == []


def _check_outcome(program: _Program, pair: Pair, seen: Counter[str]) -> None:
    returned_early = len(pair.requests.taken) < len(program.requests)
    assert program.early_return or not returned_early
    assert pair.requests.taken == program.requests[: len(pair.requests.taken)]
    assert pair.responses.taken == pair.responses.sent == program.responses
    assert pair.client.trailer == program.trailer
    assert pair.client.metadata == program.early
    assert pair.server.header is not None
    assert pair.server.header.target == Target("tests.Service", 1, "method", program.pattern, SerializationMode.XLANG)
    assert (pair.server.header.metadata, pair.server.header.timeout) == (program.metadata, 1.5)
    pair.client.receive_end()
    if not returned_early:
        pair.server.receive_end()
    seen["refills"] += pair.requests.refills + pair.responses.refills
    seen["chunked messages"] += sum(len(message) > CHUNK_SIZE for message in [*pair.requests.taken, *pair.responses.taken])
    seen["early returns"] += returned_early
    seen["failures"] += program.trailer.status is not StatusCode.OK


@given(st.sampled_from((RpcPattern.CLIENT_STREAM, RpcPattern.SERVER_STREAM)), _WINDOWS, strategies.sizes)
@settings(max_examples=60)
def test_a_sender_that_is_stopped_by_credit_goes_on_once_the_receiver_takes(pattern: RpcPattern, window: int, size: int) -> None:
    pair = Pair(pattern, request_window=window, response_window=window)
    pair.send_header()
    if pattern is RpcPattern.SERVER_STREAM:
        pair.send_request(b"")
        pair.send_end()
    pair.deliver_all()
    if pattern is RpcPattern.SERVER_STREAM:
        pair.take_request()
        half, direction, send, take = pair.server.responses, pair.responses, pair.send_response, pair.take_response
    else:
        half, direction, send, take = pair.client.requests, pair.requests, pair.send_request, pair.take_request
    for _ in range(3):
        while half.ready:
            send(bytes(size))
        pair.deliver_all()
        pair.check()
        before = direction.refills
        while len(direction.taken) < len(direction.sent):
            take()
        pair.deliver_all()
        assert direction.refills > before
        assert half.ready


@given(_programs(), strategies.cuts)
def test_how_a_halfs_bytes_are_cut_makes_no_difference_to_what_an_end_holds(program: _Program, cuts: list[int]) -> None:
    whole, pieces = Pair(program.pattern), Pair(program.pattern)
    for pair in (whole, pieces):
        pair.send_header(metadata=program.metadata)
        for message in program.requests:
            pair.send_request(message)
        pair.send_end()
    whole.server.receive_data(bytes(whole.requests.wire))
    for piece in strategies.split(bytes(pieces.requests.wire), cuts):
        pieces.server.receive_data(piece)
    for message in program.responses:
        whole.send_response(message)
    whole.send_trailer(program.trailer)
    whole.client.receive_data(bytes(whole.responses.wire) + b"what follows an outcome is dropped")
    for piece in strategies.split(bytes(whole.responses.wire) + b"what follows an outcome is dropped", cuts):
        pieces.client.receive_data(piece)
    assert pieces.server.header == whole.server.header
    assert list(pieces.server.requests.inbox) == list(whole.server.requests.inbox) == program.requests
    assert list(pieces.client.responses.inbox) == list(whole.client.responses.inbox) == program.responses
    assert pieces.client.trailer == whole.client.trailer == program.trailer
