"""A call's core at each end, in each pattern: the peer's bytes, and between them what the application at this end does."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from aster._protocol.call import CallLimits, ClientCall, ReceiveHalf, SendHalf, ServerCall, SharedBuffer
from aster._protocol.events import SUCCESS, Trailer
from aster._protocol.frames import CHUNK_SIZE, MESSAGE_CHARGE, FrameReader, encode_header, frame_limits
from aster._protocol.states import State
from aster.errors import LocalProtocolError, RemoteProtocolError, StatusCode
from aster.types import Metadata, RpcPattern
from tests.fuzz import grammar
from tests.fuzz.script import Script, chunk, entry
from tests.fuzz.target import Run, Target
from tests.protocol.pair import start_of

__all__ = ["CALLS"]

_PATTERNS = tuple(RpcPattern)
_WINDOWS = (1, 300, 20_000, 262_144)
_MESSAGE, _METADATA, _SHARED = 40_000, 1_024, 100_000
_ENTRY = Metadata({"early": "yes"})
_SIZES = (0, 1, 63, 300, CHUNK_SIZE, CHUNK_SIZE + 1, 40_000)
_FAILURE = Trailer(StatusCode.NOT_FOUND, message="gone")


class _End:
    """One end of a call, with what it has written."""

    def __init__(self, *, to_server: bool, pattern: RpcPattern, window: int) -> None:
        self.shared = SharedBuffer(_SHARED)
        limits = CallLimits.create(shared=self.shared, window=window, peer_window=window, message=_MESSAGE, metadata=_METADATA)
        self.call: Any
        self.inbound: ReceiveHalf
        self.outbound: SendHalf
        if to_server:
            written = b""
            self.call = server = ServerCall(limits)
            self.inbound, self.outbound = server.requests, server.responses
        else:
            self.call = client = ClientCall(pattern, limits)
            self.inbound, self.outbound = client.responses, client.requests
            written = client.send_header(start_of(pattern), None, Metadata())
        self.to_server = to_server
        self.discarded = False
        self.window = window
        self._written = FrameReader(frame_limits(1 << 20))
        self.write(written)

    def write(self, data: bytes) -> None:
        """What this end sends is in order."""
        for _ in self._written.feed(data):
            pass

    def check(self) -> None:
        """The bounds that hold at any moment."""
        inbox = sum(len(message) + MESSAGE_CHARGE for message in self.inbound.inbox)
        if self.discarded:
            assert not self.inbound.inbox
            assert self.shared.held == 0
        else:
            assert inbox <= self.window - 1 + _MESSAGE + MESSAGE_CHARGE
            under_way = self.shared.held - inbox
            assert 0 <= under_way <= _MESSAGE + MESSAGE_CHARGE
            assert self.shared.held <= _SHARED
        assert 0 <= self.outbound.outstanding <= self.window - 1 + max(_SIZES) + MESSAGE_CHARGE


def _feed(end: _End, script: Script) -> None:
    end.call.receive_data(script.chunk())


def _peer_finishes(end: _End, script: Script) -> None:
    end.call.receive_end()


def _send(end: _End, script: Script) -> None:
    size = _SIZES[script.byte() % len(_SIZES)]
    end.write(end.call.send_message(bytes(size)))


def _end(end: _End, script: Script) -> None:
    end.write(end.call.send_trailer(SUCCESS) if end.to_server else end.call.send_end())


def _fail(end: _End, script: Script) -> None:
    if end.to_server:
        end.write(end.call.send_trailer(_FAILURE))


def _send_metadata(end: _End, script: Script) -> None:
    if end.to_server:
        end.write(end.call.send_metadata(_ENTRY))


def _take(end: _End, script: Script) -> None:
    if end.inbound.inbox:
        end.inbound.take()


def _take_all(end: _End, script: Script) -> None:
    while end.inbound.inbox:
        end.inbound.take()
    end.write(end.inbound.grant())


def _discard(end: _End, script: Script) -> None:
    end.inbound.discard()
    end.discarded = True


_ACTIONS: Mapping[str, Callable[[_End, Script], None]] = {
    "feed": _feed,
    "take": _take,
    "take all": _take_all,
    "send": _send,
    "send metadata": _send_metadata,
    "end": _end,
    "fail": _fail,
    "peer finishes": _peer_finishes,
    "discard": _discard,
}
_NAMES = tuple(_ACTIONS)


def _make(chance: random.Random) -> bytes:
    to_server, pattern = chance.randrange(2), chance.randrange(4)
    steps = [bytes((to_server * 4 + pattern, chance.choice((0, 1, 2, 3, 3))))]
    if to_server and chance.random() < 0.95:
        steps.append(entry("feed", _NAMES) + chunk(encode_header(start_of(_PATTERNS[pattern]), chance.choice((None, 1.0)), Metadata())))
    if chance.random() < 0.4:
        pattern_ = _PATTERNS[pattern]
        steps.append(entry("feed", _NAMES) + chunk(grammar.whole_requests(chance, pattern_) if to_server else grammar.whole_responses(chance, pattern_)))
    for _ in range(chance.choice((0, 1, 2, 4, 8, 16))):
        name = "feed" if chance.random() < 0.5 else chance.choice(_NAMES[1:-1] if chance.random() < 0.9 else _NAMES)
        steps.append(entry(name, _NAMES))
        if name == "feed":
            steps.append(chunk((grammar.requests if to_server else grammar.responses)(chance)))
        elif name == "send":
            steps.append(bytes((chance.randrange(len(_SIZES)),)))
    return b"".join(steps)


def _run(data: bytes) -> str:
    script = Script(data)
    which, window = script.byte(), script.byte()
    end = _End(to_server=bool(which & 4), pattern=_PATTERNS[which & 3], window=_WINDOWS[window & 3])
    # Not the error itself: it holds this frame, which would hold it, and all that the call has would wait for the garbage collector.
    refused: StatusCode | None = None
    for step in script.steps():
        action = _ACTIONS[_NAMES[step % len(_NAMES)]]
        before = end.inbound.state, end.outbound.outstanding, len(end.inbound.inbox)
        try:
            action(end, script)
        except LocalProtocolError:
            # A mistake of the application's changes nothing.
            assert (end.inbound.state, end.outbound.outstanding, len(end.inbound.inbox)) == before
        except RemoteProtocolError as exc:
            refused = refused or exc.code
            if action is not _peer_finishes:
                end.call.receive_data(b"\x11\x00 whatever comes now is dropped")
        end.check()
    _check_leaving(end)
    where = "server" if end.to_server else "client"
    if refused is not None:
        return f"{where}: {'too much' if refused is StatusCode.RESOURCE_EXHAUSTED else 'refused'}"
    return f"{where}: {'whole' if end.inbound.state is State.ENDED else 'waiting'}"


def _check_leaving(end: _End) -> None:
    """A call that is over counts no more among those of its connection."""
    if not end.discarded:
        end.inbound.leave()
    assert end.shared.held == 0


@contextmanager
def _open() -> Generator[Run]:
    yield _run


_WORDS = frozenset(f"{where}: {what}" for where in ("server", "client") for what in ("refused", "too much", "whole", "waiting"))
CALLS = Target("calls", "a call's core, both ends", "calls", _make, _open, _WORDS, share=150, cost=0.25)
