"""Python's garbage collector, kept away while many nodes are made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """No collections inside.

    A graph is one large web of references that stays alive; each collection would walk all of it and
    free next to nothing, which makes the time to build or rewrite it quadratic.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
