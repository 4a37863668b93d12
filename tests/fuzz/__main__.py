"""``python -m tests.fuzz``: hostile input for every layer, each target in a process of its own. Ends with 1 when something was found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the fuzzer."""
    options = _parser().parse_args(arguments)
    if options.coverage:
        # Before anything of Aster is imported: it is instrumented on its way in.
        from tests.fuzz.coverage import guided

        guided(options.target, options.inputs, options.seed, options.keep)
        return
    from tests.fuzz.apart import run_apart
    from tests.fuzz.targets import TARGETS

    chosen = [TARGETS[name] for name in TARGETS if options.target in (None, name)]
    if not chosen:
        sys.exit(f"there is no target {options.target!r}; there are {', '.join(TARGETS)}")
    shares = sum(target.share for target in chosen)
    found = False
    for target in chosen:
        if options.index is not None:
            alone = target.batch > options.inputs
            inputs = range(options.index if alone else options.index // target.batch * target.batch, options.index + 1)
        else:
            inputs = range(options.inputs * target.share // shares)
        found |= run_apart(target.name, options.seed, inputs)
    sys.exit(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Hostile input for every layer.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many, over all targets that run (default: 1,000,000)")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="which inputs (default: 1)")
    parser.add_argument("--index", type=int, help="only the input of this number, after those of its batch before it")
    parser.add_argument("--coverage", action="store_true", help="let atheris look for inputs that reach new code, in one target; needs atheris")
    parser.add_argument("--keep", metavar="DIRECTORY", help="with --coverage: where to keep what it finds (default: a temporary folder)")
    return parser


if __name__ == "__main__":
    main()
