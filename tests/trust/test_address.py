"""Addresses of servers, and places to listen at."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from aster.errors import AddressError
from aster.trust import Address, Identity, check_advertised, check_endpoint_id, endpoint_id_of, parse_listen

_ID = Identity.generate().endpoint_id
_NO_POINT = "02" + "00" * 31

_labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
_names = st.lists(_labels, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.rpartition(".")[2].isdecimal())
_hosts = st.one_of(_names, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


@given(host=_hosts, port=st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(host: str, port: int) -> None:
    address = Address(_ID, host, port)
    assert Address.parse(str(address)) == address


def test_the_text_puts_ipv6_in_brackets() -> None:
    assert str(Address(_ID, "127.0.0.1", 1)) == f"aster://{_ID}@127.0.0.1:1"
    assert str(Address(_ID, "::1", 65535)) == f"aster://{_ID}@[::1]:65535"
    assert str(Address(_ID, "example.org", 4433)) == f"aster://{_ID}@example.org:4433"


def test_upper_case_is_folded() -> None:
    assert Address.parse(f"ASTER://{_ID.upper()}@localhost:1") == Address(_ID, "localhost", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "address '': it is empty"),
        (" \n", "it is empty"),
        (f" aster://{_ID}@localhost:1", "white space around it"),
        (f"aster://{_ID}@localhost:1\n", "white space around it"),
        (f"aster://{_ID}@localhost:1\N{NO-BREAK SPACE}", "white space around it"),
        (f'"aster://{_ID}@localhost:1"', "quotes around it"),
        (f"aster://{_ID}@localhost:1'", "quotes around it"),
        (f"\N{LEFT DOUBLE QUOTATION MARK}aster://{_ID}@localhost:1", "quotes around it"),
        (f"<aster://{_ID}@localhost:1>", "quotes around it"),
        ("127.0.0.1:4433", "it has no endpoint id, by which the server proves"),
        ("localhost:4433", "it has no endpoint id, by which the server proves"),
        ("tasks", "it has no endpoint id, by which the server proves"),
        (_ID.upper(), "it is an endpoint id alone"),
        (f"{_ID}@localhost:1", "it does not begin with aster://;"),
        (f"aster:{_ID}@localhost:1", "it does not begin with aster://;"),
        (f"http://{_ID}@localhost:1", "it does not begin with aster://, but with 'http://'"),
        ("https://localhost:4433", "it does not begin with aster://, but with 'https://'"),
        ("aster://", "the endpoint id and the @ after it are missing"),
        ("aster://localhost:4433", "the endpoint id and the @ after it are missing"),
        ("aster://@localhost:4433", "the endpoint id before the @ is missing"),
        (f"aster://{_ID}", "the host and the port are missing"),
        (f"aster://{_ID[:-1]}@localhost:1", "has 63 characters instead of 64"),
        (f"aster://{_ID}0@localhost:1", "has 65 characters instead of 64"),
        (f"aster://{'g' + _ID[1:]}@localhost:1", "contains 'g', which is no hex digit"),
        (f"aster://{_ID[:8]} {_ID[9:]}@localhost:1", "contains ' ', which is no hex digit"),
        (f"aster://{_NO_POINT}@localhost:1", "it is not a point of the curve"),
        (f"aster://{'0' * 64}@localhost:1", "small order"),
        (f"aster://{'f' * 64}@localhost:1", "its number is too large"),
        (f"aster://{_ID}@", "the port is missing"),
        (f"aster://{_ID}@localhost", "the port is missing"),
        (f"aster://{_ID}@localhost:", "the port is missing"),
        (f"aster://{_ID}@:1", "the host is missing"),
        (f"aster://{_ID}@localhost:0", "the port 0 lets a server choose"),
        (f"aster://{_ID}@localhost:00", "not a number from 1 to 65535"),
        (f"aster://{_ID}@localhost:65536", "not a number from 1 to 65535"),
        (f"aster://{_ID}@localhost:-1", "not a number from 1 to 65535"),
        (f"aster://{_ID}@localhost:1x", "not a number from 1 to 65535"),
        (f"aster://{_ID}@localhost:1/", "not a number from 1 to 65535"),
        (f"aster://{_ID}@localhost:\N{ARABIC-INDIC DIGIT ONE}", "not a number from 1 to 65535"),
        (f"aster://{_ID}@::1:4433", "must be in brackets"),
        (f"aster://{_ID}@[::1:4433", "bracket .* is not closed"),
        (f"aster://{_ID}@[::1]", "the port is missing"),
        (f"aster://{_ID}@[::1]4433", "the port is missing"),
        (f"aster://{_ID}@[localhost]:4433", "brackets are for IPv6"),
        (f"aster://{_ID}@[::g]:4433", "is no IPv6 address"),
        (f"aster://{_ID}@127.0.0.256:1", "is no IPv4 address"),
        (f"aster://{_ID}@127.1:1", "is no IPv4 address"),
        (f"aster://{_ID}@a b:1", "neither an IP address nor a host name"),
        (f"aster://{_ID}@-a:1", "neither an IP address nor a host name"),
        (f"aster://{_ID}@a..b:1", "neither an IP address nor a host name"),
        (f"aster://{_ID}@{'a' * 64}:1", "neither an IP address nor a host name"),
        (f"aster://{_ID}@m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example:1", "xn--"),
    ],
)
def test_a_malformed_address_says_which_part_and_what_to_do(text: str, problem: str) -> None:
    with pytest.raises(AddressError, match=problem) as caught:
        Address.parse(text)
    assert "copy server.address" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@given(text=st.text())
@example(text="aster://@:")
@example(text=f"aster://{_ID}@[:]:1")
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    for candidate in (text, f"aster://{text}", f"aster://{_ID}@{text}", f"aster://{_ID}@{text}:1", f"aster://{text}@localhost:1"):
        try:
            address = Address.parse(candidate)
        except AddressError:
            continue
        assert Address.parse(str(address)) == address


def test_a_message_repeats_no_more_than_the_beginning_of_a_pasted_file() -> None:
    paste = "x" * 100_000
    for text in (
        paste,
        f"{paste}://",
        f"aster://{paste}@localhost:1",
        f"aster://{_ID}@{paste}:1",
        f"aster://{_ID}@[{paste}]:1",
        f"aster://{_ID}@localhost:{paste}",
    ):
        with pytest.raises(AddressError) as caught:
            Address.parse(text)
        assert len(str(caught.value)) < 1_000
        with pytest.raises(AddressError) as caught:
            parse_listen(text)
        assert len(str(caught.value)) < 1_000
        with pytest.raises(AddressError) as caught:
            check_advertised(text)
        assert len(str(caught.value)) < 1_000


@given(seed=st.binary(min_size=32, max_size=32))
def test_every_real_key_is_an_endpoint_id(seed: bytes) -> None:
    identity = Identity(Ed25519PrivateKey.from_private_bytes(seed))
    assert check_endpoint_id(identity.endpoint_id.upper()) == identity.endpoint_id
    assert endpoint_id_of(identity.private_key.public_key()) == identity.endpoint_id


_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P


def _points_with(y: int) -> list[tuple[int, int]]:
    """The points of the curve with this y, by trying the square root."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    root = pow(square, (_P + 3) // 8, _P)
    for x in (root, root * pow(2, (_P - 1) // 4, _P) % _P):
        if x * x % _P == square:
            return [(x, y), (-x % _P, y)]
    return []


def _double(point: tuple[int, int]) -> tuple[int, int]:
    x, y = point
    t = _D * x * x * y * y % _P
    return (2 * x * y * pow(1 + t, -1, _P) % _P, (y * y + x * x) * pow(1 - t, -1, _P) % _P)


@given(raw=st.one_of(st.binary(min_size=32, max_size=32), st.integers(0, 2**256 - 1).map(lambda number: number.to_bytes(32, "little"))))
@example(raw=(1).to_bytes(32, "little"))
@example(raw=(_P - 1).to_bytes(32, "little"))
@example(raw=(_P + 1).to_bytes(32, "little"))
@example(raw=bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))
@example(raw=bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"))
def test_an_endpoint_id_is_a_point_of_the_curve_that_is_not_of_small_order(raw: bytes) -> None:
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    points = _points_with(y) if y < _P else []
    usable = any(_double(_double(_double(point))) != (0, 1) for point in points)
    try:
        check_endpoint_id(raw.hex())
    except AddressError:
        assert not usable
    else:
        assert usable


def test_cryptography_does_not_check_points_itself() -> None:
    # The reason for the check above; should this fail one day, the check may go.
    assert Ed25519PublicKey.from_public_bytes(b"\xff" * 32)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:0", ("::1", 0)),
        ("[::]:4433", ("::", 4433)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_places_to_listen_at(text: str, place: tuple[str, int]) -> None:
    assert parse_listen(text) == place


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("127.0.0.1:0 ", "white space around it"),
        ("'127.0.0.1:0'", "quotes around it"),
        ("4433", "it is a port alone"),
        ("*:4433", r'"\*" is no host; to listen on every interface use'),
        ("localhost", "the port is missing"),
        ("localhost:65536", "not a number from 0 to 65535"),
        ("[localhost]:0", "brackets are for IPv6 hosts"),
        (":0", r'the host is missing; to listen on every interface use "0.0.0.0" or "\[::\]"'),
        ("127.0.0.1", "the port is missing"),
        ("::1:0", "must be in brackets"),
        ("localhost:http", "not a number from 0 to 65535"),
        ("1.2.3:0", "is no IPv4 address"),
        (f"aster://{_ID}@localhost:1", "the address of a server"),
        ("http://localhost:80", "it is a URL; write host:port"),
    ],
)
def test_a_malformed_place_to_listen_at_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(AddressError, match=problem) as caught:
        parse_listen(text)
    assert "expected host:port" in str(caught.value)


@pytest.mark.parametrize("host", ["tasks.example", "192.0.2.7", "2001:db8::7", "::1"])
def test_a_host_alone_may_be_advertised(host: str) -> None:
    assert check_advertised(host) == host


@pytest.mark.parametrize("host", ["tasks.example:4433", "192.0.2.7:1", "[::1]:4433", "tasks.example:"])
def test_a_port_beside_an_advertised_host_is_named(host: str) -> None:
    with pytest.raises(AddressError, match="has a port, and the server's own is advertised; expected a host alone"):
        check_advertised(host)


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("", "it is empty"),
        ("tasks.example\n", "white space around it"),
        ("'tasks.example'", "quotes around it"),
        ("http://tasks.example", "is a URL, and only its host is advertised"),
        (f"aster://{_ID}@tasks.example:1", "is a URL, and only its host is advertised"),
        ("[2001:db8::7]", "is in brackets, which are for a host beside its port"),
        ("0.0.0.0", "stands for all addresses of a machine"),
        ("::", "stands for all addresses of a machine"),
        ("256.0.0.1", "is no IPv4 address"),
        ("a b", "neither an IP address nor a host name"),
    ],
)
def test_a_malformed_host_to_advertise_says_what_is_wrong(host: str, problem: str) -> None:
    with pytest.raises(AddressError, match=problem) as caught:
        check_advertised(host)
    assert str(caught.value).startswith("advertise: ")
    assert "expected a host alone" in str(caught.value)


@pytest.mark.parametrize("parts", [(None, "localhost", 1), (_ID, b"localhost", 1), (_ID, "localhost", "1")])
def test_a_part_of_another_type_is_named(parts: Any) -> None:
    with pytest.raises(TypeError, match=r"the (endpoint_id|host|port) of an address must be (str|int), not"):
        Address(*parts)
