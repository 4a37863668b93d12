"""The public values that the rest of Aster is written in: frozen, free of I/O, and at the bottom of the import order."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

__all__ = [
    "CallContext",
    "CapabilityRequirement",
    "Metadata",
    "MetadataLike",
    "MetadataValue",
    "MethodInfo",
    "Peer",
    "RpcPattern",
    "SerializationMode",
    "ServiceInfo",
    "all_of",
    "any_of",
    "role",
]

MetadataValue: TypeAlias = str | bytes
MetadataLike: TypeAlias = "Metadata | Mapping[str, MetadataValue] | Iterable[tuple[str, MetadataValue]]"

_METADATA_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_RESERVED_PREFIX = "aster-"


class SerializationMode(IntEnum):
    """How messages become bytes. The number is the one on the wire."""

    XLANG = 1
    """Apache Fory's cross-language format, types named by their ``@wire_type`` tags. The default."""
    NATIVE = 2
    """Apache Fory's Python format; needs no tags."""
    ROW = 3
    """A row format whose fields are read without decoding the rest."""


class RpcPattern(IntEnum):
    """Which sides of a call are streams. The number is the one on the wire."""

    UNARY = 1
    SERVER_STREAM = 2
    CLIENT_STREAM = 3
    BIDI_STREAM = 4

    @property
    def streams_requests(self) -> bool:
        """Whether the client sends any number of messages rather than exactly one."""
        return self in (RpcPattern.CLIENT_STREAM, RpcPattern.BIDI_STREAM)

    @property
    def streams_responses(self) -> bool:
        """Whether the server sends any number of messages rather than exactly one."""
        return self in (RpcPattern.SERVER_STREAM, RpcPattern.BIDI_STREAM)


@dataclass(frozen=True, slots=True)
class CapabilityRequirement:
    """What a caller must hold: one role, any of several, or all of them. Make one with ``role``, ``any_of`` or ``all_of``.

    Attributes:
        kind: how many of the roles.
        roles: names of roles or capabilities, which mean what the server's ``authorize=`` makes of them; upper and lower case differ.

    Raises:
        TypeError: ``roles`` is not a tuple of ``str``.
        ValueError: the kind is unknown, a role is empty, or their number does not fit the kind.
    """

    kind: Literal["role", "any_of", "all_of"]
    roles: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("role", "any_of", "all_of"):
            raise ValueError(f"a requirement is of the kind 'role', 'any_of' or 'all_of', not {self.kind!r}")
        if not isinstance(self.roles, tuple) or not all(isinstance(role, str) for role in self.roles):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise TypeError(f"the roles of a requirement must be a tuple of str, as role('admin') and any_of('admin', 'auditor') make it, not {self.roles!r}")
        if "" in self.roles:
            raise ValueError(f"a requirement of kind {self.kind!r} has an empty role, which nobody can hold: name it")
        if not self.roles:
            raise ValueError(f"a requirement of kind {self.kind!r} needs at least one role")
        if self.kind == "role" and len(self.roles) != 1:
            raise ValueError(f"a requirement of kind 'role' takes exactly one role, not {len(self.roles)}")

    def is_met_by(self, capabilities: Collection[str]) -> bool:
        """Whether a caller that holds ``capabilities`` holds enough."""
        held = (role in capabilities for role in self.roles)
        return any(held) if self.kind == "any_of" else all(held)

    def __str__(self) -> str:
        # The name itself, where a role is a member of an Enum.
        names = ", ".join(map(str.__repr__, self.roles))
        return f"the role {names}" if self.kind == "role" else f"{'one' if self.kind == 'any_of' else 'all'} of the roles {names}"


def role(name: str, /) -> CapabilityRequirement:
    """Require one role or capability.

    Raises:
        TypeError: ``name`` is no ``str``.
        ValueError: it is empty.
    """
    return CapabilityRequirement("role", (name,))


def any_of(*names: str) -> CapabilityRequirement:
    """Require at least one of several roles or capabilities.

    Raises:
        TypeError: one of ``names`` is no ``str``.
        ValueError: there is none, or one is empty.
    """
    return CapabilityRequirement("any_of", names)


def all_of(*names: str) -> CapabilityRequirement:
    """Require several roles or capabilities together.

    Raises:
        TypeError: one of ``names`` is no ``str``.
        ValueError: there is none, or one is empty.
    """
    return CapabilityRequirement("all_of", names)


