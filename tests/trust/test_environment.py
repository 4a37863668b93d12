"""What ``connect`` and ``serve`` make of what they are given or find in the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aster
from aster.client import ADDRESS_VARIABLE
from aster.trust import Identity
from tests.rpc.echo import Echo

_ADDRESS = f"aster://{Identity.generate().endpoint_id}@localhost:1"


def _refusal(*given: str) -> str:
    with pytest.raises(aster.AddressError) as caught:
        aster.connect(*given)
    assert caught.value.__cause__ is None, "a traceback says it twice"
    return str(caught.value)


def test_without_an_address_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert _refusal() == "no address: give connect() the server's address, or set the environment variable ASTER_ENDPOINT_ADDR to it"


def test_an_empty_variable_is_told_from_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "")
    assert _refusal() == "no address: the environment variable ASTER_ENDPOINT_ADDR is set, but empty; set it to the server's address"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (" ", "it is empty"),
        (f"{_ADDRESS}\n", "white space around it"),
        (f'"{_ADDRESS}"', "quotes around it"),
        ("localhost:1234", "it has no endpoint id"),
        ("aster://localhost:1234", "the endpoint id and the @ after it are missing"),
    ],
)
def test_a_malformed_variable_is_named_with_what_is_wrong_in_it(value: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, value)
    assert re.match(rf"the environment variable ASTER_ENDPOINT_ADDR is set to a malformed address: .*{problem}.*copy server.address whole", _refusal())


def test_an_address_that_is_given_counts_and_the_variable_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "nonsense")
    aster.connect(_ADDRESS)
    monkeypatch.setenv(ADDRESS_VARIABLE, _ADDRESS)
    assert ADDRESS_VARIABLE not in _refusal("nonsense")
    assert _refusal("").startswith("address '': it is empty")


def test_a_key_file_that_cannot_be_used_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "server.key", str(tmp_path / "server.key")):
        with pytest.raises(aster.KeyFileError, match=r"key file .*server\.key' does not exist; make one"):
            aster.connect(_ADDRESS, identity=path)
        with pytest.raises(aster.KeyFileError, match=r"key file .*server\.key' does not exist; make one"):
            aster.serve([Echo()], identity=path)
