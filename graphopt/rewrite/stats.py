"""What the rules of a pass did: attempts, hits, refusals by reason, time."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.rewrite.rule import Refusal


@dataclass(slots=True)
class RuleCount:
    """``attempts``: times the pattern was tried (after the early reject by operators);
    ``refusals``: by reason, how often and the first one; ``seconds``: match, check and rewrite."""

    attempts: int = 0
    hits: int = 0
    seconds: float = 0.0
    refusals: dict[str, tuple[int, Refusal | str]] = field(default_factory=dict)
    source: str = ""

    def refused(self, reason: Refusal | str) -> None:
        """Counts one refusal."""
        key = reason.template if isinstance(reason, Refusal) else reason
        count, first = self.refusals.get(key, (0, reason))
        self.refusals[key] = (count + 1, first)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        refusals = [{"reason": str(first), "count": count} for count, first in self.refusals.values()]
        return {
            "attempts": self.attempts, "hits": self.hits, "seconds": self.seconds, "refusals": refusals,
            "source": self.source,
        }  # fmt: skip


@dataclass(slots=True)
class RuleStats:
    """Counts by rule name, in the order in which rules first appear."""

    rules: dict[str, RuleCount] = field(default_factory=dict)

    def of(self, rule: str) -> RuleCount:
        """The counts of ``rule``."""
        return self.rules.setdefault(rule, RuleCount())

    @property
    def hits(self) -> int:
        return sum(count.hits for count in self.rules.values())

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {name: count.as_dict() for name, count in self.rules.items()}
