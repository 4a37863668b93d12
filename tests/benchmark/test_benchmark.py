"""The benchmark runs and gives figures for whatever it is asked to measure. That nothing is slow is no test's business."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from tests.benchmark import cancel, idle_sessions, rows
from tests.benchmark.__main__ import main
from tests.benchmark.measure import contenders
from tests.benchmark.workloads import WORKLOADS

_BRIEFLY = ("--rounds", "2", "--seconds", "0.001")


def test_every_workload_has_a_figure_of_aster_for_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    main([*_BRIEFLY, "--only", "aster", "--json"])
    report = json.loads(capsys.readouterr().out)
    names = [contender.name for contender in contenders() if contender.name.startswith("aster")]
    assert names
    assert report["results"].keys() == {workload.name for workload in WORKLOADS}
    for by_name in report["results"].values():
        assert list(by_name) == names
        assert all(len(figures["rounds"]) == 2 and min(figures["rounds"]) > 0 for figures in by_name.values())


def test_the_table_compares_with_the_first_that_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main([*_BRIEFLY, "--only", "echo-asyncio", "--only", "aster-asyncio", "--only", "sequential"])
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["aster-asyncio", "echo-asyncio"]
    assert line.startswith("sequential")
    assert line.count("(") == 2
    assert "(1.00)" in line


def test_a_server_may_run_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    main([*_BRIEFLY, "--processes", "2", "--only", "aster-asyncio", "--only", "sequential", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["processes"] == 2
    assert report["results"]["sequential"]["aster-asyncio"]["median"] > 0


@pytest.mark.skipif(importlib.util.find_spec("grpc") is None, reason="grpcio is in the bench extra, which is not installed")
def test_grpc_does_every_workload_too(capsys: pytest.CaptureFixture[str]) -> None:
    main([*_BRIEFLY, "--only", "grpc", "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    assert all(results[workload.name]["grpc.aio"]["median"] > 0 for workload in WORKLOADS)


def test_a_second_may_be_one_of_processor_time(capsys: pytest.CaptureFixture[str]) -> None:
    main([*_BRIEFLY, "--clock", "cpu", "--only", "aster-asyncio", "--only", "sequential"])
    assert "a second of processor time" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--only", "nothing-like-that"], ["--rounds", "0"], ["--seconds", "-1"], ["--clock", "cpu", "--processes", "2"]])
def test_arguments_that_make_no_sense_end_it_with_a_message(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code


def test_cancellation_has_a_median_and_a_percentile_beside_the_bare_engines(capsys: pytest.CaptureFixture[str]) -> None:
    cancel.main(["--calls", "10"])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split() == ["milliseconds", "median", "95", "%"]
    assert [row[:24].strip() for row in rows][:2] == ["call, asyncio", "bare engine, asyncio"]
    assert all(0 < float(row[24:34]) <= float(row[34:]) for row in rows)


def test_too_few_cancellations_end_it_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cancel.main(["--calls", "1"])
    assert "2 or more" in capsys.readouterr().err


def test_idle_sessions_and_interceptors_are_measured_beside_plain_calls(capsys: pytest.CaptureFixture[str]) -> None:
    idle_sessions.main(["--rounds", "1", "--calls", "5"])
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) % 5 == 0
    assert all(float(line.split()[-1]) > 0 for line in lines)


def test_rows_are_compared_with_whole_decodes(capsys: pytest.CaptureFixture[str]) -> None:
    rows.main(["--rounds", "1", "--seconds", "0.0001"])
    table = re.findall(r"^\| (.*) \| ([0-9.e+]+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert len(table) > 8
    assert all(float(ratio) > 0 for _, ratio in table)
