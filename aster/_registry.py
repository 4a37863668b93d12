"""The services that a server hosts: checked once, found for every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aster._contract import contract_of, encode_form, id_of
from aster._declarations import check_implementation, class_of, handler_of, service_info, unbound_handler
from aster._details import DetailCodec
from aster._gate import Gate
from aster._hosted import HostedMethod
from aster._incoming_session import HostedSession
from aster._protocol.events import Description, Header, MethodEntry, ServiceEntry
from aster._protocol.frames import encode_contract
from aster.codec import Codec, make_codec
from aster.errors import RpcError, StatusCode
from aster.interceptors import Interceptor, checked_interceptors
from aster.types import MethodInfo, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["HostedServices"]

_Key = tuple[str, SerializationMode]


class HostedServices:
    """Services by name and version, with a prepared handler for each method and mode. ``interceptors``: the server's.

    Args:
        services: the instances.
        authorizes: whether the server grants anybody anything.

    Raises:
        TypeError: something given is not an instance of a service, or not the class of a session-scoped one, or an override does not fit its declaration.
        ValueError: two services share name and version, or one requires what nobody is granted, or has a contract above the limit.
    """

    def __init__(self, services: Iterable[object], interceptors: Sequence[Interceptor] = (), *, authorizes: bool) -> None:
        if not isinstance(services, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
            raise TypeError(f"services takes a list of instances, not {type(services).__name__}: write services=[...] around it")
        self._hosted: dict[tuple[str, int], _HostedService] = {}
        made: dict[type, Interceptor] = {}
        for given in services:
            hosted = _HostedService(given, interceptors, made)
            key = hosted.info.name, hosted.info.version
            if key in self._hosted:
                raise ValueError(
                    f"two services are named {key[0]!r} with version {key[1]}: {self._hosted[key].class_name} and {hosted.class_name}; "
                    "give one of them another name or version"
                )
            if not authorizes:
                _refuse_uncallable(hosted.info)
            self._hosted[key] = hosted
        if not self._hosted:
            raise ValueError("services is empty: a server needs at least one service to serve")

    @property
    def instances(self) -> list[object]:
        """The instances that were given, in order; those of sessions are made later."""
        return [hosted.given for hosted in self._hosted.values() if hosted.session is None]

    def find(self, header: Header) -> HostedMethod:
        """The method that a call is for.

        Raises:
            RpcError: UNIMPLEMENTED, the service, its version, the method or the mode is not here; FAILED_PRECONDITION, the client takes it for another pattern,
                or calls it without a session.
        """
        service, version, method, pattern, mode = header.target
        hosted = self._service(service, version)
        if hosted.session is not None:
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"service {service!r} is called in sessions here: open one with client.session({hosted.class_name})")
        return hosted.find(method, pattern, mode)

    def find_session(self, service: str, version: int) -> HostedSession:
        """The service that a session is to be opened of.

        Raises:
            RpcError: UNIMPLEMENTED, the service or its version is not here; FAILED_PRECONDITION, it has no sessions.
        """
        hosted = self._service(service, version)
        if hosted.session is None:
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"service {service!r} has no sessions here: use client.client({hosted.class_name})")
        return hosted.session

    def _service(self, name: str, version: int) -> _HostedService:
        hosted = self._hosted.get((name, version))
        if hosted is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, self._missing(name, version))
        return hosted

    def _missing(self, service: str, version: int) -> str:
        versions = sorted(known for name, known in self._hosted if name == service)
        if versions:
            return f"service {service!r} has no version {version} here; it has {', '.join(map(str, versions))}: update the older side, or serve both versions"
        names = ", ".join(f"{name!r} (version {known})" for name, known in self._hosted)
        return f"there is no service {service!r} here; this server has {names}: serve it too, or correct the name"

    def contract_frames(self) -> Mapping[tuple[str, int], bytes]:
        """What answers a client that asks for the contract of a service."""
        return {key: encode_contract(Description(*key, hosted.contract)) for key, hosted in self._hosted.items()}

    def manifest(self) -> list[ServiceEntry]:
        """What the hello tells clients."""
        return [hosted.entry() for hosted in self._hosted.values()]


class _HostedService:
    """One of the services that were given: an instance, or what makes one for each session."""

    def __init__(self, given: Any, interceptors: Sequence[Interceptor], made: dict[type, Interceptor]) -> None:
        self.info = service_info(given)
        check_implementation(given)
        self.given = given
        limit = self.info.max_concurrent_streams
        kind = "sessions" if self.info.scoped == "stream" else "calls"
        gate = None if limit is None else Gate(limit, f"service {self.info.name!r}", kind)
        self.session = HostedSession(self.info, gate, given, self.find) if self.info.scoped == "stream" else None
        self._gate = gate if self.session is None else None
        self.class_name = class_of(given).__name__
        self._interceptors = (*interceptors, *checked_interceptors(self.info.interceptors, made))
        self.contract = encode_form(contract_of(self.info))
        codecs = {mode: make_codec(mode, self.info.wire_tags) for mode in _modes(self.info)}
        details = {mode: DetailCodec(codec, self.info.wire_tags) for mode, codec in codecs.items()}
        self._methods: dict[_Key, HostedMethod] = {}
        for method in self.info.methods.values():
            for mode in method.modes:
                self._methods[method.name, mode] = self._prepare(method, codecs[mode], details[mode])

    def _prepare(self, method: MethodInfo, codec: Codec, details: DetailCodec) -> HostedMethod:
        handler = handler_of(self.given, method.name) if self.session is None else unbound_handler(self.given, method.name)
        return HostedMethod(
            self.info,
            method,
            handler,
            codec.decoder(method.request_type, is_request=True),
            codec.encoder(method.response_type),
            details,
            self._interceptors,
            self._gate,
        )

    def find(self, name: str, pattern: RpcPattern, mode: SerializationMode) -> HostedMethod:
        hosted = self._methods.get((name, mode))
        if hosted is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, self._missing(name, mode))
        if hosted.info.pattern is not pattern:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"{hosted.label} has the pattern {hosted.info.pattern.name} here, the client takes it for {pattern.name}: "
                "the two have different versions of the service: update the older side",
            )
        return hosted

    def _missing(self, name: str, mode: SerializationMode) -> str:
        where = f"service {self.info.name!r} version {self.info.version}"
        method = self.info.methods.get(name)
        if method is None:
            return f"{where} has no method {name!r}; it has {', '.join(self.info.methods)}: update the server, or correct the name"
        allowed = ", ".join(mode.name for mode in method.modes)
        return f"{where} does not allow the serialization mode {mode.name} for {name!r}; it allows {allowed}: call in one of those, or allow it there"

    def entry(self) -> ServiceEntry:
        methods = tuple(MethodEntry(method.name, method.pattern, frozenset(method.modes)) for method in self.info.methods.values())
        return ServiceEntry(self.info.name, self.info.version, self.session is not None, id_of(self.contract), methods)


def _modes(info: ServiceInfo) -> set[SerializationMode]:
    return {mode for method in info.methods.values() for mode in method.modes}


def _refuse_uncallable(info: ServiceInfo) -> None:
    """Where nobody is granted anything, nobody could call what requires something: more likely a policy was forgotten."""
    service = f"service {info.name!r}"
    asking = [service] if info.requires is not None else []
    asking += [f"method {method.name!r} of {service}" for method in info.methods.values() if method.requires is not None]
    if asking:
        raise ValueError(
            f"{asking[0]} uses requires, and this server has no authorize, so that nobody could call it: pass authorize= with what each endpoint id holds, "
            "or authorize={} to shut it on purpose"
        )
