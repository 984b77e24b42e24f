"""A convolution or product followed by an affine map of each output channel is one of them alone.

With ``y[o] = conv(x, w)[o] + b[o]`` and ``z[o] = y[o] * s[o] + t[o]``::

    z = conv(x, w')[o] + b'[o],    w'[o] = w[o] * s[o],    b'[o] = b[o] * s[o] + t[o]

BatchNormalization at inference is the map ``s = scale / sqrt(var + epsilon)``,
``t = bias - mean * s`` (Ioffe and Szegedy, 2015, algorithm 2); Mul, Div, Add and Sub with a
constant that varies along the channel axis only are others. Constants are computed in double
precision and rounded once. Products are summed in another order of roundings than before:
results differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.pipeline import Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, op, opt, refuse, var

Vector = np.ndarray[Any, np.dtype[np.float64]]


@register_pass("fuse-conv-bn")
@dataclass(frozen=True)
class FuseConvBatchNorm(PatternPass):
    """Fold BatchNormalization and per-channel Mul, Add, Sub and Div into the Conv or Gemm before them."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return tuple(_rule(linear, name) for linear in ("Conv", "ConvTranspose", "Gemm") for name in _MAPS)


@register_pass("decompose-batch-norm")
@dataclass(frozen=True)
class DecomposeBatchNorm(PatternPass):
    """Replace BatchNormalization with constant statistics by one Mul and one Add."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        pattern = op("BatchNormalization", var("x"), *_STATISTICS, name="map")
        return (Rule("batch-norm-to-affine", pattern, _to_affine, _can_decompose, (Assumes.REASSOCIATION,)),)


_STATISTICS = tuple(const(name) for name in ("scale", "bias", "mean", "var"))


def channel_vector(value: Value, rank: int, channels: int, axis: int = 1) -> Vector | None:
    """The constant ``value`` as one number per channel, when broadcasting it to a tensor of ``rank``
    changes along ``axis`` only and keeps the shape; None otherwise."""
    if value.const is None or not value.is_constant or len(value.const.shape) > rank:
        return None
    shape = (1,) * (rank - len(value.const.shape)) + value.const.shape
    if shape[axis] not in (1, channels) or any(dim != 1 for i, dim in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(value.const.numpy().astype(np.float64).reshape(-1), (channels,))


def batch_norm_map(node: Node, match: Match) -> tuple[Vector, Vector]:
    """Factor and term of each channel."""
    scale, bias, mean, variance = (
        match.array(n).astype(np.float64) for n in ("scale", "bias", "mean", "var")
    )
    epsilon = node.attrs.get("epsilon", 1e-5)
    assert isinstance(epsilon, float)
    with np.errstate(all="ignore"):
        # Attributes of ONNX are of single precision, whatever the tensors are of.
        factor = scale / np.sqrt(variance + float(np.float32(epsilon)))
        return factor, bias - mean * factor


def _affine_map(match: Match, rank: int, channels: int) -> tuple[Vector, Vector] | None:
    """Factor and term that the root applies to each channel, None when it is no such map."""
    node = match.root
    if node.op == "BatchNormalization":
        return batch_norm_map(node, match)
    operand = channel_vector(match["operand"], rank, channels)
    if operand is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    with np.errstate(all="ignore"):
        match node.op:
            case "Mul":
                return operand, zeros
            case "Div":
                return 1 / operand, zeros
            case "Add":
                return ones, operand
    return ones, -operand


def _channels(linear: Node, weight: Tensor) -> int:
    if linear.op == "Gemm":
        return weight.shape[0] if linear.attrs.get("transB", 0) else weight.shape[1]
    if linear.op == "ConvTranspose":
        return weight.shape[1] * _group(linear)
    return weight.shape[0]


def _group(node: Node) -> int:
    group = node.attrs.get("group", 1)
    assert isinstance(group, int)
    return group


def _scaled(linear: Node, weight: Vector, factor: Vector) -> Vector:
    if linear.op == "Gemm":
        return weight * (factor[:, None] if linear.attrs.get("transB", 0) else factor)
    spatial = (1,) * (weight.ndim - 2)
    if linear.op == "ConvTranspose":
        group = _group(linear)
        grouped = weight.reshape(group, -1, *weight.shape[1:])
        return (grouped * factor.reshape(group, 1, -1, *spatial)).reshape(weight.shape)
    return weight * factor.reshape(-1, 1, *spatial)


def _folded(match: Match) -> tuple[Vector, Vector] | Refusal:
    linear, weight = match.node("linear"), match["w"].const
    assert weight is not None
    rank, channels = len(weight.shape), _channels(linear, weight)
    if linear.op == "Gemm" and (
        linear.attrs.get("alpha", 1.0) != 1.0 or linear.attrs.get("beta", 1.0) != 1.0
    ):
        return refuse("{} scales its operands", linear)
    old = np.zeros(channels) if match.get("b") is None else channel_vector(match["b"], 2, channels)
    if old is None:
        return refuse("the bias of {} is no vector", linear)
    found = _affine_map(match, rank, channels)
    if found is None:
        return refuse("the operand of {} differs within a channel", match.root)
    factor, term = found
    with np.errstate(all="ignore"):
        folded = _scaled(linear, weight.numpy().astype(np.float64), factor), old * factor + term
    if not _leaves_room(*folded, weight.numpy()):
        return refuse("sums with the folded weights of {} may overflow", linear)
    return folded


def _leaves_room(factors: Vector, terms: Vector, given: np.ndarray[Any, Any]) -> bool:
    """Whether sums of ``terms`` and of products with ``factors`` stay in range: those of factors no larger than
    ``given``, whose type they get, or than the root of the largest number."""
    largest = float(ml_dtypes.finfo(given.dtype).max)
    most = np.maximum(np.abs(given.astype(np.float64)), largest**0.5)
    return bool((np.abs(factors) <= most).all() and (np.abs(terms) <= largest / 2).all())


def _can_fold(match: Match) -> Refusal | None:
    weight, root = match["w"].const, match.root
    if weight is None or weight.dtype is not root.outputs[0].tensor.dtype:
        return refuse("the element types of {} and its weights differ", root)
    if root.op == "BatchNormalization" and (reason := _is_training(root)) is not None:
        return reason
    # Cheap questions first: the arrays are only touched for maps of channels.
    folded = _folded(match)
    return folded if isinstance(folded, Refusal) else None


def _is_training(node: Node) -> Refusal | None:
    if node.attrs.get("training_mode", 0) or any(v.num_uses for v in node.outputs[1:]):
        return refuse("{} is training", node)
    return None


def _fold(rewriter: Rewriter, match: Match) -> Value:
    linear, dtype = match.node("linear"), match["w"].tensor.dtype
    folded = _folded(match)
    assert not isinstance(folded, Refusal) and dtype is not None
    hint = linear.outputs[0].name
    weight = rewriter.constant(Tensor.of(folded[0].astype(dtype.numpy)), match["w"].name)
    bias = rewriter.constant(Tensor.of(folded[1].astype(dtype.numpy)), f"{hint}_bias")
    return rewriter.create(linear.op, [match["x"], weight, bias], linear.attrs, name=linear.name).output


def _rule(linear: str, name: str) -> Rule:
    inner = op(linear, var("x"), const("w"), opt(const("b")), name="linear")
    operands = _STATISTICS if name == "BatchNormalization" else (const("operand"),)
    short = {"BatchNormalization": "bn"}.get(name, name.lower())
    return Rule(
        f"{linear.lower()}-{short}", op(name, inner, *operands), _fold, _can_fold, (Assumes.REASSOCIATION,)
    )


_MAPS = ("BatchNormalization", "Mul", "Div", "Add", "Sub")


def _can_decompose(match: Match) -> Refusal | None:
    node, x = match.root, match["x"].tensor
    if x.shape is None or len(x.shape) < 2:
        return refuse("the rank of {} is unknown", match["x"])
    if any(match[name].tensor.dtype is not x.dtype for name in ("scale", "bias", "mean", "var")):
        return refuse("{} mixes element types", node)
    if (reason := _is_training(node)) is not None:
        return reason
    assert x.dtype is not None
    if not _leaves_room(*batch_norm_map(node, match), np.zeros((), x.dtype.numpy)):
        return refuse("sums in place of {} may overflow", node)
    return None


def _to_affine(rewriter: Rewriter, match: Match) -> Value:
    x = match["x"]
    factor, term = batch_norm_map(match.root, match)
    assert x.tensor.dtype is not None and x.tensor.shape is not None
    shape = (-1,) + (1,) * (len(x.tensor.shape) - 2)
    numpy_type, hint = x.tensor.dtype.numpy, match.root.outputs[0].name
    scale = rewriter.constant(Tensor.of(factor.reshape(shape).astype(numpy_type)), f"{hint}_scale")
    shift = rewriter.constant(Tensor.of(term.reshape(shape).astype(numpy_type)), f"{hint}_shift")
    product = rewriter.create("Mul", [x, scale]).output
    return rewriter.create("Add", [product, shift]).output
