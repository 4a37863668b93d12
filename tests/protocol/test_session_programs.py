"""Random programs through both ends of a session, against a model that knows nothing of tables, of numbers or of how frames look."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster._protocol.events import SUCCESS, Trailer, TrailerOrigin
from aster._protocol.session import SessionOpened
from aster.errors import LocalProtocolError, StatusCode
from tests.protocol.session_pair import SessionPair

_FAILURE = Trailer(StatusCode.ABORTED, TrailerOrigin.SERVER, "over")
_EVERYTHING = 10_000_000
_PIECES = (_EVERYTHING, _EVERYTHING, 1, 3, 7, 100, 16_384)
_SIZES = (1, 1, 2, 40, 300, 16_376, 16_377)
_STEPS = 120


class _Action(NamedTuple):
    """What may be tried, whether it must work or be refused, and how often it is drawn."""

    run: Callable[[], None]
    allowed: bool
    weight: int = 4


class _Program:
    """A program under way. It keeps what an application at each end would know: whether the session is ready, whether a call runs, and what was sent for it."""

    def __init__(self, chance: random.Random, seen: Counter[str]) -> None:
        self.pair = SessionPair()
        self.chance = chance
        self.seen = seen
        self.opened = self.answered = self.left = self.over = False
        self.outcome: Trailer | None = None
        self.letters = 0
        self.hasty = chance.random() < 0.25
        """Whether it tries what it must not."""

    def step(self) -> None:
        """Do one thing."""
        actions = [action for action in self._actions() if action.allowed or self.hasty]
        action = self.chance.choices(actions, [action.weight for action in actions])[0]
        if action.allowed:
            action.run()
        else:
            with pytest.raises(LocalProtocolError):
                action.run()
            self.seen["refused"] += 1

    def _actions(self) -> list[_Action]:
        pair = self.pair
        return [
            _Action(self._open, not self.opened),
            _Action(self._begin, self.opened and pair.ready and not self.calling and not self.left and pair.outcome is None),
            _Action(self._send, self.may_speak),
            _Action(self._cancel, self.may_speak, 2),
            _Action(self._leave, self.opened and not self.left, 1 if self.hasty or len(pair.at_client.sent) > 2 else 0),
            _Action(self._answer, pair.opened is not None and not self.answered and not self.over),
            _Action(self._respond, self.serving),
            _Action(self._end_call, self.serving, 2),
            _Action(self._end, not self.over, 1 if self.hasty or self.left or len(pair.at_client.sent) > 4 else 0),
            _Action(lambda: self._requests_travel(self.chance.choice(_PIECES)), True),
            _Action(lambda: pair.deliver_responses(self.chance.choice(_PIECES)), True),
        ]

    # What each end may know

    @property
    def calling(self) -> bool:
        """Whether the client has begun a call whose end it has not heard."""
        return len(self.pair.at_client.sent) > self.pair.at_client.ended and self.pair.outcome is None

    @property
    def may_speak(self) -> bool:
        """Whether the client may send something for a call."""
        return self.calling and self._present not in self.pair.at_client.cancelled and not self.left

    @property
    def serving(self) -> bool:
        """Whether the server has a call that it has not ended."""
        return len(self.pair.at_server.heard) > self.pair.at_server.ended and not self.over

    @property
    def _present(self) -> int:
        return len(self.pair.at_client.sent) - 1

    @property
    def _end_is_under_way(self) -> bool:
        return self.calling and self.pair.at_server.ended > self._present

    # What each end does

    def _letters(self) -> bytes:
        # Pieces differ from their neighbours, so that none can be taken for another.
        self.letters += 1
        return bytes((self.letters % 256,)) * self.chance.choice(_SIZES)

    def _open(self) -> None:
        self.pair.open()
        self.opened = True

    def _begin(self) -> None:
        self.pair.begin()
        self.pair.send_request(self._letters())
        self.seen["calls"] += 1

    def _send(self) -> None:
        self.pair.send_request(self._letters())
        self.seen["late"] += self._end_is_under_way

    def _cancel(self) -> None:
        self.pair.cancel(self.chance.randrange(6))
        self.seen["cancelled late" if self._end_is_under_way else "cancelled"] += 1

    def _leave(self) -> None:
        self.pair.leave()
        self.left = True
        self.seen["left in a call"] += self.calling

    def _answer(self) -> None:
        self.pair.answer()
        self.answered = True

    def _respond(self) -> None:
        self.pair.send_response(self._letters())
        self.seen["responses after a cancel"] += len(self.pair.at_server.heard) - 1 in self.pair.at_server.cancelled

    def _end_call(self) -> None:
        self.pair.end_call()

    def _end(self) -> None:
        self.seen["ended in a call"] += self.serving
        self.seen["refused at once"] += not self.answered
        outcome = self.chance.choice((SUCCESS, _FAILURE))
        self.pair.end(outcome)
        self.over, self.outcome = True, outcome

    def _requests_travel(self, size: int) -> None:
        log = self.pair.at_server
        before, ended = list(log.heard), log.ended
        self.pair.deliver_requests(size)
        # What has ended stays as it is, and so does all of it once the session has.
        assert log.heard[:ended] == before[:ended]
        assert not self.over or log.heard == before

    # What holds at any moment

    def check(self) -> None:
        self._check_calls()
        self._check_what_is_known()
        pair = self.pair
        if not pair.responses:
            assert pair.at_client.heard[: len(pair.at_server.sent)] == pair.at_server.sent
            assert (pair.ready, pair.at_client.ended, pair.outcome) == (self.answered, pair.at_server.ended, self.outcome)
        if not pair.requests and not self.over:
            self._check_that_requests_are_complete()

    def _check_calls(self) -> None:
        """Calls follow each other, and their bytes are their own."""
        client, server = self.pair.at_client, self.pair.at_server
        assert server.ended <= len(server.heard) <= len(client.sent) <= server.ended + 1
        assert client.ended <= server.ended
        for sender, receiver in ((client, server), (server, client)):
            # The last two: what is over is looked at while it ends.
            for sent, heard in list(zip(sender.sent, receiver.heard, strict=False))[-2:]:
                assert sent.startswith(heard)
        assert server.cancelled.items() <= client.cancelled.items()

    def _check_what_is_known(self) -> None:
        assert self.pair.client.running == self.calling
        assert self.pair.server.running == self.serving
        assert self.pair.client.ended == (self.left or self.pair.outcome is not None)
        assert self.pair.server.ended == self.over

    def _check_that_requests_are_complete(self) -> None:
        pair = self.pair
        assert pair.opened == (SessionOpened("demo.Room", 3) if self.opened else None)
        assert pair.left == (SUCCESS if self.left else None)
        assert len(pair.at_server.heard) == len(pair.at_client.sent)
        if self.serving:
            assert pair.at_server.heard[-1] == pair.at_client.sent[-1]
            assert pair.at_server.cancelled.get(self._present) == pair.at_client.cancelled.get(self._present)


def test_both_ends_of_a_session_do_what_a_plain_model_says() -> None:
    seen = Counter[str]()

    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        program = _Program(random.Random(seed), seen)
        for _ in range(_STEPS):
            program.step()
            program.check()

    run()
    for what in ("refused", "calls", "late", "cancelled", "cancelled late", "responses after a cancel", "left in a call", "ended in a call", "refused at once"):
        assert seen[what], f"no program had {what}"
