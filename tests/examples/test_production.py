"""The two programs of ``examples/production``: what a server and a client do when all goes well, and when it does not."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.examples.programs import PATIENCE, Program, running

pytestmark = pytest.mark.timeout(60)  # above PATIENCE, so that a slow program fails its test and does not end the run

_running = partial(running, REPORTS_TOKEN="sesame")


@contextmanager
def _serving(folder: Path, port: str = "0") -> Generator[tuple[Program, str]]:
    """A server with its key in ``folder``, and its address."""
    with _running("production/server.py", "--key", str(folder / "server.key"), "--port", port) as server:
        assert server.stdout is not None
        yield server, server.stdout.readline().strip()


def _ask(address: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """What a client prints, and its exit code before that."""
    with _running("production/client.py", *arguments, ASTER_ENDPOINT_ADDR=address, **environment) as client:
        output, errors = client.communicate(timeout=PATIENCE)
        return client.returncode, output, errors


def _read_until(server: Program, line: str) -> None:
    assert server.stderr is not None
    for logged in server.stderr:
        if logged.strip() == line:
            return
    pytest.fail(f"the server never logged {line!r}")


def test_a_server_keeps_its_address_and_serves_those_who_have_its_token(tmp_path: Path) -> None:
    with _serving(tmp_path) as (_, first):
        assert _ask(first, "weekly") == (0, "weekly: all is well\n", "")
        code, output, errors = _ask(first, "weekly", REPORTS_TOKEN="guessed")
        assert (code, output) == (1, "")
        assert errors == "UNAUTHENTICATED: send this server's token as the metadata 'token'\n"
    port = first.rpartition(":")[2]
    with _serving(tmp_path, port) as (_, second):
        assert second == first
        assert _ask(second, "weekly")[0] == 0


def test_a_client_gives_up_after_its_timeout_and_its_handler_ends(tmp_path: Path) -> None:
    with _serving(tmp_path) as (server, address):
        code, output, errors = _ask(address, "yearly", "--seconds", "3600", "--timeout", "0.2")
        assert (code, output) == (1, "")
        assert errors.startswith("DEADLINE_EXCEEDED: ")
        _read_until(server, "INFO reports: nobody waits for 'yearly' any more")


def test_a_client_without_a_server_says_so() -> None:
    code, output, errors = _ask("aster://nowhere", "weekly")
    assert (code, output) == (1, "")
    assert "copy server.address whole" in errors


def test_ctrl_c_at_the_client_cancels_the_handler_and_prints_no_traceback(tmp_path: Path) -> None:
    with _serving(tmp_path) as (server, address), _running("production/client.py", "yearly", "--seconds", "3600", ASTER_ENDPOINT_ADDR=address) as client:
        _read_until(server, "INFO reports: building 'yearly'")
        client.send_signal(signal.SIGINT)
        assert client.communicate(timeout=PATIENCE) == ("", "")
        assert client.returncode == 130
        _read_until(server, "INFO reports: nobody waits for 'yearly' any more")


def test_sigterm_lets_a_running_call_end(tmp_path: Path) -> None:
    # Half a second: the signal comes while the report is built. Were the machine slower than that, the call would have ended before.
    with _serving(tmp_path) as (server, address), _running("production/client.py", "daily", "--seconds", "0.5", ASTER_ENDPOINT_ADDR=address) as client:
        _read_until(server, "INFO reports: building 'daily'")
        server.send_signal(signal.SIGTERM)
        assert client.communicate(timeout=PATIENCE) == ("daily: all is well\n", "")
        _read_until(server, "INFO reports: drained")
        assert server.wait(PATIENCE) == 0
