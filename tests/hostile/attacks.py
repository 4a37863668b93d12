"""What hostile peers do to a server, each as a task that goes on until it is cancelled."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_version_negotiation

from aster._protocol.frames import CHUNK_SIZE, FrameKind, encode_frame, encode_message, encode_varint
from aster.trust import Identity
from tests.hostile.peers import Closed, Intruder, Target
from tests.quic.raw import frame_of, packet_of, raw_configuration
from tests.rpc.echo import Item, encode_item
from tests.rpc.raw import END, HELLO, header_of

__all__ = ["ATTACKS"]

Attack = Callable[[Target], Coroutine[Any, Any, None]]

ATTACKS: dict[str, Attack] = {}
"""By name."""

_BURST = 16
"""Blows between two looks at what comes back: more would mostly be dropped by the sockets' buffers."""

_ENDLESS = encode_message(encode_item(Item(1 << 40)))
"""A request for a stream of responses without end."""


def _attack(function: Attack) -> Attack:
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


def _by_a_client(function: Callable[[Intruder], Coroutine[Any, Any, None]]) -> None:
    """An attack of a client that the server has let in; as often as the server throws it out, it comes again."""

    async def again_and_again(target: Target) -> None:
        while True:
            with contextlib.suppress(Closed), Intruder(target) as peer:
                await peer.shake_hands()
                await function(peer)

    again_and_again.__name__ = function.__name__
    _attack(again_and_again)


