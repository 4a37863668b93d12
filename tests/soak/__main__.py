"""``python -m tests.soak``: make a hundred thousand calls and ten thousand that fail, and show that nothing of them stays."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import anyio

from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from aster.types import RpcPattern
from tests.soak.census import Census
from tests.soak.run import AT_ONCE, FAILING, Mark, Plan, Soak
from tests.soak.verdict import growths

__all__ = ["main"]

_TRANSPORTS: dict[str, Callable[[], Transport]] = {"memory": MemoryTransport, "quic": QuicTransport}
_DEFAULT = Plan()
_BACKENDS = ("asyncio", "trio")
_HEADINGS = ("calls", "part", "seconds", "tasks", "streams", "timers", "objects", "items", "threads", "files", "blocks", "KiB in memory")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the soaks that are asked for; ends with what grew, and status 1, if anything did."""
    options = _parser().parse_args(arguments)
    plan = Plan(options.calls, options.failures, options.marks, options.warm_up, options.seed)
    problems: list[str] = []
    for transport in options.transport or _TRANSPORTS:
        for backend in options.backend or _BACKENDS:
            print(f"\n{transport}, {backend}", flush=True)
            print(_row(_HEADINGS))
            soak = Soak(_TRANSPORTS[transport](), plan, _print_mark)
            began = time.perf_counter()
            anyio.run(soak.run, backend=backend)
            _print_rates(soak, time.perf_counter() - began)
            problems += [f"{transport}, {backend}: {problem}" for problem in [*growths(soak.marks), *soak.unexpected_logs()]]
    if problems:
        sys.exit("\nnot flat:\n" + "\n".join(problems))
    print("\nflat")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Make many calls, and show that nothing of them stays.")
    parser.add_argument("--calls", type=int, default=_DEFAULT.calls, help=f"calls that go well (default: {_DEFAULT.calls})")
    parser.add_argument("--failures", type=int, default=_DEFAULT.failures, help=f"calls that fail, after those (default: {_DEFAULT.failures})")
    parser.add_argument("--marks", type=int, default=_DEFAULT.marks, help=f"how often all is counted in each of the two parts (default: {_DEFAULT.marks})")
    parser.add_argument("--warm-up", type=int, default=_DEFAULT.warm_up, help=f"calls before that, and a third as many failures (default: {_DEFAULT.warm_up})")
    parser.add_argument("--seed", type=int, default=_DEFAULT.seed, help=f"of what is drawn (default: {_DEFAULT.seed})")
    parser.add_argument("--transport", action="append", choices=tuple(_TRANSPORTS), help="may be repeated (default: each)")
    parser.add_argument("--backend", action="append", choices=_BACKENDS, help="may be repeated (default: each)")
    return parser


def _row(cells: Sequence[object]) -> str:
    return "  ".join(str(cell).rjust(len(heading) + 2) for cell, heading in zip(cells, _HEADINGS, strict=True))


def _print_mark(mark: Mark) -> None:
    census, resident = mark.census, "-" if mark.resident is None else f"{mark.resident // 1024:,}"
    counts = (census["tasks"], _sum(census, "open streams"), census["timers"], _sum(census, "objects"), _sum(census, "items"))
    row = (mark.calls, mark.part, f"{mark.seconds:.1f}", *counts, census["threads"], census["descriptors"], f"{mark.blocks:,}", resident)
    print(_row(row), flush=True)


def _sum(census: Census, prefix: str) -> int:
    return sum(count for name, count in census.items() if name.startswith(prefix))


def _print_rates(soak: Soak, seconds: float) -> None:
    rates = (f"{name.lower().replace('_', ' ')} {soak.made[name] / soak.busy[name] * AT_ONCE:,.0f}" for name in (*RpcPattern.__members__, FAILING))
    print(f"{seconds:.0f} s in all; calls a second, {AT_ONCE} at once, each kind by its share of the time: {', '.join(rates)}")


if __name__ == "__main__":
    main()
