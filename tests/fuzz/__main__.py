"""``python -m tests.fuzz``: hostile input for every layer, each target in a process of its own, as many at once as there are cores.

What was found of each is told as soon as it is over; at the end comes the table for ``docs/reference/security.md``. The 1.3 million inputs take some twenty
minutes of processor time. Ends with 1 when anything was found: an input with another outcome than those that are allowed, a crash, a hang, growth, or an
outcome that no input led to.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Not at run time: with --coverage, Aster is to be instrumented on its way in.
    from tests.fuzz.measure import Figures
    from tests.fuzz.target import Target

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the fuzzer."""
    options = _parser().parse_args(arguments)
    if options.coverage:
        from tests.fuzz.coverage import guided

        guided(options.target, options.inputs, options.seed, options.keep)
        return
    from tests.fuzz.targets import TARGETS

    chosen = [target for target in TARGETS.values() if options.target in (None, target.name)]
    if not chosen:
        sys.exit(f"there is no target {options.target!r}; there are {', '.join(TARGETS)}")
    sys.exit(_measure_all(chosen, options))


def _measure_all(chosen: Sequence[Target], options: argparse.Namespace) -> bool:
    """Run targets side by side, as many as there are cores; whether anything was found."""
    from tests.fuzz.apart import measure_apart
    from tests.fuzz.report import faults, table

    # The dearest first, so that the cores are done at about the same time.
    ordered = sorted(chosen, key=lambda target: target.cost * target.share, reverse=True)
    results: dict[str, Figures] = {}
    found = False
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        runs = {threads.submit(measure_apart, target.name, options.seed, _inputs(target, chosen, options)): target for target in ordered}
        for run in as_completed(runs):
            target, result = runs[run], run.result()
            if isinstance(result, str):
                wrong = [result]
            else:
                results[target.name] = result
                wrong = faults(target, result)
            found |= bool(wrong)
            print(f"{target.name}: {'; '.join(wrong) or 'nothing'}", file=sys.stderr, flush=True)
    shown = [target for target in chosen if target.name in results]
    if shown:
        print(table(shown, [results[target.name] for target in shown]), flush=True)
    return found


def _inputs(target: Target, chosen: Sequence[Target], options: argparse.Namespace) -> range:
    """The numbers of a target's inputs: its share, or the one that is asked for, after those of its batch before it."""
    if options.index is None:
        return range(options.inputs * target.share // sum(each.share for each in chosen))
    alone = target.batch > options.inputs
    return range(options.index if alone else options.index // target.batch * target.batch, options.index + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Hostile input for every layer.")
    parser.add_argument("--inputs", type=int, default=1_300_000, help="how many, over all targets that run (default: 1,300,000)")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="which inputs (default: 1)")
    parser.add_argument("--index", type=int, help="only the input of this number, after those of its batch before it")
    parser.add_argument("--coverage", action="store_true", help="let atheris look for inputs that reach new code, in one target; needs atheris")
    parser.add_argument("--keep", metavar="DIRECTORY", help="with --coverage: where to keep what it finds (default: a temporary folder)")
    return parser


if __name__ == "__main__":
    main()
