"""``python -m tests.mutants``: break the package on purpose, one place at a time, and look whether a test notices.

All rows of the transition tables, and of each law as many mutants as ``--each`` says, or ``--all``. Ends with 1 when a mutant lives that
``survivors.py`` does not list, and when one that it lists was killed or is no mutant any more. The tests run once without a mutant before: where
they fail by themselves, no mutant is killed by them.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.laws import CARRIERS, law_mutants, sample
from tests.mutants.mutant import Mutant
from tests.mutants.rows import row_mutants
from tests.mutants.survivors import SURVIVORS
from tests.mutants.workspace import Verdict, Workspace

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the mutants."""
    options = _parser().parse_args(arguments)
    everything = {"rows": row_mutants()} | {f"law {law}": law_mutants(law) for law in CARRIERS}
    known = {mutant.name for group in everything.values() for mutant in group}
    wrong = [f"{name} is listed as a survivor and is no mutant" for name in SURVIVORS if name not in known]
    chosen = _chosen(everything, options)
    if not chosen:
        sys.exit(f"there is no mutant {options.only!r}; there are groups: {', '.join(everything)}")
    if options.list:
        print("\n".join(f"{mutant.group}: {mutant.name}" for mutant in chosen))
        return
    wrong += _judge_all(chosen, options.jobs)
    sys.exit("\n".join(wrong) or None)


def _chosen(everything: dict[str, list[Mutant]], options: argparse.Namespace) -> list[Mutant]:
    if options.only is not None:
        groups = [group for name, group in everything.items() if name == options.only]
        if not groups:
            # A function may carry several laws; of each its mutants are run with that law's tests.
            return [mutant for group in everything.values() for mutant in group if mutant.name == options.only]
        everything = {options.only: groups[0]}
    return [mutant for name, group in everything.items() for mutant in (group if options.all or name == "rows" else sample(group, options.each, options.seed))]


def _judge_all(mutants: Sequence[Mutant], jobs: int) -> list[str]:
    """Run mutants side by side and print a row of each; what was not as it should be."""
    wrong: list[str] = []
    free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()

    def judge(mutant: Mutant) -> Verdict:
        workspace = free.get()
        try:
            return workspace.judge(mutant)
        finally:
            free.put(workspace)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as threads:
        for number in range(jobs):
            root = Path(folder, str(number))
            root.mkdir()
            free.put(Workspace(root))
        whole = free.get()
        failing = [f"{failed} fails without a mutant" for tests in _stages(mutants) if (failed := whole.failure(*tests))]
        free.put(whole)
        if failing:
            return failing
        print("| group | mutant | line | what | outcome | seconds |\n|---|---|---|---|---|---|", flush=True)
        runs = {threads.submit(judge, mutant): mutant for mutant in mutants}
        for run in as_completed(runs):
            mutant, verdict = runs[run], run.result()
            outcome = verdict.killer or ("ALIVE" if verdict.counts else "does not import, does not count")
            print(f"| {mutant.group} | {mutant.name} | {mutant.line} | {mutant.what} | {outcome} | {verdict.seconds:.0f} |", flush=True)
            if verdict.counts and bool(verdict.killer) == (mutant.name in SURVIVORS):
                wrong.append(f"{mutant.name} ({mutant.group}) {'is listed as a survivor and was killed' if verdict.killer else 'lives'}")
    return wrong


def _stages(mutants: Sequence[Mutant]) -> list[tuple[str, ...]]:
    """What all of them are judged by, each once."""
    return list(dict.fromkeys(tests for mutant in mutants for tests in mutant.stages))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Break the package on purpose and look whether a test notices.")
    parser.add_argument("--only", metavar="NAME", help="only this mutant, or this group: rows, law 1, law 2 ...")
    parser.add_argument("--each", type=int, default=6, help="how many mutants of each law (default: 6)")
    parser.add_argument("--all", action="store_true", help="all mutants of each law")
    parser.add_argument("--seed", type=int, default=1, help="which mutants of each law (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many side by side (default: 2)")
    parser.add_argument("--list", action="store_true", help="only name them")
    return parser


if __name__ == "__main__":
    main()
