"""Integer arithmetic for quantized layers.

A product of dequantized operands is an integer product, scaled::

    conv(sx * (x - zx), sw[o] * w) + sx * sw[o] * b[o]  =  sx * sw[o] * (convint(x - zx, w) + b[o])

``x`` is u8, ``w`` s8 with zero point 0, ``b`` s32 on the grid of the accumulator, so the sum in
brackets is exact where it can't overflow 32 bits, and
DequantizeLinear with the scale ``sx * sw`` gives what the floats would have given up to their
roundings. What follows (Relu, Add, QuantizeLinear) stays as it is and becomes the epilogue.

Movement and MaxPool commute with dequantization and are done on integers; then a DequantizeLinear
that meets the QuantizeLinear of the same grid goes away with it: ``round((q - z) * s / s) + z`` is
``q`` for 8-bit ``q``. Rectifying integers whose zero point is their least is nothing.

Padding of ConvInteger is with the zero point, that of Conv with 0: the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType
from graphopt.pipeline import Context, Effect, PatternPass, register_pass
from graphopt.rewrite import Assumes, Match, Refusal, Rule, const, op, opt, refuse, var
from graphopt_passes.affine_quantization import accumulator_room
from graphopt_passes.inline_regions import require_single_nodes
from graphopt_passes.quantizable import PASSING


@register_pass("lower-int8")
@dataclass(frozen=True)
class LowerInt8(PatternPass):
    """Turn quantized Conv, Gemm, MatMul and what moves data between them into integer operators."""

    effect = Effect.APPROXIMATE

    def rules(self) -> Sequence[Rule]:
        return RULES

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Applies the rules, then gives every user of 8-bit data a dequantization of its own."""
        require_single_nodes(rewriter.graph)
        before = rewriter.count
        super().run(rewriter, context)
        context.notes["lowered"] = rewriter.count - before
        if rewriter.count == before:
            context.logger.warning("lower-int8 found nothing to lower: quantize first, with quantize-static")
        for node in rewriter.graph.nodes:
            if node.op == "DequantizeLinear" and not node.domain:
                _dequantize_per_user(rewriter, node)


def _dequantize_per_user(rewriter: Rewriter, node: Node) -> None:
    """One DequantizeLinear for each user, so that each can take it into its region and read 8 bits."""
    data = node.inputs[0]
    users = node.output.users
    if data is None or data.is_constant or not _is_8_bit(data) or len(users) < 2 or node.output.is_output:
        return
    for user in users[1:]:
        if user.parent is node.parent:
            with rewriter.rewrite("dequantize-per-user", user):
                copy = rewriter.create(
                    "DequantizeLinear", node.inputs, node.attrs, outputs=[node.output.name], before=user
                )
                for use in node.output.uses:
                    if use.user is user:
                        rewriter.set_input(user, use.index, copy.output)


def _is_8_bit(value: Value) -> bool:
    return value.tensor.dtype in (DType.U8, DType.I8)


def _numbers(value: Value | None) -> Array | None:
    return (
        value.const.numpy() if value is not None and value.is_constant and value.const is not None else None
    )


# --- layers -------------------------------------------------------------------------------------

_LAYER_AXES = {"Conv": 0, "MatMul": 1, "Gemm": 1}


def _weight_axis(layer: Node) -> int:
    """The axis of the weight that runs over output channels."""
    return 0 if layer.attrs.get("transB", 0) else _LAYER_AXES[layer.op]


def _is_integer_layer(match: Match) -> Refusal | None:
    layer = match.root
    if match["x"].tensor.dtype is not DType.U8 or match["w"].tensor.dtype is not DType.I8:
        return refuse("{} is not of u8 by s8", layer)
    if match.array("sx").size != 1 or layer.output.tensor.dtype is not DType.F32:
        return refuse("the input of {} has more than one scale", layer)
    zero = _numbers(match.get("zw"))
    if match.get("zw") is not None and (zero is None or zero.any()):
        return refuse("the weight of {} has a zero point", layer)
    if match.array("sw").size != 1 and not _runs_over_channels(match):
        return refuse("the scales of {} don't run over output channels", layer)
    scaled = layer.attrs.get("alpha", 1.0) != 1.0 or layer.attrs.get("beta", 1.0) != 1.0
    if scaled or layer.attrs.get("transA", 0):
        return refuse("{} scales or transposes its operands", layer)
    if layer.op != "Conv" and match["w"].tensor.rank != 2:
        return refuse("{} is batched", layer)
    if not all(map(_is_normal, (match.array("sx"), match.array("sw"), _step(match)))):
        return refuse("a scale of {} is too small or too large for f32 to be exact", layer)
    return refuse("sums of {} may overflow", layer) if (_room(match) < 0).any() else None


