"""The two programs of ``examples/chat_room``: a room, and guests who come, talk and go."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from tests.examples.programs import PATIENCE, Program, running

pytestmark = pytest.mark.timeout(60)  # above PATIENCE, so that a slow program fails its test and does not end the run


def _line(program: Program) -> str:
    """The next line that a program prints."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


def _type(program: Program, text: str) -> None:
    assert program.stdin is not None
    program.stdin.write(text)
    program.stdin.flush()


def _ends(program: Program) -> tuple[int, str, str]:
    """How a program ends once its input has: its exit code, and what is left of its output."""
    output, errors = program.communicate(timeout=PATIENCE)
    return program.returncode, output, errors


@pytest.mark.parametrize(("server_backend", "client_backend"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_guests_hear_each_other_come_talk_and_leave_however_they_do(server_backend: str, client_backend: str) -> None:
    with ExitStack() as house:
        server = house.enter_context(running("chat_room/server.py", "--backend", server_backend))
        address = _line(server)

        def guest(name: str) -> Program:
            return house.enter_context(running("chat_room/client.py", name, "--backend", client_backend, ASTER_ENDPOINT_ADDR=address))

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
