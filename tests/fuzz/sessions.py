"""A session's core at each end: the peer's bytes, and between them what the application at this end does."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from aster._protocol.events import SUCCESS, Trailer
from aster._protocol.frames import CHUNK_SIZE, TRAILER_LIMIT, FrameReader, frame_limits
from aster._protocol.session import CallBytes, CallCancelled, CallEnded, ClientSession, ServerSession, SessionEnded, SessionOpened, SessionReady
from aster._protocol.states import State
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from tests.fuzz import grammar
from tests.fuzz.script import Script, chunk, entry
from tests.fuzz.target import Run, Target

__all__ = ["SESSIONS"]

_METADATA = 1_024
_SIZES = (1, 2, 300, CHUNK_SIZE - 8, CHUNK_SIZE - 7, 40_000)
_OUTCOMES = (SUCCESS, Trailer(StatusCode.ABORTED, message="over"), Trailer(message="x" * (TRAILER_LIMIT + 1)))
_SERVICE = ("demo.Room", 1)


class _End:
    """One end of a session, with what it has written and heard."""

    def __init__(self, *, to_server: bool) -> None:
        self.session: ServerSession | ClientSession = ServerSession(_METADATA) if to_server else ClientSession(_METADATA)
        self.begun = self.over = 0
        self.refused: StatusCode | None = None
        self._written = FrameReader(frame_limits(_METADATA))
        if isinstance(self.session, ClientSession):
            self.write(self.session.send_open(*_SERVICE))

    def write(self, data: bytes) -> None:
        """What this end sends is in order."""
        for _ in self._written.feed(data):
            pass

    def feed(self, data: bytes) -> None:
        """The peer's bytes: what comes of them follows the rules."""
        running = self.session.running
        for event in self.session.receive_data(data):
            match event:
                case CallBytes(part, begins):
                    assert 0 < len(part) < CHUNK_SIZE
                    assert begins != running
                    self.begun += begins
                    running = True
                case CallCancelled():
                    assert running
                case CallEnded():
                    assert running
                    running = False
                    self.over += 1
                case SessionOpened():
                    assert self.session.requests.state is State.OPEN
                case SessionReady():
                    assert self.session.responses.state is State.OPEN
                case SessionEnded():
                    # A server goes on until its call has unwound.
                    running = running and isinstance(self.session, ServerSession)
        assert self.session.running == running

    def check(self) -> None:
        """What holds at any moment."""
        assert self.begun == self.over + self.session.running or self.session.ended
        ended = self.session.responses.state is State.ENDED
        if isinstance(self.session, ServerSession):
            assert self.session.ended == ended
        else:
            assert self.session.ended == (ended or self.session.requests.state is State.ENDED)
        assert not (ended and self.session.running)


def _feed(end: _End, script: Script) -> None:
    end.feed(script.chunk())


def _answer(end: _End, script: Script) -> None:
    session = end.session
    if isinstance(session, ServerSession):
        end.write(session.send_ready())
    else:
        session.begin_call()
        end.begun += 1


def _send(end: _End, script: Script) -> None:
    end.write(end.session.send_call(bytes(_SIZES[script.byte() % len(_SIZES)])))


def _stop(end: _End, script: Script) -> None:
    session = end.session
    if isinstance(session, ServerSession):
        end.write(session.send_call_end())
        end.over += 1
    else:
        end.write(session.send_cancel(script.byte()))


def _leave(end: _End, script: Script) -> None:
    session = end.session
    if isinstance(session, ServerSession):
        end.write(session.send_end(_OUTCOMES[script.byte() % len(_OUTCOMES)]))
    else:
        end.write(session.send_end())


_ACTIONS: Mapping[str, Callable[[_End, Script], None]] = {"feed": _feed, "answer": _answer, "send": _send, "stop": _stop, "leave": _leave}
_NAMES = tuple(_ACTIONS)


def _make(chance: random.Random) -> bytes:
    to_server = chance.random() < 0.5
    steps = [bytes((to_server,))]
    if to_server and chance.random() < 0.95:
        steps.append(entry("feed", _NAMES) + chunk(grammar.session_open(chance)))
    if not to_server and chance.random() < 0.7:
        steps.append(entry("feed", _NAMES) + chunk(grammar.ready()))
    if chance.random() < 0.9:
        steps.append(entry("answer", _NAMES))
    for _ in range(chance.choice((0, 1, 2, 4, 8, 16))):
        name = "feed" if chance.random() < 0.5 else chance.choice(_NAMES[1:-1] if chance.random() < 0.9 else _NAMES)
        steps.append(entry(name, _NAMES))
        if name == "feed":
            steps.append(chunk((grammar.session_requests if to_server else grammar.session_responses)(chance)))
        elif name == "send" or (name == "stop" and not to_server) or (name == "leave" and to_server):
            steps.append(bytes((chance.randrange(8),)))
    return b"".join(steps)


def _run(data: bytes) -> str:
    script = Script(data)
    end = _End(to_server=bool(script.byte() & 1))
    for step in script.steps():
        before = _state_of(end)
        try:
            _ACTIONS[_NAMES[step % len(_NAMES)]](end, script)
        except LocalProtocolError:
            # A mistake of the application's changes nothing.
            assert _state_of(end) == before
        except RemoteProtocolError as exc:
            end.refused = end.refused or exc.code
            break
        end.check()
    if end.refused is not None:
        before = _state_of(end)
        end.feed(b"\x19\x02\x00\x00 whatever comes now is dropped")
        assert _state_of(end) == before
    return f"{'server' if isinstance(end.session, ServerSession) else 'client'}: {_word(end)}"


def _state_of(end: _End) -> tuple[object, ...]:
    return end.session.requests.state, end.session.responses.state, end.session.running, end.begun, end.over


def _word(end: _End) -> str:
    if end.refused is not None:
        return "too much" if end.refused is StatusCode.RESOURCE_EXHAUSTED else "refused"
    if end.session.ended:
        return "over"
    return "calling" if end.session.running else "waiting"


@contextmanager
def _open() -> Generator[Run]:
    yield _run


_WORDS = frozenset(f"{where}: {what}" for where in ("server", "client") for what in ("refused", "too much", "over", "calling", "waiting"))
SESSIONS = Target("sessions", "a session's core, both ends", "sessions", _make, _open, _WORDS, share=100, cost=0.25)
