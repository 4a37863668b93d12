"""A copy of the project, in which one module at a time is changed and the tests are run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant, module_path

__all__ = ["Verdict", "Workspace"]

_COPIED = ("aster", "tests", "docs", "examples", "README.md", "pyproject.toml")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)
_STAGE_LIMIT = 900.0
"""Seconds after which the tests of a stage count as hung; those of tests/rpc take three minutes on a free core."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    killer: str
    """The test that failed, or what else ended the run; empty if the mutant is alive."""
    counts: bool
    """False if it could not even be imported."""
    seconds: float


class Workspace:
    """One copy; whoever has it runs one mutant after the other in it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, root / name)

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests of a mutant until one fails, and put the module back."""
        path = module_path(mutant.module, self._root / "aster")
        before = path.read_text("utf-8")
        began = time.monotonic()
        self._write(path, mutant.source)
        try:
            if self._run(["-c", f"import aster, {mutant.module}"], 60.0) != "":
                return Verdict("", False, time.monotonic() - began)
            killer = next((killer for tests in mutant.stages if (killer := self.failure(*tests))), "")
            return Verdict(killer, True, time.monotonic() - began)
        finally:
            self._write(path, before)

    def failure(self, *tests: str) -> str:
        """The first test that fails, or what else ended the run; empty if all pass."""
        return self._run(["-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests], _STAGE_LIMIT)

    def _run(self, arguments: list[str], limit: float) -> str:
        # The mutants profile of Hypothesis: few examples, and none is made smaller once it has failed.
        environment = os.environ | {"PYTHONPATH": str(self._root), "ASTER_HYPOTHESIS": "mutants", "ASTER_REQUIRE_TRIO": "1"}
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self._root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return "hung"
        finally:
            # Hung, or this run was interrupted.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode == 0:
            return ""
        if process.returncode in (4, 5):
            raise RuntimeError(f"pytest did not run any test: {output}")
        found = _FAILED.search(output)
        # pytest-timeout ends the process without a summary.
        return found[1] if found else "a test hung" if "Timeout" in output else f"ended with {process.returncode}"

    @staticmethod
    def _write(path: Path, source: str) -> None:
        path.write_text(source, "utf-8")
        # Python takes compiled code whose source had the same size and second for that of this source.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
