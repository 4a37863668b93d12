"""What the tests of the protocol draw from: values that reach the boundaries of the wire."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from aster._protocol.events import GoAway, Hello, MethodEntry, ServiceEntry, Target, Trailer, TrailerOrigin
from aster.errors import StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode

__all__ = ["cuts", "go_aways", "hellos", "integers", "metadata", "patterns", "sizes", "split", "targets", "timeouts", "trailers"]

_EDGES = (0, 1, 63, 64, 16_383, 16_384, 2**30 - 1, 2**30, 2**53, 2**62 - 1)

integers = st.one_of(st.sampled_from(_EDGES), st.integers(0, 2**62 - 1))

patterns = st.sampled_from(RpcPattern)

sizes = st.one_of(st.sampled_from((0, 1, 63, 64, 16_383, 16_384, 16_385, 32_768, 40_000)), st.integers(0, 300))
"""Of messages: around the chunk's size, and small."""

timeouts = st.none() | st.sampled_from((0.0, 1e-6, 0.001, 1.0, 86_400.0)) | st.floats(0.0, 1e6)

_first = st.sampled_from("abcz059")
_keys = st.builds(str.__add__, _first, st.text("az09._-", max_size=8)) | st.just("k" * 128)
_values = st.text(max_size=40) | st.binary(max_size=40)

metadata = st.lists(st.tuples(_keys, _values), max_size=4).map(Metadata)

targets = st.builds(Target, st.text(max_size=40), integers, st.text(max_size=40), patterns, st.sampled_from(SerializationMode))

_detail = st.tuples(st.text(max_size=20), st.binary(max_size=100))
_details = (st.lists(_detail, max_size=3) | st.just([("", b"")] * 64)).map(tuple)

trailers = st.builds(Trailer, st.sampled_from(StatusCode), st.sampled_from(TrailerOrigin), st.text(max_size=80), _details, metadata)

_modes = st.frozensets(st.sampled_from(SerializationMode))
_methods = st.lists(st.builds(MethodEntry, st.text(max_size=20), patterns, _modes), max_size=3).map(tuple)
_services = st.lists(st.builds(ServiceEntry, st.text(max_size=20), integers, st.booleans(), st.binary(max_size=40), _methods), max_size=3).map(tuple)

hellos = st.builds(
    Hello,
    st.lists(integers, max_size=3).map(tuple),
    st.dictionaries(integers, integers, max_size=7),
    _services,
    st.dictionaries(st.text(max_size=20), st.binary(max_size=40), max_size=3),
)

go_aways = st.builds(GoAway, st.one_of(st.sampled_from((-1, 0, 2**62 - 2)), st.integers(-1, 2**62 - 2)), st.text(max_size=40))

cuts = st.lists(st.one_of(st.integers(1, 9), st.sampled_from((1_200, 16_384, 100_000))), min_size=1, max_size=12)
"""How bytes are cut on their way: sizes that are used in turn, again and again."""


def split(data: bytes, at: Sequence[int]) -> list[bytes]:
    """``data`` in pieces of those sizes."""
    pieces: list[bytes] = []
    position, turn = 0, 0
    while position < len(data):
        # Tiny pieces of a large stream prove nothing more and take long, so sizes grow with the position.
        size = at[turn % len(at)] + (position >> 6)
        pieces.append(data[position : position + size])
        position += size
        turn += 1
    return pieces
