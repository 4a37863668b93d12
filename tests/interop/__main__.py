"""``python -m tests.interop BUILD`` records the golden files anew, with the build of Fory's JavaScript at that path."""

from __future__ import annotations

import sys

from tests.interop import golden
from tests.interop.javascript import run_javascript

golden.save(golden.ASTER, golden.aster_payloads())
golden.save(golden.JAVASCRIPT, run_javascript(sys.argv[1]))