def _is_normal(scale: Array) -> bool:
    """Whether f32 holds these numbers with all its bits."""
    return bool((np.isfinite(scale) & (np.abs(scale) >= np.finfo(np.float32).tiny)).all())


def _step(match: Match) -> Array:
    """What a step of the accumulator stands for."""
    with np.errstate(all="ignore"):
        return np.asarray(match.array("sx").reshape(()) * match.array("sw"), np.float32)


def _room(match: Match) -> Array:
    return accumulator_room(match.array("w"), _weight_axis(match.root))


def _runs_over_channels(match: Match) -> bool:
    scale, axis = match.array("sw"), match.node("dw").attrs.get("axis", 1)
    assert isinstance(axis, int)
    rank = match["w"].tensor.rank or 0
    return scale.ndim == 1 and axis % rank == _weight_axis(match.root)


def _on_accumulator_grid(match: Match) -> Refusal | None:
    if (reason := _is_integer_layer(match)) is not None:
        return reason
    if match["b"].tensor.dtype is not DType.I32 or match["b"].tensor.rank != 1:
        return refuse("the bias of {} is no vector of s32", match.root)
    wanted, given = match.array("sx") * match.array("sw"), match.array("sb")
    if given.size not in (1, wanted.size) or not np.allclose(given, wanted, rtol=1e-6, atol=0):
        return refuse("the bias of {} is not on the grid of its accumulator", match.root)
    if (np.abs(match.array("b").astype(np.int64)) > _room(match)).any():
        return refuse("sums of {} may overflow", match.root)
    return None


def _accumulate(rewriter: Rewriter, match: Match) -> Value:
    """The integer product, s32."""
    layer, weight, zero = match.root, match["w"], match.get("zx")
    zeros = _numbers(zero)
    shifts = [] if zero is None or (zeros is not None and not zeros.any()) else [zero]
    if layer.op == "Conv":
        return rewriter.create(
            "ConvInteger", [match["x"], weight, *shifts], layer.attrs, name=layer.name
        ).output
    if layer.attrs.get("transB", 0):
        weight = rewriter.constant(np.ascontiguousarray(match.array("w").T), weight.name)
    return rewriter.create("MatMulInteger", [match["x"], weight, *shifts], name=layer.name).output


def _scaled(rewriter: Rewriter, match: Match, accumulator: Value) -> Value:
    """The accumulator times ``sx * sw``, f32."""
    scale = _step(match)
    scale = scale.reshape(()) if scale.size == 1 else scale
    attrs = {}
    if scale.ndim:
        attrs["axis"] = 1 if match.root.op == "Conv" else (accumulator.tensor.rank or 0) - 1
    factor = rewriter.constant(scale, f"{match['w'].name}_step")
    return rewriter.create("DequantizeLinear", [accumulator, factor], attrs).output


def _along_channels(rewriter: Rewriter, match: Match, data: Array, name: str) -> Value:
    spatial = (match["w"].tensor.rank or 2) - 2 if match.root.op == "Conv" else 0
    return rewriter.constant(data.reshape(-1, *(1,) * spatial), name)


def _lower(rewriter: Rewriter, match: Match) -> Value:
    return _scaled(rewriter, match, _accumulate(rewriter, match))


def _lower_with_bias(rewriter: Rewriter, match: Match) -> Value:
    terms = _along_channels(rewriter, match, match.array("b"), match["b"].name)
    total = rewriter.create("Add", [_accumulate(rewriter, match), terms]).output
    return _scaled(rewriter, match, total)


def _lower_with_float_bias(rewriter: Rewriter, match: Match) -> Value:
    terms = _along_channels(rewriter, match, match.array("b"), match["b"].name)
    return rewriter.create("Add", [_lower(rewriter, match), terms]).output


def _has_float_bias(match: Match) -> Refusal | None:
    if match["b"].tensor.dtype is not DType.F32 or match["b"].tensor.rank != 1:
        return refuse("the bias of {} is no vector of floats", match.root)
    return _is_integer_layer(match)


_x = op("DequantizeLinear", var("x"), const("sx"), opt(const("zx")), shared=True)
_w = op("DequantizeLinear", const("w"), const("sw"), opt(const("zw")), name="dw", shared=True)
_b = op("DequantizeLinear", const("b"), const("sb"), ..., shared=True)


