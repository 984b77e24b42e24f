"""The strategies for random graphs that other tests use are used here too."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
for folder in ("ir", "passes"):
    if str(TESTS / folder) not in sys.path:
        sys.path.append(str(TESTS / folder))
