"""What tuning found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.tune.cache import TuneCache


@dataclass(frozen=True)
class KernelResult:
    """What tuning found of one kernel.

    Attributes:
        nodes: labels of the nodes that it computes, one for each call in a run.
        analytic_seconds: of a call, alone, as the models choose.
        tuned_seconds: of a call as tuned; the same where nothing was faster.
        choices: for each knob that is not as the models choose: the option taken.
        analytic: for each of these the models' option.
        tried: how many ways were timed.
        complete: whether all were.
    """

    digest: str
    kernel: str
    nodes: tuple[str, ...]
    analytic_seconds: float
    tuned_seconds: float
    choices: Mapping[str, str] = field(default_factory=dict)
    analytic: Mapping[str, str] = field(default_factory=dict)
    tried: int = 0
    complete: bool = False

    @property
    def saved(self) -> float:
        """Seconds saved in a run of the model."""
        return len(self.nodes) * (self.analytic_seconds - self.tuned_seconds)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kernel": self.kernel,
            "digest": self.digest,
            "nodes": list(self.nodes),
            "analytic_seconds": self.analytic_seconds,
            "tuned_seconds": self.tuned_seconds,
            "choices": {
                knob: {"analytic": self.analytic[knob], "tuned": option}
                for knob, option in self.choices.items()
            },
            "tried": self.tried,
            "complete": self.complete,
        }


@dataclass(frozen=True)
class Tuned:
    """What tuning found of a model.

    Attributes:
        target: its text.
        kernels: those that were timed, the most expensive first.
        known: how many kernels need no tuning since the cache has them.
        symbolic: how many can't be tuned since their sizes are known only at the call.
        unfinished: how many a longer search would go on with.
        seconds: how long it took.
        cache: what was known before, and what was found.
    """

    target: str
    kernels: tuple[KernelResult, ...]
    known: int
    symbolic: int
    unfinished: int
    seconds: float
    cache: TuneCache

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target,
            "seconds": self.seconds,
            "known": self.known,
            "symbolic": self.symbolic,
            "unfinished": self.unfinished,
            "kernels": [kernel.as_dict() for kernel in self.kernels],
        }
