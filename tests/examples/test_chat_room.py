"""The two programs of ``examples/chat_room``: a room, and guests who come, talk and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import aster

_PROGRAMS = Path(__file__).parent.parent.parent / "examples" / "chat_room"

pytestmark = pytest.mark.timeout(60)  # above _PATIENCE, so that a slow program fails its test and does not end the run

_PATIENCE = 45
"""Seconds for one program, which takes less than one on a machine that is not busy with anything else."""

_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(aster.__file__).parent.parent), "PYTHONWARNINGS": "error"}

_Program = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def _children_hear_ctrl_c() -> Generator[None]:
    """A shell starts what it runs in the background deaf to Ctrl-C, and that is inherited."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@contextmanager
def _running(program: str, *arguments: str, address: str = "") -> Generator[_Program]:
    """A program of the example, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAMS / program), *arguments],
        env=_ENVIRONMENT | {"ASTER_ENDPOINT_ADDR": address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _line(program: _Program) -> str:
    """The next line that a program prints."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


def _type(program: _Program, text: str) -> None:
    assert program.stdin is not None
    program.stdin.write(text)
    program.stdin.flush()


def _ends(program: _Program) -> tuple[int, str, str]:
    """How a program ends once its input has: its exit code, and what is left of its output."""
    output, errors = program.communicate(timeout=_PATIENCE)
    return program.returncode, output, errors


@pytest.mark.parametrize(("server_backend", "client_backend"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_guests_hear_each_other_come_talk_and_leave_however_they_do(server_backend: str, client_backend: str) -> None:
    with ExitStack() as house:
        server = house.enter_context(_running("server.py", "--backend", server_backend))
        address = _line(server)

        def guest(name: str) -> _Program:
            return house.enter_context(_running("client.py", name, "--backend", client_backend, address=address))

        ada = guest("ada")
        assert _line(ada) == "Welcome, ada! Guests: 1"
        bob = guest("bob")
        assert _line(bob) == "Welcome, bob! Guests: 2"
        assert _line(ada) == "(bob is here)"
        _type(ada, "hello\nis it raining?\n")
        assert [_line(bob), _line(bob)] == ["ada: hello", "ada: is it raining?"]
        _type(bob, "no\n")
        assert _line(ada) == "bob: no"

        assert _ends(guest("ada")) == (1, "", "ALREADY_EXISTS: somebody here is called ada already\n")
        for listener in (ada, bob):
            assert _line(listener).startswith("(guest ")

        bob.send_signal(signal.SIGINT)
        assert _ends(bob) == (130, "", "")
        assert _line(ada) == "(bob has left)"

        assert _ends(ada) == (0, "", "")
        server.terminate()
        assert _ends(server) == (0, "the room is closed\n", "")
