"""What a pipeline did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.rewrite import RuleStats


@dataclass(slots=True)
class PassRow:
    """One pass: seconds, transactions committed, sizes before and after (nodes of all regions, bytes of
    constants), rule counts, what the pass noted, and where numeric verification measured it the distance to the
    graph before it (largest |error| over largest |value|, by value) and the tolerance, in words."""

    index: int
    spec: str
    effect: str
    skipped: bool = False
    seconds: float = 0.0
    verify_seconds: float = 0.0
    rewrites: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    constant_bytes_before: int = 0
    constant_bytes_after: int = 0
    out_of_fuel: bool = False
    rules: RuleStats = field(default_factory=RuleStats)
    notes: dict[str, Any] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)
    tolerance: dict[str, str] = field(default_factory=dict)
    unverified: str = ""
    """Why numeric verification could not look at this pass; empty if it did or was not asked to."""
    left_out: list[str] = field(default_factory=list)
    """What numeric verification did not compare until then, and why."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "rules"}
        return {**plain, "rules": self.rules.as_dict()}


@dataclass(slots=True)
class Report:
    """One row per pass of a pipeline, in order."""

    pipeline: str
    verify: str = "structure"
    """How passes were verified."""
    rows: list[PassRow] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def unverified(self) -> str:
        """Why numeric verification compared nothing; empty if it did compare or was not asked to."""
        return next((row.unverified for row in self.rows if row.unverified), "")

    @property
    def left_out(self) -> list[str]:
        """What numeric verification did not compare, and why."""
        return list(dict.fromkeys(text for row in self.rows for text in row.left_out))

    @property
    def rewrites(self) -> int:
        """Transactions committed in all."""
        return sum(row.rewrites for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pipeline": self.pipeline,
            "verify": self.verify,
            "seconds": self.seconds,
            "passes": [r.as_dict() for r in self.rows],
        }
