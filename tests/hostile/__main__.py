"""``python -m tests.hostile``: one attack after the other while an honest client works; prints a Markdown table.

Fails when a call of the honest client does, when anything is logged above INFO, or when a task or connection is left of the attacker. On Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import anyio

from tests.hostile.attacks import ATTACKS
from tests.hostile.measure import suffer

__all__ = ["main"]

_HEAD = "| attack | blows | honest calls | their rate | their slowest percent | MiB more at most | MiB more after |\n|---|---|---|---|---|---|---|"

_LEGEND = """Of the honest client, beside an equal time without the attack: its calls a second as a part of those then, and the time of its slowest
percent of calls as a multiple of that then. Of the server's process: resident memory above that before the attack.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the attacks that are asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="Measure what hostile peers do to an honest client and to its server.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack, and of the work without one before it (default: 5)")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="of server and honest client (default: asyncio)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help=f"only attacks with this in their name; may be repeated: {', '.join(ATTACKS)}"
    )
    options = parser.parse_args(arguments)
    names = [name for name in ATTACKS if not options.only or any(text in name for text in options.only)]
    if not names:
        sys.exit(f"no attack has such a name; there are {', '.join(ATTACKS)}")
    print(_LEGEND)
    print(_HEAD, flush=True)
    for name in names:
        print(anyio.run(suffer, name, options.seconds, backend=options.backend).row(), flush=True)


if __name__ == "__main__":
    main()
