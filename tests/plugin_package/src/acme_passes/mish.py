"""x * tanh(softplus(x)) is Mish(x) (Misra, 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import graphopt as go
from graphopt.ir.graph import Value
from graphopt.rewrite import Match, Refusal, Rule, op, refuse, var

X = var("x")
MISH = op("Mul", X, op("Tanh", op("Softplus", X)))


@go.register_pass("fuse-mish")
@dataclass(frozen=True)
class FuseMish(go.PatternPass):
    """Recognize x * tanh(softplus(x)) as Mish."""

    effect = go.Effect.APPROXIMATE
    max_rank: int = field(
        default=8, metadata={"help": "leave tensors of a higher rank alone", "min": 0, "max": 8}
    )

    def rules(self) -> Sequence[Rule]:
        """The one rule."""
        return [Rule("mish", MISH, _mish, self._check)]

    def _check(self, match: Match) -> Refusal | None:
        rank = match["x"].tensor.rank
        return None if rank is not None and rank <= self.max_rank else refuse("rank is {}", rank)


def _mish(rewriter: go.Rewriter, match: Match) -> Value:
    return rewriter.create("Mish", [match["x"]]).output


@go.register_pass("wrong-mish")
@dataclass(frozen=True)
class WrongMish(go.PatternPass):
    """Takes Mish for Swish: for tests of verification."""

    effect = go.Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        """The one rule, which is wrong."""
        return [Rule("mish-is-swish", MISH, _swish)]


def _swish(rewriter: go.Rewriter, match: Match) -> Value:
    return rewriter.create("Swish", [match["x"]]).output
