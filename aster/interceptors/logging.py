"""The built-in log of calls: one line for each, with an id that is the same at both ends."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import AsyncIterator
from contextvars import ContextVar

import anyio

from aster._failures import alone, parted, unreadable
from aster.errors import RpcError, StatusCode
from aster.interceptors.base import InterceptedCall, Interceptor
from aster.types import Metadata

__all__ = ["LoggingInterceptor", "request_id"]

_REQUEST_ID: ContextVar[str | None] = ContextVar("aster_request_id", default=None)

_KEY = "x-request-id"
"""The metadata key under which proxies and other frameworks pass such an id on, too."""

_SOUND_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""What is taken over from a peer: it goes into logs, where a line break or a colour would be somebody else's line."""


def request_id() -> str | None:
    """The id of the call that is being served here, or of the request in whose course calls are made; ``None`` where ``LoggingInterceptor`` has bound none."""
    return _REQUEST_ID.get()


class LoggingInterceptor(Interceptor):
    """Logs one line a call when it has ended, with its id, outcome and duration.

    The line is for people; the same values are attributes of the log record (``extra``) for whoever writes JSON: ``request_id``, ``side``, ``service``,
    ``method``, ``peer`` (the endpoint id), ``code`` (a status's name), ``seconds``, ``requests`` and ``responses`` (counts).

    A client sends the id as metadata ``x-request-id``: what the call has there, else what is bound where it is made, else 16 new hex digits. A server takes
    that id over if it is sound (1 to 64 letters, digits, ``.``, ``_``, ``:`` and ``-``), and binds it for the handler: ``request_id()`` gives it there, and
    calls that the handler makes carry it on.

    The code is the one that the caller gets, with two exceptions. What is no ``RpcError``, as an exception of the caller's own, is ``INTERNAL``. And a call
    that was cancelled is ``CANCELLED``, also where its server cancelled it because it drains, or because the session has ended: its caller gets
    ``UNAVAILABLE`` or ``ABORTED``, which the server's interceptors do not hear of.

    Args:
        logger: where to log; ``aster.calls`` by default.
        level: of the line.

    Raises:
        TypeError: they are something else, such as the name of a logger, or a ``LoggerAdapter``, which would put its own attributes in the place of these.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        if isinstance(logger, logging.LoggerAdapter):
            raise TypeError(
                "logger must be a logging.Logger, not a LoggerAdapter, which drops the line's attributes: give its logger, and add yours by a Filter"
            )
        if not isinstance(logger, logging.Logger | None):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
            raise TypeError(f"logger must be a logging.Logger, not {logger!r}: write logging.getLogger(...)")
        if not isinstance(level, int):  # pyright: ignore[reportUnnecessaryIsInstance] (as above)
            raise TypeError(f"level must be a number such as logging.INFO, not {level!r}")
        self._logger = logging.getLogger("aster.calls") if logger is None else logger
        self._level = level

    async def intercept(self, call: InterceptedCall) -> AsyncIterator[None]:
        """Count, time and log it."""
        identity = _bound_id(call)
        counts = {"requests": 0, "responses": 0}
        call.on_request(lambda message: _counted(counts, "requests", message))
        call.on_response(lambda message: _counted(counts, "responses", message))
        began, code = anyio.current_time(), StatusCode.OK
        try:
            yield
        except BaseException as exc:
            code = _code_of(exc, call)
            raise
        finally:
            self._log(call, identity, code, anyio.current_time() - began, counts)

    def _log(self, call: InterceptedCall, identity: str, code: StatusCode, seconds: float, counts: dict[str, int]) -> None:
        fields = {
            "request_id": identity,
            "side": call.side,
            "service": call.service,
            "method": call.method,
            "peer": call.peer.endpoint_id,
            "code": code.name,
            "seconds": seconds,
            **counts,
        }
        self._logger.log(
            self._level,
            "%s %s.%s %s in %.1f ms, %d requests, %d responses, request %s",
            *(call.side, call.service, call.method, code.name, seconds * 1000, counts["requests"], counts["responses"], identity),
            extra=fields,
        )


def _counted(counts: dict[str, int], kind: str, message: object) -> object:
    counts[kind] += 1
    return message


def _bound_id(call: InterceptedCall) -> str:
    """The id of a call; a client's is sent, a server's bound."""
    sent = call.metadata.get(_KEY)
    sound = sent if isinstance(sent, str) and _SOUND_ID.fullmatch(sent) else None
    if call.side == "client":
        identity = sound or _REQUEST_ID.get() or secrets.token_hex(8)
        call.metadata = Metadata([*((key, value) for key, value in call.metadata if key != _KEY), (_KEY, identity)])
        return identity
    identity = sound or secrets.token_hex(8)
    if not sound:
        # For another one of this kind further in.
        call.metadata = Metadata([*((key, value) for key, value in call.metadata if key != _KEY), (_KEY, identity)])
    # A handler has a context of its own, so that nothing has to be put back.
    _REQUEST_ID.set(identity)
    return identity


def _code_of(exc: BaseException, call: InterceptedCall) -> StatusCode:
    if parted(exc, anyio.get_cancelled_exc_class())[0] is not None and not _is_by_hand(call):
        return StatusCode.DEADLINE_EXCEEDED if anyio.current_time() >= call.deadline else StatusCode.CANCELLED
    spoilt = unreadable(exc)
    if spoilt is not None and spoilt.is_request:
        return StatusCode.INVALID_ARGUMENT  # which the call ends with
    error = alone(exc)
    return error.code if isinstance(error, RpcError) else StatusCode.INTERNAL


def _is_by_hand(call: InterceptedCall) -> bool:
    """Whether cancellation in a handler was raised where nothing is cancelled, which is a bug of the handler's. A caller's task may be cancelled by asyncio's
    own means, which no scope knows of."""
    return call.side == "server" and anyio.current_effective_deadline() > -math.inf