async def _flood(target: Target, *datagrams: Callable[[], bytes], most: float = math.inf) -> None:
    """Datagrams of several kinds in turns."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for number, make in enumerate(itertools.cycle(datagrams)):
            if number >= most:
                await anyio.sleep_forever()
            with contextlib.suppress(OSError):
                sock.sendto(make(), target.place)
                target.blows += 1
            if number % _BURST == 0:
                await anyio.lowlevel.checkpoint()


# Who has no connection


@_attack
async def garbage(target: Target) -> None:
    chance = random.Random(1)
    await _flood(
        target,
        lambda: chance.randbytes(chance.randrange(1_500)),
        lambda: bytes([0xC0 | chance.randrange(64), 0, 0, 0, 1, 8]) + chance.randbytes(chance.randrange(1_400)),
        lambda: b"",
    )


@_attack
async def other_versions(target: Target) -> None:
    chance = random.Random(2)
    await _flood(
        target,
        lambda: bytes([0xC0]) + chance.randbytes(4) + b"\x08" + chance.randbytes(1_200),
        lambda: encode_quic_version_negotiation(source_cid=chance.randbytes(8), destination_cid=chance.randbytes(8), supported_versions=[1] * 300),
    )


@_attack
async def first_packets_that_hold_nothing(target: Target) -> None:
    """They look like the beginning of a handshake, and nothing can be decrypted."""
    chance = random.Random(3)
    await _flood(target, lambda: b"\xc0\x00\x00\x00\x01\x08" + chance.randbytes(8) + b"\x00\x00\x44\x90" + chance.randbytes(1_182), most=target.most_handshakes)


def _first_datagram(target: Target, configuration: QuicConfiguration) -> bytes:
    engine = QuicConnection(configuration=configuration)
    engine.connect(target.place, anyio.current_time())
    return engine.datagrams_to_send(anyio.current_time())[0][0]


@_attack
async def handshakes_held_open(target: Target) -> None:
    configuration = raw_configuration(is_client=True, identity=Identity.generate())
    await _flood(target, lambda: _first_datagram(target, configuration), most=target.most_handshakes)


@_attack
async def handshakes_without_a_certificate(target: Target) -> None:
    while True:
        with contextlib.suppress(Closed), Intruder(target, certificate=None, private_key=None) as peer:
            target.blows += 1
            await peer.shake_hands()


@_attack
async def connections_that_come_and_go(target: Target) -> None:
    while True:
        with contextlib.suppress(Closed), Intruder(target) as peer:
            await peer.shake_hands()
            target.blows += 1
            peer.engine.close()
            peer.flush()


# Packets of a connection


@_attack
async def packets_replayed_and_damaged(target: Target) -> None:
    """Those of a connection that lives, from its own address and from others."""
    chance = random.Random(4)
    with ExitStack() as stack:
        elsewhere = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(8)]
        while True:
            with contextlib.suppress(Closed), Intruder(target) as peer:
                await peer.shake_hands()
                old = [packet_of(peer.engine, frame_of(1)) for _ in range(20)]
                while True:
                    for _ in range(_BURST):
                        data = bytearray(chance.choice(old))
                        if chance.random() < 0.5:
                            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                        with contextlib.suppress(OSError):
                            chance.choice([peer.socket, *elsewhere]).sendto(data[: chance.choice([len(data), chance.randrange(len(data))])], target.place)
                        target.blows += 1
                    peer.engine.send_ping(1)
                    await peer.step()


@_attack
async def an_address_that_changes_with_each_packet(target: Target) -> None:
    with ExitStack() as stack:
        elsewhere = itertools.cycle([stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(100)])
        while True:
            with contextlib.suppress(Closed), Intruder(target) as peer:
                await peer.shake_hands()
                while True:
                    for _ in range(_BURST):
                        next(elsewhere).sendto(packet_of(peer.engine, frame_of(1)), target.place)
                        target.blows += 1
                    await peer.step()


async def _send_frames(peer: Intruder, frames: Callable[[int], bytes], *, skip: int = 0) -> None:
    """Packets with frames that the engine would not send, ``skip`` packet numbers apart."""
    for number in itertools.count():
        with contextlib.suppress(OSError):
            peer.socket.sendto(packet_of(peer.engine, frames(number)), peer.target.place)
        vars(peer.engine)["_packet_number"] += skip
        peer.target.blows += 1
        if number % _BURST == 0:
            await peer.step()


@_by_a_client
async def pings(peer: Intruder) -> None:
    await _send_frames(peer, lambda number: frame_of(1) * 1_000)


@_by_a_client
async def packets_whose_numbers_have_gaps(peer: Intruder) -> None:
    await _send_frames(peer, lambda number: frame_of(1), skip=1)


@_by_a_client
async def challenges_of_the_path(peer: Intruder) -> None:
    await _send_frames(peer, lambda number: frame_of(0x1A, bytes(8)) * 100)


@_by_a_client
async def connection_ids_issued_and_withdrawn(peer: Intruder) -> None:
    await _send_frames(peer, lambda number: frame_of(0x18, number + 8, number + 8, b"\x08", number.to_bytes(8), bytes(16)))


@_by_a_client
async def connection_ids_retired(peer: Intruder) -> None:
    await _send_frames(peer, lambda number: frame_of(0x19, number + 1))


@_by_a_client
async def data_with_a_gap_after_every_byte(peer: Intruder) -> None:
    stream_id = peer.open(header_of("total"))
    await _send_frames(peer, lambda number: b"".join(frame_of(0xE, stream_id, 1_000 + (200 * number + 2 * piece) % 1_000_000, 1, b"x") for piece in range(100)))


@_by_a_client
async def limits_of_every_kind(peer: Intruder) -> None:
    """MAX_DATA, MAX_STREAM_DATA, MAX_STREAMS, and news of being blocked."""
    await _send_frames(peer, lambda number: (frame_of(0x10, number) + frame_of(0x11, 0, number) + frame_of(0x12, number) + frame_of(0x14, number)) * 20)


@_by_a_client
async def keys_renewed_all_the_time(peer: Intruder) -> None:
    while True:
        peer.engine.request_key_update()
        peer.engine.send_ping(1)
        peer.target.blows += 1
        await peer.step()


# Calls


async def _open_calls(peer: Intruder, data: bytes, *, then: Callable[[int], object] = lambda stream_id: None) -> None:
    """Calls that begin alike, as many as the server takes at any time."""
    while True:
        for _ in range(_BURST):
            if peer.may_open:
                then(peer.open(data))
                peer.target.blows += 1
        await peer.step()


@_by_a_client
async def streams_opened_and_reset(peer: Intruder) -> None:
    await _open_calls(peer, b"\x10", then=lambda stream_id: peer.engine.reset_stream(stream_id, 7))


@_by_a_client
async def calls_begun_and_reset(peer: Intruder) -> None:
    """The header leaves before the reset, so that handlers begin."""

    def reset(stream_id: int) -> None:
        peer.flush()
        peer.engine.reset_stream(stream_id, 1)

    await _open_calls(peer, header_of("chat"), then=reset)


@_by_a_client
async def streams_opened_and_nothing_more(peer: Intruder) -> None:
    await _open_calls(peer, b"\x10")


@_by_a_client
async def headers_and_nothing_more(peer: Intruder) -> None:
    await _open_calls(peer, header_of("chat"))


@_by_a_client
async def requests_of_nonsense(peer: Intruder) -> None:
    await _open_calls(peer, header_of("same") + encode_message(bytes(range(200))) + END)


@_by_a_client
async def frames_of_nonsense(peer: Intruder) -> None:
    chance = random.Random(5)
    while True:
        for _ in range(_BURST):
            if peer.may_open:
                peer.open(chance.choice([b"", header_of("chat")]) + chance.randbytes(200))
                peer.target.blows += 1
        await peer.step()


@_by_a_client
async def one_byte_at_a_time(peer: Intruder) -> None:
    """A hundred calls at once; real time between the bytes, since slowness is the attack."""
    streams = [peer.open(b"") for _ in range(100)]
    for byte in itertools.chain(header_of("total"), itertools.cycle(encode_frame(FrameKind.PART, b"x"))):
        for stream_id in streams:
            try:
                peer.engine.send_stream_data(stream_id, bytes([byte]))
            except RuntimeError:  # the server has had enough of this call
                return
            peer.target.blows += 1
        await peer.step(0.05)


@_by_a_client
async def requests_beyond_all_credit(peer: Intruder) -> None:
    while True:
        while not peer.may_open:
            await peer.step()
        stream_id = peer.open(header_of("total") + encode_message(bytes(CHUNK_SIZE)) * 64)
        peer.target.blows += 1
        while peer.unsent(stream_id):
            await peer.step()


@_by_a_client
async def responses_never_read(peer: Intruder) -> None:
    """Nor acknowledged: nothing is taken from the socket any more."""
    for _ in range(100):
        peer.open(header_of("count") + _ENDLESS + END)
    peer.target.blows += 100
    for _ in range(10):
        peer.flush()
        await anyio.lowlevel.checkpoint()
    # Real time: the server must find out for itself that nobody is there.
    await anyio.sleep(1.5)


# The control stream


@_by_a_client
async def extensions_on_the_control_stream(peer: Intruder) -> None:
    frame = b"\x77" + encode_varint(CHUNK_SIZE) + bytes(CHUNK_SIZE)
    while True:
        peer.engine.send_stream_data(0, frame)
        peer.target.blows += 1
        while peer.unsent(0):
            await peer.step()


async def _break_a_rule(target: Target, frame: bytes) -> None:
    while True:
        with contextlib.suppress(Closed), Intruder(target) as peer:
            await peer.shake_hands()
            target.blows += 1
            peer.engine.send_stream_data(0, frame)
            while True:
                await peer.step()


@_attack
async def a_second_hello(target: Target) -> None:
    await _break_a_rule(target, HELLO)


@_attack
async def a_go_away_of_the_client(target: Target) -> None:
    await _break_a_rule(target, encode_frame(FrameKind.GO_AWAY, b"\x00\x00"))
