"""Runs in which atheris looks for inputs that reach new code. It is no dependency: install it where it exists for the interpreter."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["guided"]

_LONGEST = 4_096


def guided(name: str | None, inputs: int, seed: int, keep: str | None) -> None:
    """Let atheris feed one target; what reaches new code is kept in ``keep``. Never returns."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris, with an interpreter that it has a wheel for; without --coverage it is not needed")
    # Aster alone: it is what inputs are to reach new code of, and to instrument all that it imports takes minutes.
    with atheris.instrument_imports(include=["aster"]):
        targets: Any = importlib.import_module("tests.fuzz.targets").TARGETS
    if name not in targets:
        sys.exit(f"--coverage wants one --target of {', '.join(targets)}")
    target = targets[name]
    found = Path(keep or tempfile.mkdtemp(prefix="aster-fuzz-"))  # new inputs go to the first directory, which must not be the corpus
    found.mkdir(parents=True, exist_ok=True)
    directories = [str(found), str(Path(__file__).parent / "corpus" / target.corpus)]
    world = _Worlds(target)
    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed}", f"-max_len={_LONGEST}", "-print_final_stats=1", *directories], world.run)
    atheris.Fuzz()


class _Worlds:
    """A world after the other, a batch of inputs each."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._left = 0
        self._world: Any = None
        self._run: Any = None

    def run(self, data: bytes) -> None:
        if not self._left:
            if self._world is not None:
                self._world.__exit__(None, None, None)
            self._world = self._target.open()
            self._run = self._world.__enter__()
            self._left = self._target.batch
        self._left -= 1
        outcome = self._run(data)
        assert outcome in self._target.outcomes, outcome
