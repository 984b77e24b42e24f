"""Products with a bias, and Gemm in its plain form.

Gemm computes ``alpha * A' @ B' + beta * C``. A scale other than 1 goes into the operand if that is
constant: ``alpha * (A @ B) = A @ (alpha * B)`` up to rounding; an addition after a product of
matrices is the ``C`` of a Gemm. Products of higher rank keep their addition, which becomes an
epilogue of their region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, op, opt, refuse, var

_SCALED_SIZE_LIMIT = 1 << 26
"""Bytes of the largest operand that is copied to take a factor in."""


@register_pass("fuse-matmul-bias")
@dataclass(frozen=True)
class FuseMatMulBias(PatternPass):
    """Turn a matrix product with a bias into one Gemm, and take alpha and beta into constants."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return RULES


def _float_matrices(match: Match) -> Refusal | None:
    output = match.root.output.tensor
    if output.dtype not in (DType.F32, DType.F64, DType.F16, DType.BF16):
        return refuse("{} is not of floats", match.root)
    for name in ("a", "b"):
        if match[name].tensor.rank != 2:
            return refuse("{} is no matrix", match[name])
    return None


def _bias_fits(match: Match) -> Refusal | None:
    if (reason := _float_matrices(match)) is not None:
        return reason
    output, bias = match.root.output.tensor.shape, match["bias"].tensor.shape
    if output is None or bias is None or match.node("product").output.tensor.shape != output:
        return refuse("the shape of {} is unknown", match.root)
    if len(bias) > 2 or not _broadcasts(bias, output):
        return refuse("the bias {} does not broadcast to {}", match["bias"], match.root.output)
    if match.node("product").op == "Gemm" and match.node("product").attrs.get("beta", 1.0) != 1.0:
        return refuse("{} has beta", match.node("product"))
    return None


def _broadcasts(shape: Sequence[Dim], target: Sequence[Dim]) -> bool:
    tail = target[len(target) - len(shape) :]
    return all(dim in (1, wanted) for dim, wanted in zip(shape, tail, strict=True))


def _with_bias(rewriter: Rewriter, match: Match) -> Value:
    product = match.node("product")
    attrs = product.attrs if product.op == "Gemm" else {}
    return rewriter.create("Gemm", [match["a"], match["b"], match["bias"]], attrs, name=product.name).output


def _is_small(match: Match) -> Refusal | None:
    alpha = match.root.attrs.get("alpha", 1.0)
    if alpha in (0.0, 1.0):  # By 0, engines don't look at the operands, which may be infinite.
        return refuse("alpha is {}", alpha)
    return _copyable(match["b"], match)


def _bias_is_small(match: Match) -> Refusal | None:
    return _copyable(match["c"], match) if match.root.attrs.get("beta", 1.0) != 1.0 else refuse("beta is 1")


def _copyable(value: Value, match: Match) -> Refusal | None:
    data = value.const
    if data is None or not data.dtype.is_float:
        return refuse("{} is not of floats", match.root)
    return refuse("{} is too large to copy", value) if data.nbytes > _SCALED_SIZE_LIMIT else None


def _scaled(rewriter: Rewriter, value: Value, factor: object) -> Value:
    assert isinstance(factor, float) and value.const is not None
    data = value.const.numpy()
    with np.errstate(all="ignore"):
        scaled = (data.astype(np.float64) * factor).astype(data.dtype)
    return rewriter.constant(Tensor.of(scaled, value.const.dtype), value.name)


def _take_alpha(rewriter: Rewriter, match: Match) -> Value:
    attrs = {name: value for name, value in match.root.attrs.items() if name != "alpha"}
    b = _scaled(rewriter, match["b"], match.root.attrs["alpha"])
    return rewriter.create(
        "Gemm", [match["a"], b, *match.root.inputs[2:]], attrs, name=match.root.name
    ).output


def _take_beta(rewriter: Rewriter, match: Match) -> Value:
    attrs = {name: value for name, value in match.root.attrs.items() if name != "beta"}
    # Nothing of C is read when beta is 0, be it infinite.
    c = [_scaled(rewriter, match["c"], match.root.attrs["beta"])] if match.root.attrs["beta"] else []
    return rewriter.create("Gemm", [match["a"], match["b"], *c], attrs, name=match.root.name).output


_reordered = (Assumes.REASSOCIATION,)
_alpha = op("Gemm", var("a"), const("b"), opt(var("c")))
_beta = op("Gemm", var("a"), var("b"), const("c"))
_product = op("MatMul", var("a"), var("b"), name="product")
_gemm = op("Gemm", var("a"), var("b"), name="product")

RULES = (
    Rule("gemm-alpha", _alpha, _take_alpha, _is_small, _reordered),
    Rule("gemm-beta", _beta, _take_beta, _bias_is_small, _reordered),
    Rule("matmul-bias", op("Add", _product, const("bias")), _with_bias, _bias_fits, _reordered),
    Rule("gemm-bias", op("Add", _gemm, const("bias")), _with_bias, _bias_fits, _reordered),
)
