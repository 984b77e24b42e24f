"""How a pipeline is run: what is verified, what a pass may take, who hears of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import ArgumentError, GraphoptError

Verify = Literal["structure", "numeric", "off"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a single pass may take; one that takes more is stopped with a PassError.

    Attributes:
        max_rewrites: transactions; None: in proportion to the size of the graph.
        pass_timeout: seconds; None: any time. Python code is interrupted wherever it is.
        abandon: what to do, in another thread, with a pass that is in a call of a C library and so
            can't be interrupted: end the process, say. None: wait until that call ends.

    Raises:
        ArgumentError: a limit is no positive number.
    """

    max_rewrites: int | None = None
    pass_timeout: float | None = None
    abandon: Callable[[GraphoptError], None] | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name, kind in (("max_rewrites", int), ("pass_timeout", float)):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, int | kind) and 0 < limit < float("inf")):
                raise ArgumentError(f"{name} must be a positive {kind.__name__}, not {limit!r}")
