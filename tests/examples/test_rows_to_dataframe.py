"""The two programs of ``examples/rows_to_dataframe``: 100,000 rows on their way into a DataFrame, all of them, which takes some two seconds."""

from __future__ import annotations

import signal

import pytest

from tests.examples.programs import PATIENCE, Program, running

pytestmark = pytest.mark.timeout(60)  # above PATIENCE, so that a slow program fails its test and does not end the run

_OUTPUT = """\
100,000 rows, from 2026-01-01 00:00:00+00:00 to 2026-01-02 03:46:39+00:00
          count  mean
sensor               
sensor 0  20000  19.0
sensor 1  25000  20.0
sensor 2  20000  21.0
sensor 3  25000  22.0
"""  # noqa: W291  # as pandas prints it


def _address(server: Program) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


@pytest.mark.parametrize(("server_backend", "client_backend"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_all_rows_arrive_in_a_dataframe_and_the_bar_reaches_its_end(server_backend: str, client_backend: str) -> None:
    with running("rows_to_dataframe/server.py", "--backend", server_backend) as server:
        address = _address(server)
        with running("rows_to_dataframe/client.py", "--backend", client_backend, ASTER_ENDPOINT_ADDR=address) as client:
            output, bar = client.communicate(timeout=PATIENCE)
        assert (client.returncode, output) == (0, _OUTPUT), bar
        last = bar.splitlines()[-1]
        assert last.startswith("100%|")
        assert "100k/100k" in last
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=PATIENCE) == ("", "")
        assert server.returncode == 0


def test_ctrl_c_in_the_middle_ends_the_client_and_its_handler_without_a_traceback() -> None:
    with running("rows_to_dataframe/server.py") as server:
        address = _address(server)
        with running("rows_to_dataframe/client.py", "--rows", str(10**9), ASTER_ENDPOINT_ADDR=address) as client:
            assert client.stderr is not None
            while client.stderr.read(1) != "k":  # the bar counts thousands: rows arrive
                pass
            client.send_signal(signal.SIGINT)
            output, bar = client.communicate(timeout=PATIENCE)
        assert (client.returncode, output) == (130, "")
        assert "Traceback" not in bar
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=PATIENCE) == ("", "")
        assert server.returncode == 0


def test_a_client_without_a_server_says_so() -> None:
    with running("rows_to_dataframe/client.py", ASTER_ENDPOINT_ADDR="aster://nowhere") as client:
        output, errors = client.communicate(timeout=PATIENCE)
    assert (client.returncode, output) == (1, "")
    assert "copy server.address whole" in errors
