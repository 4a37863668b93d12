"""Record the contracts anew, after a change that is meant to change them: ``python -m tests.contract``."""

from __future__ import annotations

from tests.contract.golden import FOLDER, as_recorded
from tests.contract.services import GOLDEN

for name, service in GOLDEN.items():
    path = FOLDER / f"{name}.json"
    changed = not path.exists() or path.read_text(encoding="utf-8") != as_recorded(service)
    path.write_text(as_recorded(service), encoding="utf-8")
    print(f"{path.name}: {'changed' if changed else 'as it was'}")
