"""A client as it runs in earnest: the server's address and the token come from the environment, calls have a timeout, and Ctrl-C cancels them.

``ASTER_ENDPOINT_ADDR=aster://... REPORTS_TOKEN=secret python examples/production/client.py weekly --seconds 2 --timeout 10``
"""

from __future__ import annotations

import argparse
import os
import sys

import anyio
from service import ReportRequest, ReportService

import aster


async def main(options: argparse.Namespace) -> int:
    token = os.environ.get("REPORTS_TOKEN", "")
    try:
        async with aster.connect() as client:
            reports = aster.with_options(await client.client(ReportService), timeout=options.timeout, metadata={"token": token})
            report = await reports.build(ReportRequest(options.title, options.seconds))
    except aster.RpcError as exc:  # the call failed
        print(f"{exc.code.name}: {exc.message}", file=sys.stderr)
        return 1
    except aster.ConnectError as exc:  # there is no such server
        print(exc, file=sys.stderr)
        return 1
    print(report.text)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("title")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long the report takes")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for it")
    try:
        sys.exit(anyio.run(main, parser.parse_args()))
    except KeyboardInterrupt:
        # By now the call was cancelled, and its handler has ended.
        sys.exit(130)
