"""The services that a server hosts: checked once, found for every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aster._contract import contract_of, encode_form, id_of
from aster._declarations import check_implementation, handler_of, service_info
from aster._incoming import HostedMethod
from aster._protocol.events import Description, Header, MethodEntry, ServiceEntry
from aster._protocol.frames import encode_contract
from aster.codec import Codec, make_codec
from aster.errors import RpcError, StatusCode
from aster.types import MethodInfo, RpcPattern, SerializationMode, ServiceInfo

__all__ = ["HostedServices"]

_Key = tuple[str, SerializationMode]


class HostedServices:
    """Instances by service name and version, with a prepared handler for each method and mode.

    Raises:
        TypeError: something given is not an instance of a service, or an override does not fit its declaration.
        ValueError: two services share name and version, one uses an option that nothing would enforce yet, or has a contract above the limit.
    """

    def __init__(self, services: Iterable[object]) -> None:
        if not isinstance(services, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
            raise TypeError(f"services takes a list of instances, not {type(services).__name__}: write services=[...] around it")
        self._hosted: dict[tuple[str, int], _HostedService] = {}
        for instance in services:
            hosted = _HostedService(instance)
            key = hosted.info.name, hosted.info.version
            if key in self._hosted:
                raise ValueError(
                    f"two services are named {key[0]!r} with version {key[1]}: {type(self._hosted[key].instance).__name__} and {type(instance).__name__}; "
                    "give one of them another name or version"
                )
            self._hosted[key] = hosted
        if not self._hosted:
            raise ValueError("services is empty: a server needs at least one service to serve")

    @property
    def instances(self) -> list[object]:
        """What was given, in order."""
        return [hosted.instance for hosted in self._hosted.values()]

    def find(self, header: Header) -> HostedMethod:
        """The method that a call is for.

        Raises:
            RpcError: UNIMPLEMENTED, the service, its version, the method or the mode is not here; FAILED_PRECONDITION, the client takes it for another pattern.
        """
        service, version, method, pattern, mode = header.target
        hosted = self._hosted.get((service, version))
        if hosted is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, self._missing(service, version))
        return hosted.find(method, pattern, mode)

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
    def __init__(self, instance: object) -> None:
        self.info = service_info(instance)
        # First, whatever the form: a session is given as its class, and must hear that there are none yet rather than be told to give an instance.
        _refuse_unenforced(self.info)
        self.instance = instance
        check_implementation(instance)
        self.contract = encode_form(contract_of(self.info))
        codecs = {mode: make_codec(mode, self.info.wire_tags) for mode in _modes(self.info)}
        self._methods: dict[_Key, HostedMethod] = {}
        for method in self.info.methods.values():
            for mode in method.modes:
                self._methods[method.name, mode] = self._prepare(method, codecs[mode])

    def _prepare(self, method: MethodInfo, codec: Codec) -> HostedMethod:
        handler = handler_of(self.instance, method.name)
        return HostedMethod(self.info, method, handler, codec.decoder(method.request_type), codec.encoder(method.response_type))

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
        return ServiceEntry(self.info.name, self.info.version, self.info.scoped == "stream", id_of(self.contract), methods)


def _modes(info: ServiceInfo) -> set[SerializationMode]:
    return {mode for method in info.methods.values() for mode in method.modes}


def _refuse_unenforced(info: ServiceInfo) -> None:
    """Serve nothing that asks for a protection or a scope which this version would silently not give."""
    service = f"service {info.name!r}"
    unenforced = [
        (service, 'scoped="stream"', info.scoped == "stream"),
        (service, "interceptors", bool(info.interceptors)),
        (service, "max_concurrent_streams", info.max_concurrent_streams is not None),
        (service, "requires", info.requires is not None),
        (service, "SerializationMode.ROW", SerializationMode.ROW in info.modes),
    ]
    for method in info.methods.values():
        where = f"method {method.name!r} of {service}"
        unenforced += [(where, "requires", method.requires is not None), (where, "SerializationMode.ROW", SerializationMode.ROW in method.modes)]
    for where, option, used in unenforced:
        if used:
            raise ValueError(
                f"{where} uses {option}, which this version of Aster does not carry out yet; "
                "it is refused rather than served without it. Remove the option to serve it"
            )
