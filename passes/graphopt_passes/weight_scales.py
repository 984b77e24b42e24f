"""Scales of 8-bit weights, applied to the product instead of to the weights.

    x @ (Cast(q) * s)  =  (x @ Cast(q)) * s        for one scale, or one for each column

The weights then enter the product as they are stored, in a quarter of the memory, and kernels can
multiply with integers. Up to rounding the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, op, opt, refuse, var

_FLOAT = 1
"""ONNX's number of the type that weights are widened to."""


@register_pass("scale-after-product")
@dataclass(frozen=True)
class ScaleAfterProduct(PatternPass):
    """Multiply products with 8-bit weights by the weights' scales, instead of the weights."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return RULES


def _fits(match: Match) -> Refusal | None:
    weights, scale = match["q"].tensor, match["scale"].const
    if weights.dtype is not DType.I8 or weights.rank != 2 or weights.shape is None:
        return refuse("{} is no matrix of 8-bit integers", match["q"])
    if match["x"].tensor.dtype is not DType.F32 or match.root.output.tensor.dtype is not DType.F32:
        return refuse("{} is not of 32-bit floats", match.root)
    if scale is None or len(scale.shape) > 2:
        return refuse("{} is not the scale of a matrix", match["scale"])
    if scale.size != 1 and (scale.shape[-1] != weights.shape[-1] or scale.size != scale.shape[-1]):
        return refuse("{} is no scale for each column", match["scale"])
    return None


def _fits_quantized(match: Match) -> Refusal | None:
    if (reason := _fits(match)) is not None:
        return reason
    scale, zero = match["scale"].const, match.get("zero")
    assert scale is not None
    if zero is not None and (zero.const is None or zero.const.numpy().any()):
        return refuse("the zero point {} is not 0", zero)
    if scale.size != 1 and match.node("widened").attrs.get("axis", 1) not in (1, -1):
        return refuse("{} has a scale for each row", match.node("widened"))
    return None


def _late(rewriter: Rewriter, match: Match, weights: Value) -> Value:
    scale = match["scale"].const
    assert scale is not None
    flat = scale.numpy().reshape(() if scale.size == 1 else (-1,))
    factor = rewriter.constant(Tensor.of(flat, DType.F32), match["scale"].name)
    product = rewriter.create("MatMul", [match["x"], weights]).output
    return rewriter.create("Mul", [product, factor]).output


def _cast(rewriter: Rewriter, match: Match) -> Value:
    return _late(rewriter, match, match.node("cast").output)


def _widened(rewriter: Rewriter, match: Match) -> Value:
    return _late(rewriter, match, rewriter.create("Cast", [match["q"]], {"to": _FLOAT}).output)


_x, _q, _scale = var("x"), const("q"), const("scale")
_scaled = op("Mul", op("Cast", _q, name="cast"), _scale)
_dequantized = op("DequantizeLinear", _q, _scale, opt(var("zero")), name="widened")
_reordered = (Assumes.REASSOCIATION,)

RULES = (
    Rule("scale-after-product", op("MatMul", _x, _scaled), _cast, _fits, _reordered),
    Rule("dequantize-after-product", op("MatMul", _x, _dequantized), _widened, _fits_quantized, _reordered),
)
