"""The contracts that a client asks its server for, as each end of a connection keeps account of them: each service's once, and no other."""

from __future__ import annotations

from collections.abc import Mapping

from aster._contract import id_of
from aster._protocol.events import Describe, ServiceEntry
from aster._protocol.frames import decode_contract, decode_describe, encode_describe
from aster.errors import RemoteProtocolError

__all__ = ["AskedContracts", "ToldContracts"]


class AskedContracts:
    """The client's end: what it asked for and has heard."""

    def __init__(self) -> None:
        self._asked: dict[Describe, bytes] = {}
        self._forms: dict[Describe, bytes] = {}

    def question(self, entry: ServiceEntry) -> bytes:
        """The frame that asks for the contract of a service in the server's hello; nothing if it was sent before."""
        key = Describe(entry.name, entry.version)
        if key in self._asked or key in self._forms:
            return b""
        self._asked[key] = entry.contract_id
        return encode_describe(key)

    def answer(self, entry: ServiceEntry) -> bytes | None:
        """The canonical form, once it has arrived."""
        return self._forms.get(Describe(entry.name, entry.version))

    def receive(self, payload: bytes) -> None:
        """A CONTRACT has arrived.

        Raises:
            RemoteProtocolError: nobody asked, or it is not the contract whose id the hello gave.
        """
        service, version, form = decode_contract(payload)
        key = Describe(service, version)
        contract_id = self._asked.pop(key, None)
        if contract_id is None:
            raise RemoteProtocolError(f"the server sent a CONTRACT of service {service!r} version {version}, which it was not asked for")
        if id_of(form) != contract_id:
            raise RemoteProtocolError(f"the CONTRACT of service {service!r} version {version} is not the one whose id the server's HELLO gave")
        self._forms[key] = form


class ToldContracts:
    """The server's end: what a client was told. Each once, since what a client does not read is held here.

    Args:
        frames: the answers, by name and version of the service.
    """

    def __init__(self, frames: Mapping[tuple[str, int], bytes]) -> None:
        self._frames = frames
        self._told: set[Describe] = set()

    def answer(self, payload: bytes) -> bytes:
        """The frame that answers a DESCRIBE.

        Raises:
            RemoteProtocolError: there is no such service, or the client was told.
        """
        key = decode_describe(payload)
        frame = self._frames.get(key)
        if frame is None:
            raise RemoteProtocolError(f"the client asked for the contract of service {key.service!r} version {key.version}, which is not here")
        if key in self._told:
            raise RemoteProtocolError(f"the client asked twice for the contract of service {key.service!r} version {key.version}")
        self._told.add(key)
        return frame
