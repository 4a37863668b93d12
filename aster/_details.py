"""The details of errors: values that travel with a failure, each of a type that both ends of the service know.

Nothing here runs for a call that succeeds. What cannot be sent or read costs its call no more than itself: code and message always arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum

from aster._failures import text_of
from aster._protocol.events import Trailer
from aster._protocol.frames import MAX_DETAILS
from aster.codec import Codec, materialize, plain
from aster.codec.tags import full_name, is_wire_class, registered_names, short_name
from aster.errors import DecodeError, RpcError, UnknownDetail

__all__ = ["DetailCodec", "ReceivedError"]

logger = logging.getLogger("aster")


class DetailCodec:
    """Turns the details of one service's errors into tags and bytes and back, in one serialization mode.

    Args:
        codec: of the service, in that mode.
        tags: the types of the service, each with its wire tag. Those of them that are dataclasses may be details.
    """

    def __init__(self, codec: Codec, tags: Mapping[type, str]) -> None:
        self._codec = codec
        self._tags: dict[type, str] = {cls: tag for cls, tag in tags.items() if is_dataclass(cls)}
        # By the names in payloads, to which 'myapp/Quota' and an automatic 'myapp.Quota' are one.
        self._types = {name: cls for cls, name in registered_names(self._tags).items()}

    def encode(self, error: RpcError, label: str) -> tuple[tuple[str, bytes], ...]:
        """The details of an error that the handler of ``label`` raised. Those that cannot be sent are left out, and logged: as its bug, unless it passed on
        the error of a call of its own, whose details were not its choice."""
        sent: list[tuple[str, bytes]] = []
        problems: dict[str, None] = {}  # each once: of one mistake there may be many
        if len(error.details) > MAX_DETAILS:  # of which not one is sent, so none is encoded
            problems[f"an error has {len(error.details)} details; the limit is {MAX_DETAILS}"] = None
            return self._told(error, label, problems)
        for detail in error.details:
            try:
                sent.append(self._encoded(detail))
            except DecodeError as exc:  # of a row, which a peer has spoilt
                logger.info("a detail of an error of %s cannot be read: %s", label, text_of(exc))
            except Exception as exc:
                problems[text_of(exc)] = None
        if problems:
            self._told(error, label, problems)
        return tuple(sent)

    def _told(self, error: RpcError, label: str, problems: Iterable[str]) -> tuple[()]:
        passed_on = error.trailers is not None  # which errors have that came off the wire
        level, trace = (logging.INFO, None) if passed_on else (logging.ERROR, error)
        logger.log(level, "%s raised an RpcError with details that cannot be sent; they are left out: %s", label, "; ".join(problems), exc_info=trace)
        return ()

    def _encoded(self, detail: object) -> tuple[str, bytes]:
        detail = plain(detail)
        cls = type(detail)
        tag = self._tags.get(cls)
        if tag is None:
            raise TypeError(_objection_to(detail))
        return tag, self._codec.encoder(cls)(detail)

    def decode(self, details: Iterable[tuple[str, bytes]], label: str) -> tuple[object, ...]:
        """The details that came with an error of a call of ``label``."""
        return tuple(self._decoded(tag, data, label) for tag, data in details)

    def _decoded(self, tag: str, data: bytes, label: str) -> object:
        cls: type[object] | None = self._types.get(tag.replace("/", "."))
        if cls is None:
            return UnknownDetail(tag, data)
        try:
            return materialize(self._codec.decoder(cls)(data))
        except DecodeError as exc:
            logger.info("a detail of an error of %s cannot be decoded: %s", label, exc)
        except Exception as exc:
            # A bug of the caller's own class, but the error that it came with says more of the call.
            logger.exception("a detail of an error of %s cannot be made: %s raised %s", label, full_name(cls), type(exc).__name__)
        return UnknownDetail(tag, data)


def _objection_to(detail: object) -> str:
    """Why a value of a type that the service does not know is no detail, and what to do."""
    if isinstance(detail, type):
        return f"{short_name(detail)} is given as a detail, but it is the class itself; write {detail.__name__}(...)"
    cls = type(detail)
    if is_wire_class(cls) and not issubclass(cls, Enum):
        return f"a detail is a {full_name(cls)}, which the service neither declares nor sends; declare it: @service(errors=[{cls.__name__}])"
    return f"a detail is a {short_name(cls)}, but must be a dataclass; make it a field of one, and declare that: @service(errors=[...])"


class ReceivedError(RpcError):
    """The outcome that a trailer carries. Its details are decoded once it is to be raised: in the caller's task, since a ``__post_init__`` may do anything."""

    def __init__(self, trailer: Trailer) -> None:
        super().__init__(trailer.status, trailer.message, trailers=trailer.metadata)
        self._encoded = trailer.details

    def complete(self, codec: DetailCodec, label: str) -> None:
        """Decode the details, unless that was done before."""
        if self._encoded:
            self.details, self._encoded = codec.decode(self._encoded, label), ()
