"""Layer normalization, put together again from its parts.

``y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + shift`` over the last axis
(Ba, Kiros and Hinton, 2016). Recognized in steps: the quotient becomes a LayerNormalization whose
scale is 1, then a product with a vector becomes its scale and a sum with a vector its shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, one_of, op, refuse, var
from graphopt_passes.conditions import number, same_type


@register_pass("fuse-layer-norm")
@dataclass(frozen=True)
class FuseLayerNorm(PatternPass):
    """Recognize LayerNormalization over the last axis in its decomposed forms."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return RULES


_x = var("x")
_mean = op("ReduceMean", _x, const("mean_axes"), attrs={"keepdims": lambda v: v in (None, 1)})
_centred = op("Sub", _x, _mean)
_square = one_of(op("Mul", _centred, _centred), op("Pow", _centred, const(where=number(2.0))))
_variance = op("ReduceMean", _square, const("axes"), attrs={"keepdims": lambda v: v in (None, 1)})
_deviation = op("Sqrt", op("Add", _variance, const("epsilon")))
_quotient = one_of(op("Div", _centred, _deviation), op("Mul", _centred, op("Reciprocal", _deviation)))


def _is_over_last_axis(match: Match) -> Refusal | None:
    shape = match["x"].tensor.shape
    if shape is None or not shape or not isinstance(shape[-1], int):
        return refuse("the last dimension of {} is unknown", match["x"])
    if not same_type(match["x"], match.root.output):
        return refuse("{} and {} differ in type", match["x"], match.root.output)
    if match["x"].tensor.dtype not in (DType.F32, DType.F16, DType.BF16, DType.F64):
        return refuse("{} is not of floats", match["x"])
    for name in ("mean_axes", "axes"):
        axes = match.array(name)
        if axes.size != 1 or int(axes.reshape(-1)[0]) not in (-1, len(shape) - 1):
            return refuse("{} is not over the last axis", match.root)
    epsilon = match.array("epsilon")
    if epsilon.size != 1:
        return refuse("epsilon of {} is no number", match.root)
    if epsilon.dtype == np.float64 and float(np.float32(epsilon.item())) != epsilon.item():
        return refuse("epsilon of {} does not fit an attribute, which is of single precision", match.root)
    return None


def _normalize(rewriter: Rewriter, match: Match) -> Value:
    x = match["x"].tensor
    assert x.shape is not None and x.dtype is not None
    ones = rewriter.constant(np.ones(x.shape[-1:], x.dtype.numpy))
    epsilon = float(match.array("epsilon").reshape(()))
    attrs = {"axis": -1, "epsilon": epsilon}
    return rewriter.create("LayerNormalization", [match["x"], ones], attrs).output


def _is_vector(match: Match) -> Refusal | None:
    data, size = match["vector"].const, match["old"].tensor.shape
    if data is None or size is None or data.shape[:-1] != (1,) * (len(data.shape) - 1):
        return refuse("{} is no vector", match["vector"])
    if data.size != size[-1] or len(data.shape) > (match["x"].tensor.rank or 0):
        return refuse("{} does not run along the last axis", match["vector"])
    if len(match.node("norm").outputs) > 1 or data.dtype is not match.root.output.tensor.dtype:
        return refuse("{} gives more than its result", match.node("norm"))
    return None


def _vector(rewriter: Rewriter, match: Match) -> Value:
    data = match["vector"].const
    assert data is not None
    if len(data.shape) == 1:
        return match["vector"]
    return rewriter.constant(Tensor.of(data.numpy().reshape(-1), data.dtype), match["vector"].name)


def _with_scale(rewriter: Rewriter, match: Match) -> Value:
    inputs = [match["x"], _vector(rewriter, match)]
    return rewriter.create("LayerNormalization", inputs, match.node("norm").attrs).output


def _with_shift(rewriter: Rewriter, match: Match) -> Value:
    inputs = [match["x"], match["old"], _vector(rewriter, match)]
    return rewriter.create("LayerNormalization", inputs, match.node("norm").attrs).output


_unscaled = op("LayerNormalization", _x, const("old", value=1), name="norm")
_unshifted = op("LayerNormalization", _x, var("old"), name="norm")
_reordered = (Assumes.REASSOCIATION,)

RULES = (
    Rule("layer-norm", _quotient, _normalize, _is_over_last_axis, _reordered),
    Rule("layer-norm-scale", op("Mul", _unscaled, const("vector")), _with_scale, _is_vector, _reordered),
    Rule("layer-norm-shift", op("Add", _unshifted, const("vector")), _with_shift, _is_vector, _reordered),
)
