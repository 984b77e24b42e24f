"""The Gaussian error linear unit, put together again from its parts.

``gelu(x) = x/2 * (1 + erf(x / sqrt(2)))``, and its approximation
``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`` (Hendrycks and Gimpel, 2016). Exporters write
the three factors in any order, the division as a product, and the cube as a power or products.
The constants must agree to a relative 1e-4, which is what half precision leaves of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.types import DType
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, one_of, op, refuse, var
from graphopt.rewrite.patterns import OneOf, Op
from graphopt_passes.conditions import number, same_type


@register_pass("fuse-gelu")
@dataclass(frozen=True)
class FuseGelu(PatternPass):
    """Recognize Gelu, exact or by tanh, in its decomposed forms."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return RULES


_x = var("x")
_half = const(where=number(0.5))
_one = const(where=number(1.0))


def _halved(gate: Op) -> OneOf:
    """``x * gate / 2`` in any order of its products."""
    return one_of(
        op("Mul", op("Mul", _x, gate), _half),
        op("Mul", op("Mul", _x, _half), gate),
        op("Mul", _x, op("Mul", gate, _half)),
    )


_scaled = one_of(
    op("Div", _x, const(where=number(math.sqrt(2)))), op("Mul", _x, const(where=number(math.sqrt(0.5))))
)
_square = one_of(op("Mul", _x, _x), op("Pow", _x, const(where=number(2.0))))
_cube = one_of(op("Pow", _x, const(where=number(3.0))), op("Mul", _x, _square))
_cubic = op("Add", _x, op("Mul", _cube, const(where=number(0.044715))))
_bent = op("Mul", _cubic, const(where=number(math.sqrt(2 / math.pi))))


def _same_type(match: Match) -> Refusal | None:
    if match["x"].tensor.dtype is DType.F64:
        return refuse("{} is of doubles, for which engines have Gelu in single precision", match["x"])
    if same_type(match["x"], match.root.output):
        return None
    return refuse("{} and {} differ in type", match["x"], match.root.output)


def _gelu(approximate: str) -> Callable[[Rewriter, Match], Value]:
    def rewrite(rewriter: Rewriter, match: Match) -> Value:
        return rewriter.create("Gelu", [match["x"]], {"approximate": approximate}).output

    return rewrite


RULES = (
    Rule(
        "gelu-erf",
        _halved(op("Add", op("Erf", _scaled), _one)),
        _gelu("none"),
        _same_type,
        (Assumes.REASSOCIATION, Assumes.ROUNDED_CONSTANTS),
    ),
    Rule(
        "gelu-tanh",
        _halved(op("Add", op("Tanh", _bent), _one)),
        _gelu("tanh"),
        _same_type,
        (Assumes.REASSOCIATION, Assumes.ROUNDED_CONSTANTS),
    ),
)