# --- between layers -----------------------------------------------------------------------------


def _has_one_grid(match: Match) -> Refusal | None:
    node = match.root
    if len(node.outputs) > 1 and any(v.num_uses for v in node.outputs[1:]):
        return refuse("{} gives indices", node)
    first = match.node("d")
    sources = node.inputs if node.op == "Concat" else node.inputs[:1]
    for value in sources:
        other = value.producer if value is not None else None
        if other is None or other.op != "DequantizeLinear" or not _same_integers(first, other):
            return refuse("the operands of {} have different grids", node)
    return None if _is_per_tensor(first) else refuse("{} has scales per channel", first)


def _is_per_tensor(node: Node) -> bool:
    data, scale = node.inputs[0], node.inputs[1]
    return data is not None and scale is not None and _is_8_bit(data) and scale.tensor.num_elements == 1


def _same_integers(a: Node, b: Node) -> bool:
    """Whether two DequantizeLinear take equal integers of one type for equal numbers."""
    first, second = a.inputs[0], b.inputs[0]
    if first is None or second is None or first.tensor.dtype is not second.tensor.dtype:
        return False
    return _same_grid(a, b)


def _same_grid(a: Node, b: Node) -> bool:
    return all(_same(a.input(i), b.input(i)) for i in (1, 2))


def _same(a: Value | None, b: Value | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or a.const is None or b.const is None:
        return False
    return a.is_constant and b.is_constant and a.const.same(b.const)


def _on_integers(rewriter: Rewriter, match: Match) -> Value:
    node, first = match.root, match.node("d")
    count = len(node.inputs) if node.op == "Concat" else 1
    sources = [v.producer.inputs[0] for v in node.inputs[:count] if v is not None and v.producer is not None]
    moved = rewriter.create(node.op, [*sources, *node.inputs[count:]], node.attrs, name=node.name).output
    return rewriter.create("DequantizeLinear", [moved, *first.inputs[1:]], first.attrs).output


def _returns_to_grid(match: Match) -> Refusal | None:
    if not _same_grid(match.node("d"), match.root) or not _is_per_tensor(match.node("d")):
        return refuse("{} goes to another grid", match.root)
    if match["q"].tensor.dtype is not match.root.output.tensor.dtype:
        return refuse("{} goes to another type", match.root)
    scale = match["s"].const
    if scale is not None and not _keeps_integers(scale.numpy()):
        return refuse("integers times the scale of {} are not finite", match.root)
    return None


def _keeps_integers(scale: Array) -> bool:
    """Whether every 8-bit integer, shifted by a zero point, times ``scale`` is a finite number other than 0."""
    with np.errstate(all="ignore"):
        widest = scale * scale.dtype.type(255)
    return bool(((scale > 0) & np.isfinite(widest)).all())


def _is_rectified(match: Match) -> Refusal | None:
    zero = _numbers(match.get("z"))
    if match["q"].tensor.dtype is DType.U8 and (
        match.get("z") is None or (zero is not None and not zero.any())
    ):
        return None
    return refuse("the integers of {} may stand for negative numbers", match.root)


_d = op("DequantizeLinear", var("q"), var("s"), opt(var("z")), name="d", shared=True)

_reordered = (Assumes.REASSOCIATION,)

RULES = (
    *(
        Rule(
            f"{name.lower()}-integer-bias",
            op(name, _x, _w, _b),
            _lower_with_bias,
            _on_accumulator_grid,
            _reordered,
        )
        for name in ("Conv", "Gemm")
    ),
    *(
        Rule(
            f"{name.lower()}-float-bias",
            op(name, _x, _w, const("b")),
            _lower_with_float_bias,
            _has_float_bias,
            _reordered,
        )
        for name in ("Conv", "Gemm")
    ),
    *(
        Rule(f"{name.lower()}-integer", op(name, _x, _w), _lower, _is_integer_layer, _reordered)
        for name in ("Conv", "Gemm", "MatMul")
    ),
    Rule("move-integers", op(sorted(PASSING), _d, ...), _on_integers, _has_one_grid),
    Rule(
        "requantize-nothing",
        op("QuantizeLinear", _d, var("s2"), opt(var("z2"))),
        lambda _, m: m["q"],
        _returns_to_grid,
        (Assumes.NO_INF,),
    ),
    Rule("rectify-nothing", op("Relu", _d), lambda _, m: m.node("d").output, _is_rectified),
)
