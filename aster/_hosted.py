"""A method as a server runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aster._call import Decode, Encode, of_one_call
from aster._details import DetailCodec
from aster._gate import Gate
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
        """The same for the messages of one call."""
        changes = of_one_call(self.encode, self.decode, self.info.pattern, is_client=False)
        return replace(self, **changes) if changes else self
