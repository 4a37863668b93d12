"""A method as a server runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aster._call import Decode, Encode
from aster._details import DetailCodec
from aster._gate import Gate
from aster.codec import RowDecoder, RowEncoder
from aster.interceptors import Interceptor
from aster.types import CapabilityRequirement, MethodInfo, ServiceInfo

__all__ = ["HostedMethod"]


@dataclass(frozen=True, slots=True)
class HostedMethod:
    """A method as a server runs it."""

    service: ServiceInfo
    info: MethodInfo
    handler: Callable[[Any], Any]
    decode: Decode
    encode: Encode
    details: DetailCodec
    interceptors: tuple[Interceptor, ...] = ()
    """The server's, and then the service's."""
    gate: Gate | None = None
    """What lets calls in, a number of them at a time; ``None`` also for those of a session, which has passed it as a whole."""
    sent: Callable[[], None] | None = None
    """To be called once a response is on its way."""
    label: str = field(init=False)
    """How messages to people, and the tasks of its calls, name it."""
    requires: tuple[CapabilityRequirement, ...] = field(init=False)
    """What a caller must hold, all of it: what the service asks, and what the method does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.service.name}.{self.info.name}")
        object.__setattr__(self, "requires", tuple(each for each in (self.service.requires, self.info.requires) if each is not None))

    def for_one_call(self) -> HostedMethod:
        """The same for the messages of one call: of a stream of rows the first alone has the schema with it."""
        if not isinstance(self.decode, RowDecoder):
            return self
        method = self
        if self.info.pattern.streams_requests:
            method = replace(method, decode=self.decode.for_stream())
        if isinstance(self.encode, RowEncoder) and self.info.pattern.streams_responses:
            encode = self.encode.for_stream()
            method = replace(method, encode=encode, sent=encode.sent)
        return method
