"""Programs of the examples, as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import aster

__all__ = ["ENVIRONMENT", "EXAMPLES", "PATIENCE", "Program", "running"]

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

PATIENCE = 45
"""Seconds for one program: three interpreters at the most, which take two seconds together on a machine that is not busy with anything else."""

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(aster.__file__).parent.parent), "PYTHONWARNINGS": "error"}

Program = subprocess.Popen[str]


@contextmanager
def running(program: str, *arguments: str, **environment: str) -> Generator[Program]:
    """A program of the examples, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / program), *arguments],
        env=ENVIRONMENT | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
