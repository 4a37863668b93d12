"""``python -m tests.benchmark``: measure, and print a table. The figures of one run are comparable with each other, and with nothing else."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from tests.benchmark.measure import REFERENCE, Figures, contenders, describe_versions, measure
from tests.benchmark.workloads import WORKLOADS, Contender, Duration, Workload

__all__ = ["main"]

_NOTE = (
    "Calls or messages a second{clock}, medians over rounds; in brackets the median of the rounds' ratios to {reference}.\n"
    "Only the ratios mean anything, and only within one run: absolute figures depend on the machine and on what else it does."
)


_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_SECONDS = {"wall": "", "cpu": " of processor time"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark. Ends with a message when nothing is left to measure."""
    options = _parser().parse_args(arguments)
    who, what = _select(options.only)
    if options.clock == "cpu" and options.processes != 1:
        sys.exit("--clock cpu sees one process only: leave out --processes 2")
    duration = Duration(options.seconds, _CLOCKS[options.clock])
    figures = measure(who, what, rounds=options.rounds, duration=duration, processes=options.processes, progress=_progress)
    if options.json:
        print(json.dumps(_as_json(figures, options), indent=2))
    else:
        print(_as_table(figures, who, options.clock))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description="Measure Aster beside grpc.aio and beside the bare engine.")
    parser.add_argument("--rounds", type=_positive(int), default=5, help="how often everything is measured, contenders in turns (default: 5)")
    parser.add_argument("--seconds", type=_positive(float), default=1.0, help="seconds of one measurement (default: 1)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="client and server in one process, or in two (default: 1)")
    parser.add_argument(
        "--clock",
        choices=tuple(_CLOCKS),
        default="wall",
        help="what a second is: one of the wall's, or one of this process's processor time, which neighbours on the machine disturb less (default: wall)",
    )
    names = ", ".join([*(contender.name for contender in contenders()), *(workload.name for workload in WORKLOADS)])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"only what begins with NAME; may be repeated. Names here: {names}")
    parser.add_argument("--json", action="store_true", help="print JSON, with the figures of each round, instead of a table")
    return parser


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, not {text}")
        return value

    parse.__name__ = "positive number"
    return parse


def _select(only: Sequence[str]) -> tuple[list[Contender], list[Workload]]:
    """What ``--only`` leaves: a name that fits no contender leaves all contenders, one that fits no workload all workloads."""
    everybody, everything = contenders(), list(WORKLOADS)
    prefixes = tuple(only)
    for prefix in prefixes:
        if not any(one.name.startswith(prefix) for one in (*everybody, *everything)):
            sys.exit(f"--only {prefix} fits nothing here; the names are {', '.join(one.name for one in (*everybody, *everything))} (grpc.aio needs grpcio)")
    who = [contender for contender in everybody if contender.name.startswith(prefixes)] or everybody
    what = [workload for workload in everything if workload.name.startswith(prefixes)] or everything
    return who, what


def _progress(line: str) -> None:
    print(line, file=sys.stderr)


def _reference(figures: Figures) -> str:
    """Whom the others are compared with: grpc.aio, or the first that was measured."""
    measured = [name for by_name in figures.rounds.values() for name in by_name]
    return REFERENCE if REFERENCE in measured or not measured else measured[0]


def _as_table(figures: Figures, who: Sequence[Contender], clock: str) -> str:
    reference = _reference(figures)
    rows = [["", *(contender.name for contender in who)]]
    rows += [[workload, *(_cell(figures, workload, contender.name, reference) for contender in who)] for workload in figures.rounds]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    versions = ", ".join(f"{name} {number}" for name, number in describe_versions().items())
    return "\n".join([*lines, "", _NOTE.format(clock=_SECONDS[clock], reference=reference), versions])


def _cell(figures: Figures, workload: str, contender: str, reference: str) -> str:
    if contender not in figures.rounds[workload]:
        return "-"
    ratio = figures.ratio(workload, contender, reference)
    return f"{figures.median(workload, contender):,.0f}" + ("" if ratio is None else f" ({ratio:.2f})")


def _as_json(figures: Figures, options: argparse.Namespace) -> dict[str, Any]:
    reference = _reference(figures)
    results = {
        workload: {
            name: {"median": figures.median(workload, name), "ratio": figures.ratio(workload, name, reference), "rounds": rates}
            for name, rates in by_name.items()
        }
        for workload, by_name in figures.rounds.items()
    }
    return {
        "note": "only the ratios mean anything, and only within one run",
        "reference": reference,
        "clock": options.clock,
        "processes": options.processes,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": describe_versions(),
        "results": results,
    }


if __name__ == "__main__":
    main()
