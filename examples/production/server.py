"""A server as it runs in earnest: its key and port stay, callers need a token, it logs, and SIGTERM lets running calls end.

``REPORTS_TOKEN=secret python examples/production/server.py --key server.key --port 4433``; the first line of output is its address.
"""

from __future__ import annotations

import argparse
import hmac
import logging
import os
from pathlib import Path

import anyio
from service import Report, ReportRequest, ReportService

import aster

logger = logging.getLogger("reports")


class Reports(ReportService):
    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def _admit(self) -> None:
        """Refuse a caller without the token. The connection is encrypted, and the client knows whom it talks to, so the token stays between the two."""
        call = aster.current_call()
        token = call.metadata.get("token", "")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token):
            logger.warning("refused %s at %s", call.peer.endpoint_id, call.peer.address)
            raise aster.RpcError(aster.StatusCode.UNAUTHENTICATED, "send this server's token as the metadata 'token'")

    @aster.rpc
    async def build(self, req: ReportRequest) -> Report:
        self._admit()
        logger.info("building %r", req.title)
        try:
            await anyio.sleep(req.seconds)
        except anyio.get_cancelled_exc_class():
            logger.info("nobody waits for %r any more", req.title)
            raise
        return Report(f"{req.title}: all is well")


def load_or_make(path: Path) -> aster.Identity:
    if not path.exists():
        aster.Identity.generate().save(path)
    return aster.Identity.load(path)


async def main(options: argparse.Namespace) -> None:
    reports = Reports(os.environ["REPORTS_TOKEN"])
    listen = f"127.0.0.1:{options.port}"  # for other machines: 0.0.0.0 here, and advertise= with the host that they reach
    async with aster.serve(services=[reports], listen=listen, identity=load_or_make(options.key), max_deadline=60.0) as server:
        print(server.address, flush=True)
        await server.serve()  # until SIGTERM or Ctrl-C
    logger.info("drained")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", type=Path, default=Path("server.key"), help="the key file, made at the first start")
    parser.add_argument("--port", type=int, default=0, help="0, the default, lets the system choose")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    anyio.run(main, parser.parse_args())