class Metadata:
    """An immutable, ordered multimap of call metadata: the same key may occur more than once.

    Built from a mapping, from ``(key, value)`` pairs, or from another ``Metadata``. A key is 1 to 128 characters of ``a-z 0-9 . _ -`` beginning with a letter
    or digit (upper case is folded); a value is a ``str`` of any Unicode text, or ``bytes``. Keys that begin with ``aster-`` are the framework's own.

    Raises:
        TypeError: something is not a pair, a key is not a ``str``, or a value is neither ``str`` nor ``bytes``.
        ValueError: a key is malformed or reserved, or a text value holds a lone surrogate.
    """

    __slots__ = ("_items",)

    def __init__(self, items: MetadataLike = ()) -> None:
        if isinstance(items, Metadata):
            self._items: tuple[tuple[str, MetadataValue], ...] = items._items
            return
        self._items = tuple(_metadata_pair(key, value) for key, value in _pairs(items))

    def get(self, key: str, default: MetadataValue | None = None) -> MetadataValue | None:
        """The first value of ``key``, or ``default``."""
        key = key.lower()
        return next((value for name, value in self._items if name == key), default)

    def get_all(self, key: str) -> list[MetadataValue]:
        """All values of ``key``, in the order in which they were given."""
        key = key.lower()
        return [value for name, value in self._items if name == key]

    def __iter__(self) -> Iterator[tuple[str, MetadataValue]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(name == key.lower() for name, _ in self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Metadata) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Metadata({list(self._items)!r})"


def _pairs(items: object) -> Iterator[tuple[object, object]]:
    if isinstance(items, Mapping):
        yield from cast("Mapping[object, object]", items).items()
        return
    if not isinstance(items, Iterable):
        raise TypeError(f"metadata must be a mapping or an iterable of (key, value) pairs, not {type(items).__name__}")
    for pair in cast("Iterable[object]", items):
        if not isinstance(pair, tuple) or len(cast("tuple[object, ...]", pair)) != 2:
            raise TypeError(f"metadata must be a mapping or consist of (key, value) pairs; {pair!r} is no pair")
        yield cast("tuple[object, object]", pair)


def _metadata_pair(key: object, value: object) -> tuple[str, MetadataValue]:
    if not isinstance(key, str):
        raise TypeError(f"a metadata key must be a str, not {type(key).__name__}")
    name = key.lower()
    if not _METADATA_KEY.fullmatch(name):
        raise ValueError(f"metadata key {key!r} is malformed: use 1 to 128 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
    if name.startswith(_RESERVED_PREFIX):
        raise ValueError(f"metadata key {key!r} is reserved: keys that begin with {_RESERVED_PREFIX!r} belong to Aster")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ValueError(f"the value of metadata key {key!r} holds a lone surrogate; send such data as bytes") from exc
    elif not isinstance(value, bytes):
        raise TypeError(f"the value of metadata key {key!r} must be a str or bytes, not {type(value).__name__}")
    return name, value


_NO_METADATA = Metadata()


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, as its handshake proved it.

    Attributes:
        endpoint_id: its Ed25519 public key, 64 lower-case hex digits.
        address: where its packets came from when it connected, ``host:port``; informative only, since an endpoint may move.
    """

    endpoint_id: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One method of a service, as its decorator and its signature declare it.

    Attributes:
        name: its name in Python and on the wire.
        pattern: which sides are streams.
        request_type: the dataclass of each request.
        response_type: the dataclass of each response.
        timeout: the default time limit of a call in seconds; ``None`` for no limit.
        idempotent: whether a client may retry it.
        modes: the serialization modes it allows, the preferred one first.
        requires: what a caller must hold, besides what the service asks.
    """

    name: str
    pattern: RpcPattern
    request_type: type
    response_type: type
    timeout: float | None = None
    idempotent: bool = False
    modes: tuple[SerializationMode, ...] = (SerializationMode.XLANG,)
    requires: CapabilityRequirement | None = None


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """One service, as ``@service`` read it from its class.

    Attributes:
        name: its name on the wire.
        version: distinct versions are separate services.
        modes: the serialization modes of methods that do not name their own.
        scoped: ``"shared"`` for one instance a server, ``"stream"`` for one a session.
        interceptors: classes that wrap each call.
        max_concurrent_streams: the most calls at a time over all connections; ``None`` for no limit of its own.
        requires: what a caller of any method must hold.
        methods: by name, in the order of their definition.
        wire_tags: the tag of each type that the service sends or receives, those of its errors among them.
        errors: the types that it declares for the details of its errors.
    """

    name: str
    version: int = 1
    modes: tuple[SerializationMode, ...] = (SerializationMode.XLANG,)
    scoped: Literal["shared", "stream"] = "shared"
    interceptors: tuple[type, ...] = ()
    max_concurrent_streams: int | None = None
    requires: CapabilityRequirement | None = None
    methods: Mapping[str, MethodInfo] = field(default_factory=lambda: MappingProxyType({}))
    wire_tags: Mapping[type, str] = field(default_factory=lambda: MappingProxyType({}))
    errors: tuple[type, ...] = ()


class CallContext:
    """The call that a handler is serving, from ``aster.current_call()``.

    Attributes:
        peer: who calls.
        service: the service's name; ``version`` its version; ``method`` the method's name.
        deadline: when the call expires on the clock of ``anyio.current_time()``, in seconds; ``math.inf`` without a deadline.
        metadata: what the caller sent.
        capabilities: what the server's ``authorize=`` granted the caller when it connected; empty without that.
    """

    __slots__ = ("_send_metadata", "_trailers", "capabilities", "deadline", "metadata", "method", "peer", "service", "version")

    def __init__(
        self,
        *,
        peer: Peer,
        service: str,
        version: int,
        method: str,
        deadline: float,
        metadata: Metadata,
        send_metadata: Callable[[Metadata], None],
        capabilities: frozenset[str] = frozenset(),
    ) -> None:
        self.peer = peer
        self.service = service
        self.version = version
        self.method = method
        self.deadline = deadline
        self.metadata = metadata
        self.capabilities = capabilities
        self._send_metadata = send_metadata
        self._trailers: list[tuple[str, MetadataValue]] = []

    def send_metadata(self, metadata: MetadataLike) -> None:
        """Send metadata ahead of the first response. Never blocks.

        Raises:
            RuntimeError: metadata or a response was sent already.
            ValueError: it is above the client's metadata limit. It is an RpcError as well: uncaught it fails the call with RESOURCE_EXHAUSTED.
        """
        self._send_metadata(Metadata(metadata))

    def add_trailer(self, key: str, value: MetadataValue) -> None:
        """Add one pair to the metadata that follows the last response, on success and on failure alike.

        Raises:
            TypeError, ValueError: as ``Metadata`` does.
        """
        self._trailers.append(_metadata_pair(key, value))

    @property
    def trailers(self) -> Metadata:
        """What ``add_trailer`` has gathered so far."""
        return Metadata(self._trailers) if self._trailers else _NO_METADATA
