"""An address that never answers is never sent more than three times what came from it (RFC 9000, sections 8.1 and 9.3), whatever a peer does with it.

The hostile peer is a client of plain aioquic that hears at one address and claims to be at others as well. All of it runs on a virtual clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_version_negotiation
from cryptography.x509 import Certificate
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aster.testing.recorders import StreamRecorder
from aster.transports.base import ConnectionOptions
from aster.transports.quic import admission
from aster.transports.quic.certificates import certificate_for
from aster.trust import Identity
from tests.quic.raw import raw_configuration
from tests.quic.virtual import VirtualSocket, connected_pair

_KEY = Identity.generate()
_CHAIN = [certificate_for(_KEY)] * 20
_LIMIT = 3
_REPLY = 20_000
"""Bytes: more than three times what any step sends."""
_AWAY = (1, 2)
"""Addresses that the hostile peer claims and does not hear at; at 0 it hears."""


def _reply_at_length(stream: StreamRecorder, data: bytes) -> None:
    stream.write(bytes(_REPLY))


class _Liar:
    """A client whose datagrams leave from whatever address it is told to, beside an honest client of the same server.

    Attributes:
        sent: bytes that left from each address.
        old: every datagram of its engines so far, for steps that send one again.
    """

    def __init__(self, chain: list[Certificate]) -> None:
        self.network, self.pair, _, _ = connected_pair(ConnectionOptions(handshake_timeout=5.0), _reply_at_length)
        for name in ("_configuration", "_same_host_configuration"):
            vars(self.pair.listener)[name].certificate_chain = chain
        self.sockets: list[VirtualSocket] = [self.network.socket(peer=1) for _ in range(1 + len(_AWAY))]
        self.sent = [0] * len(self.sockets)
        self.old = [b"\xc0\x00\x00\x00\x01" + bytes(1_195)]
        self._heard = 0
        self.begin()

    def begin(self) -> None:
        """One more connection; the one before is abandoned."""
        self.engine = QuicConnection(configuration=raw_configuration(is_client=True, identity=_KEY))
        self.engine.connect(("127.0.0.1", 1), self.network.now())
        self.engine.send_stream_data(0, b"send much")

    def send(self, data: bytes, address: int) -> None:
        self.sent[address] += len(data)
        self.sockets[address].send(data)

    def speak(self, address: int) -> None:
        """All that the engine wants to send, from one address."""
        for data, _ in self.engine.datagrams_to_send(self.network.now()):
            self.old.append(data)
            self.send(data, address)

    def hear(self) -> None:
        """Take what came to the one address that is its own, and answer nothing yet."""
        arrived = self._arrived(0)
        for data in arrived[self._heard :]:
            self.engine.receive_datagram(data, ("127.0.0.1", 1), self.network.now())
        self._heard = len(arrived)

    def wait(self, seconds: float) -> None:
        self.network.run(until=self.network.now() + seconds)
        timer = self.engine.get_timer()
        if timer is not None and timer <= self.network.now():
            self.engine.handle_timer(self.network.now())

    def _arrived(self, address: int) -> list[bytes]:
        return [item[0] for item in self.sockets[address].received if not isinstance(item, OSError)]

    def check(self) -> None:
        for address in _AWAY:
            received = sum(map(len, self._arrived(address)))
            assert received <= _LIMIT * self.sent[address], f"{received} bytes for {self.sent[address]}"


_Step = Callable[[_Liar], None]
_Numbered = Callable[[_Liar, int, int], None]
_places = st.sampled_from((0, *_AWAY))


def _replay(liar: _Liar, index: int, address: int) -> None:
    liar.send(liar.old[index % len(liar.old)], address)


def _coalesce(liar: _Liar, index: int, address: int) -> None:
    liar.send(liar.old[index % len(liar.old)] + liar.old[-1], address)


def _damage(liar: _Liar, index: int, address: int) -> None:
    data = bytearray(liar.old[index % len(liar.old)])
    data[index % len(data)] ^= 1 + index % 255
    liar.send(bytes(data), address)


def _truncate(liar: _Liar, index: int, address: int) -> None:
    liar.send(liar.old[index % len(liar.old)][: 1 + index], address)


def _other_version(liar: _Liar, index: int, address: int) -> None:
    liar.send(b"\xc0\x0a\x0a\x0a\x0a" + bytes([index % 256]) + bytes(1_194 + index % 300), address)


def _negotiate(liar: _Liar, index: int, address: int) -> None:
    liar.send(encode_quic_version_negotiation(source_cid=bytes(8), destination_cid=bytes(8), supported_versions=[1] * (index % 400)), address)


_NUMBERED: tuple[_Numbered, ...] = (_replay, _coalesce, _damage, _truncate, _other_version, _negotiate)


def _say(address: int) -> _Step:
    return lambda liar: liar.speak(address)


def _pause(seconds: float) -> _Step:
    return lambda liar: liar.wait(seconds)


def _do(what: _Numbered, index: int, address: int) -> _Step:
    return lambda liar: what(liar, index, address)


_steps: st.SearchStrategy[_Step] = st.one_of(
    st.builds(_say, _places),
    st.builds(_pause, st.sampled_from((0.02, 0.5, 3.0))),
    st.sampled_from((_Liar.hear, _Liar.begin)),
    st.builds(_do, st.sampled_from(_NUMBERED), st.integers(0, 1_999), _places),
)


# A test for each of the four kinds of server, with a share of the examples: a hundred take 4 s of a processor, too much for one test on a busy machine.
@pytest.mark.parametrize("chain", [[], _CHAIN], ids=["short chain", "long chain"])
@pytest.mark.parametrize("retry_above", [admission.RETRY_ABOVE, 0], ids=["no Retry", "Retry"])
@settings(max_examples=max(1, settings().max_examples // 4))
@given(steps=st.lists(_steps, max_size=12))
# The beginning of a handshake and nothing more; its end claimed from elsewhere; its beginning as well; a request from elsewhere, later.
@example(steps=[_say(1)])
@example(steps=[_say(0), _pause(0.05), _Liar.hear, _say(1), _pause(0.05)])
@example(steps=[_say(1), _pause(0.5), _say(0), _pause(0.5), _Liar.hear, _say(1), _pause(0.05)])
@example(steps=[_say(0), _pause(0.05), _Liar.hear, _say(0), _pause(0.05), _Liar.hear, _say(1), _pause(0.05), _say(2)])
def test_who_never_answers_is_sent_at_most_three_times_what_came_from_there(steps: list[_Step], chain: list[Certificate], retry_above: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "RETRY_ABOVE", retry_above)
        liar = _Liar(chain)
        for step in [*steps, *[_pause(4.0)] * 3]:
            step(liar)
            liar.check()
        honest = liar.pair.open()
        honest.write(b"still there?")
        liar.network.run(condition=lambda: len(honest.data) == _REPLY)


def _counted(liar: _Liar) -> dict[str, int]:
    """How many connections count for each address of the liar's."""
    connected: Counter[bytes] = vars(liar.pair.listener)["_admission"]._connected
    return {host: connected[ip_address(host).packed] for host in map(_host, liar.sockets) if ip_address(host).packed in connected}


