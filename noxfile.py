"""The project's chores: ``nox`` runs the checks, ``nox -s <name>`` one of them, ``nox -l`` lists them all.

Arguments after ``--`` go to pytest, or to the program that the session runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
PLAIN_TESTS = "tests/plain"


def _reveal_pyenv() -> None:
    """Put the interpreters that pyenv has built on the path: its shims answer only for the version that is selected."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [path.parent for version in PYTHONS for path in sorted(root.glob(f"{version}.*/bin/python{version}"))]
    os.environ["PATH"] = os.pathsep.join([*map(str, found), os.environ.get("PATH", "")])


_reveal_pyenv()
nox.needs_version = ">=2026.4"
nox.options.sessions = ["lint", "types", "plain", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite; a version whose interpreter is not found is skipped."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs, env={"ASTER_REQUIRE_TRIO": "1"})


@nox.session
def long(session: nox.Session) -> None:
    """Run the suite with many fresh Hypothesis examples; a failure prints how to repeat it."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "--timeout=1800", *session.posargs, env={"ASTER_HYPOTHESIS": "long", "ASTER_REQUIRE_TRIO": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; needs nothing but ruff, in the version that the test extra pins."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    session.install(*(requirement for requirement in project["optional-dependencies"]["test"] if requirement.startswith("ruff")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package and its tests with pyright, and the type tests with mypy as well."""
    session.install("-e", ".[test]")
    session.run("pyright")
    session.run("mypy")


@nox.session
def plain(session: nox.Session) -> None:
    """Serve and connect where only the package and its dependencies are installed: no extras, no trio, and the built wheel instead of the source tree."""
    session.install(".", "pytest>=9,<10")
    trio_is_absent = "import importlib.util, sys; sys.exit('trio is installed, so this proves nothing' if importlib.util.find_spec('trio') else 0)"
    session.run("python", "-c", trio_is_absent)
    # A configuration of its own: the project's asks for plugins that are not installed here. -P keeps the source tree off the path.
    apart = ["-c", os.devnull, "--rootdir", PLAIN_TESTS, "--confcutdir", PLAIN_TESTS, "-p", "no:cacheprovider", "-W", "error"]
    session.run("python", "-P", "-m", "pytest", *apart, PLAIN_TESTS)


@nox.session
def interop(session: nox.Session) -> None:
    """Compare payloads with Fory's JavaScript, given the path of a build of it; see tests/interop/README.md."""
    if len(session.posargs) != 1:
        session.error("give the compiled index.js of Fory's core package: nox -s interop -- path/to/core/dist/index.js")
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/interop", env={"ASTER_FORY_JS": os.path.abspath(session.posargs[0])})


@nox.session
def docs(session: nox.Session) -> None:
    """Run the code of the documentation."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/test_docs.py", "tests/test_error_reference.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed 1.3 million hostile inputs to every layer; ``-- --coverage --target NAME`` has atheris look for new ones."""
    session.install("-e", ".[test]")
    if "--coverage" in session.posargs:
        session.install("atheris==3.0.0")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure calls and messages a second, beside grpc.aio in the same run."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "tests.benchmark", *session.posargs)


@nox.session
def rows(session: nox.Session) -> None:
    """Measure what reading a part of a message costs in ROW, beside a whole decode in XLANG; ``-- --plot docs/topics/rows.svg`` draws it."""
    session.install("-e", ".", "matplotlib>=3.10,<4")
    session.run("python", "-m", "tests.benchmark.rows", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Make a hundred thousand calls and ten thousand that fail on each backend, over QUIC and over memory, and show that nothing of them stays."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Measure what hostile peers do to an honest client and to its server, on both backends."""
    session.install("-e", ".[test]")
    for backend in ("asyncio", "trio"):
        session.run("python", "-m", "tests.hostile", "--backend", backend, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Break each row of the transition tables and some places of each law, and see that a test fails; ``-- --all`` breaks all places."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.mutants", *session.posargs)
