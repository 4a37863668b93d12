"""The states of a call's two halves, as tables: what is not in a table is against the protocol.

The request half runs from client to server, the response half back. Each table maps a state to the steps that are allowed in it and to the
state that follows. Only this file knows which step may follow which; both ends use the same tables, one for what it sends and one for what it
receives.

::

    requests, many:  IDLE --HEADER--> OPEN --MESSAGE--> OPEN --END--> ENDED        requests, one:   ... EMPTY --MESSAGE--> FULL --END--> ENDED
    responses, many: IDLE [--METADATA--> OPEN] --MESSAGE--> OPEN --OK|ERROR--> ENDED   responses, one:  ... EMPTY --MESSAGE--> FULL --OK--> ENDED

A PART begins or goes on with a message, and only a PART, the MESSAGE that closes it, or an error's trailer may follow. CREDIT for the other
half may come at any time once a half is open. Before a header has told the server which tables hold, it may send nothing but a failing trailer.

A session has tables of its own for the frames that carry its calls, between a half's first frame and its SESSION_END.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from aster.types import RpcPattern

__all__ = [
    "REQUESTS_MANY",
    "REQUESTS_ONE",
    "RESPONSES_MANY",
    "RESPONSES_ONE",
    "RESPONSES_UNKNOWN",
    "SESSION_REQUESTS",
    "SESSION_RESPONSES",
    "TABLES",
    "SessionStep",
    "SessionTable",
    "State",
    "Step",
    "Table",
]


class State(Enum):
    """Where a half of a call is."""

    IDLE = auto()
    """Nothing was sent."""
    EMPTY = auto()
    """Open, exactly one message is allowed, none has begun."""
    EMPTY_PART = auto()
    """Open, the only message has begun."""
    FULL = auto()
    """Open, the only message is complete."""
    OPEN = auto()
    """Open, any number of messages are allowed, none is half sent."""
    OPEN_PART = auto()
    """Open, a message has begun."""
    ENDED = auto()
    """The half's last frame was sent; only credit may follow."""

    # Identity is what is meant, and half the price of Enum's own hash in the lookups of every frame.
    __hash__ = object.__hash__


class Step(Enum):
    """What can happen in a half of a call."""

    HEADER = auto()
    METADATA = auto()
    PART = auto()
    MESSAGE = auto()
    END = auto()
    CREDIT = auto()
    OK = auto()
    """A trailer of success."""
    ERROR = auto()
    """A trailer of failure."""

    __hash__ = object.__hash__


class SessionStep(Enum):
    """What can happen in a half of a session's stream: the frame of that name."""

    SESSION = auto()
    READY = auto()
    CALL = auto()
    CALL_END = auto()
    CANCEL = auto()
    SESSION_END = auto()

    __hash__ = object.__hash__


Table = Mapping[State, Mapping[Step, State]]
SessionTable = Mapping[State, Mapping[SessionStep, State]]

REQUESTS_ONE: Table = {
    State.IDLE: {Step.HEADER: State.EMPTY},
    State.EMPTY: {Step.PART: State.EMPTY_PART, Step.MESSAGE: State.FULL, Step.CREDIT: State.EMPTY},
    State.EMPTY_PART: {Step.PART: State.EMPTY_PART, Step.MESSAGE: State.FULL, Step.CREDIT: State.EMPTY_PART},
    State.FULL: {Step.END: State.ENDED, Step.CREDIT: State.FULL},
    State.ENDED: {Step.CREDIT: State.ENDED},
}

REQUESTS_MANY: Table = {
    State.IDLE: {Step.HEADER: State.OPEN},
    State.OPEN: {Step.PART: State.OPEN_PART, Step.MESSAGE: State.OPEN, Step.END: State.ENDED, Step.CREDIT: State.OPEN},
    State.OPEN_PART: {Step.PART: State.OPEN_PART, Step.MESSAGE: State.OPEN, Step.CREDIT: State.OPEN_PART},
    State.ENDED: {Step.CREDIT: State.ENDED},
}

RESPONSES_ONE: Table = {
    State.IDLE: {
        Step.METADATA: State.EMPTY,
        Step.PART: State.EMPTY_PART,
        Step.MESSAGE: State.FULL,
        Step.CREDIT: State.IDLE,
        Step.ERROR: State.ENDED,
    },
    State.EMPTY: {Step.PART: State.EMPTY_PART, Step.MESSAGE: State.FULL, Step.CREDIT: State.EMPTY, Step.ERROR: State.ENDED},
    State.EMPTY_PART: {Step.PART: State.EMPTY_PART, Step.MESSAGE: State.FULL, Step.CREDIT: State.EMPTY_PART, Step.ERROR: State.ENDED},
    State.FULL: {Step.CREDIT: State.FULL, Step.OK: State.ENDED, Step.ERROR: State.ENDED},
    State.ENDED: {},
}

RESPONSES_MANY: Table = {
    State.IDLE: {
        Step.METADATA: State.OPEN,
        Step.PART: State.OPEN_PART,
        Step.MESSAGE: State.OPEN,
        Step.CREDIT: State.IDLE,
        Step.OK: State.ENDED,
        Step.ERROR: State.ENDED,
    },
    State.OPEN: {
        Step.PART: State.OPEN_PART,
        Step.MESSAGE: State.OPEN,
        Step.CREDIT: State.OPEN,
        Step.OK: State.ENDED,
        Step.ERROR: State.ENDED,
    },
    State.OPEN_PART: {Step.PART: State.OPEN_PART, Step.MESSAGE: State.OPEN, Step.CREDIT: State.OPEN_PART, Step.ERROR: State.ENDED},
    State.ENDED: {},
}

RESPONSES_UNKNOWN: Table = {State.IDLE: {Step.ERROR: State.ENDED}, State.ENDED: {}}

TABLES: Mapping[RpcPattern, tuple[Table, Table]] = {
    RpcPattern.UNARY: (REQUESTS_ONE, RESPONSES_ONE),
    RpcPattern.SERVER_STREAM: (REQUESTS_ONE, RESPONSES_MANY),
    RpcPattern.CLIENT_STREAM: (REQUESTS_MANY, RESPONSES_ONE),
    RpcPattern.BIDI_STREAM: (REQUESTS_MANY, RESPONSES_MANY),
}
"""The tables of requests and of responses, by a method's pattern."""

SESSION_REQUESTS: SessionTable = {
    State.IDLE: {SessionStep.SESSION: State.OPEN},
    State.OPEN: {SessionStep.CALL: State.OPEN, SessionStep.CANCEL: State.OPEN, SessionStep.SESSION_END: State.ENDED},
    State.ENDED: {},
}

SESSION_RESPONSES: SessionTable = {
    State.IDLE: {SessionStep.READY: State.OPEN, SessionStep.SESSION_END: State.ENDED},
    State.OPEN: {SessionStep.CALL: State.OPEN, SessionStep.CALL_END: State.OPEN, SessionStep.SESSION_END: State.ENDED},
    State.ENDED: {},
}