def _host(sock: VirtualSocket) -> str:
    return f"127.0.0.{vars(sock)['_port']}"


@pytest.mark.parametrize(("began", "ended"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_connection_counts_for_no_address_but_one_that_its_handshake_proved(monkeypatch: pytest.MonkeyPatch, began: int, ended: int) -> None:
    """Else a peer could use up the connections of a stranger's address, and have as many as it likes itself."""
    receive = VirtualSocket.recvfrom

    def from_many_hosts(self: VirtualSocket, size: int) -> tuple[bytes, tuple[str, int]]:
        data, (_, port) = receive(self, size)
        return data, (f"127.0.0.{port}", port)

    monkeypatch.setattr(VirtualSocket, "recvfrom", from_many_hosts)
    liar = _Liar([])
    liar.speak(began)
    liar.wait(0.5)
    liar.speak(0)  # so that the answers come to where it hears
    liar.wait(0.05)
    liar.hear()
    liar.speak(ended)
    liar.wait(0.05)
    assert len(liar.pair.accepted) == 2, "the handshake ended well"
    assert _counted(liar) == ({_host(liar.sockets[0]): 1} if began == ended == 0 else {})


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_client_whose_packets_are_overtaken_by_copies_from_elsewhere_is_served(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Somebody on the way is faster with a copy of some packets, those of the handshake among them; what the server sends there is lost."""
    sent, strangers, send = 0, list[VirtualSocket](), VirtualSocket.send

    def overtaken(self: VirtualSocket, data: bytes) -> None:
        nonlocal sent
        sent += 1
        if sent % every == 0:
            if not strangers:
                strangers.append(vars(self)["_network"].socket(peer=1))
            strangers[0].sendto(data, ("127.0.0.1", 1))
        send(self, data)

    monkeypatch.setattr(VirtualSocket, "send", overtaken)
    network, pair, _, _ = connected_pair(ConnectionOptions(), _reply_at_length)
    for _ in range(3):
        stream = pair.open()
        stream.write(b"x")
        network.run(condition=lambda stream=stream: len(stream.data) >= _REPLY)
    assert sent > 30
    assert strangers[0].received, "the server was misled at times"
    assert pair.client.lost is None
    assert len(pair.accepted) == 1


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("again", [False, True], ids=["once", "every third packet"])
def test_a_client_whose_address_changes_while_it_shakes_hands_is_served(monkeypatch: pytest.MonkeyPatch, first: int, again: bool) -> None:
    """As behind a router that forgets; what comes to an old address is lost."""
    sent, latest, send, hear = 0, list[VirtualSocket](), VirtualSocket.send, VirtualSocket.deliver

    def translate(self: VirtualSocket, data: bytes) -> None:
        nonlocal sent
        if sent == first or (again and sent > first and (sent - first) % 3 == 0):
            public: VirtualSocket = vars(self)["_network"].socket(peer=1)

            def deliver(item: tuple[bytes, int] | OSError) -> None:
                if public is latest[-1]:
                    hear(self, item)

            monkeypatch.setattr(self, "deliver", list[object]().append)
            monkeypatch.setattr(public, "deliver", deliver)
            latest.append(public)
        sent += 1
        send(latest[-1] if latest else self, data)

    monkeypatch.setattr(VirtualSocket, "send", translate)
    network, pair, _, _ = connected_pair(ConnectionOptions(), _reply_at_length)
    stream = pair.open()
    stream.write(b"x")
    network.run(until=network.now() + 5.0)
    assert len(stream.data) == _REPLY
    assert latest, "the address never changed"
    assert pair.client.lost is None
    assert len(pair.accepted) == 1
