"""Every example is run as its reader runs it: as a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.examples.programs import ENVIRONMENT, EXAMPLES, PATIENCE

pytestmark = pytest.mark.timeout(60)  # above PATIENCE, so that a slow program fails its test and does not end the run

_CLIENT_OUTPUT = [
    "unary: task 1 is running",
    *(f"server stream: task-{i} is active" for i in range(5)),
    "client stream: 3 lines ingested",
    "both ways: executed: build",
    "both ways: executed: test",
    "timeout: DEADLINE_EXCEEDED",
    "cancellation: executed: deploy",
    "cancellation: cancelled",
    "every handler has ended",
]

_SERVER_OUTPUT = [
    "execute has ended after 2 results",
    "get_task('stuck') was stopped",
    "execute has ended after 1 results",
    "drained",
]


def _run(program: str, *arguments: str) -> tuple[list[str], int]:
    """The lines that an example prints, and its process group. It must succeed, say nothing on stderr, and emit no warning."""
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert (process.returncode, errors) == (0, ""), output
    return output.splitlines(), process.pid


def test_the_hello_example_greets() -> None:
    assert _run("hello.py")[0] == ["Hello, world!"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_native_example_of_each_backend_runs_and_ends_its_handlers(backend: str) -> None:
    lines, _ = _run(f"native_{backend}.py")
    for name in ("left", "right"):
        assert [line for line in lines if line.startswith(f"client: {name}")] == [f"client: {name} 0", f"client: {name} 1"]
    stopped = [line for line in lines if line.endswith("stopped")]
    assert sorted(stopped) == ["handler of left: stopped", "handler of right: stopped", "handler of silent: stopped"]
    assert "client: timed out" in lines
    assert lines[-1] == "nothing runs any more"


@pytest.mark.parametrize(("server_backend", "client_backend"), [("trio", "asyncio"), ("asyncio", "trio")])
def test_a_process_on_one_backend_serves_the_guides_service_to_a_process_on_the_other(server_backend: str, client_backend: str) -> None:
    lines, _ = _run("task_engine/run.py", "--server-backend", server_backend, "--client-backend", client_backend)
    assert lines[0] == f"a server on {server_backend}, a client on {client_backend}"
    # How the two interleave is the system's business; what each says, and in which order, is not.
    assert [line.removeprefix("client | ") for line in lines if line.startswith("client | ")] == _CLIENT_OUTPUT
    assert [line.removeprefix("server | ") for line in lines if line.startswith("server | ")] == _SERVER_OUTPUT


def test_the_task_engine_example_leaves_no_process_behind() -> None:
    _, group = _run("task_engine/run.py")
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
