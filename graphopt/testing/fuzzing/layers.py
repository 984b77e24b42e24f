"""Motifs: convolutions, pools, products, normalizations, attention, and what is fused with them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value
from graphopt.ir.types import DType
from graphopt.testing.fuzzing.sketch import Motif, Sketch, known, shape_of, vector_to

_AFTER = ("Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu")


def _int(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def _positive(s: Sketch, count: int) -> Any:
    data = np.random.default_rng(s.number(0, 5)).random(count) + 0.5
    return s.array(data.astype(s.float.numpy), s.float)


def _mostly_single(motif: Motif) -> Motif:
    """The motif in f32 nine times of ten: engines are slow with images of other types, or don't take them."""

    @functools.wraps(motif)
    def drawn(s: Sketch) -> object:
        kept = s.float
        s.float = DType.F32 if s.chance(90) else kept
        made = motif(s)
        s.float = kept
        return made

    return drawn


def batch_norm(s: Sketch, x: Value | None = None) -> Any:
    """BatchNormalization with constant statistics, or two of which are given."""
    x = x if x is not None else s.value(rank=(2, 4), where=lambda d: isinstance(d[1], int),
                                        shape=lambda: (s.dim(), s.size(), 4))  # fmt: skip
    channels = _int(shape_of(x)[1])
    attrs: dict[str, Any] = {"epsilon": float(np.float32(s.choice((1e-3, 1e-5, 0.1))))} if s.chance() else {}
    scale = s.constant(channels)
    return s("BatchNormalization", x, scale, s.constant(channels), s.constant(channels), _positive(s, channels), **attrs)  # fmt: skip


def _affine(s: Sketch, y: Value, axis: int = 1) -> Any:
    """What may be folded into the layer before it, or just misses that."""
    for _ in range(s.choice((1, 2, 1, 0))):
        kind = s.choice(("bn", "Mul", "Add", "Sub", "Div"))
        if kind == "bn":
            y = batch_norm(s, y)
            continue
        per_channel = s.chance(80)
        shape = vector_to(shape_of(y), axis if per_channel else s.choice(known(shape_of(y))))
        operand = (
            _positive(s, 1) if kind == "Div" and s.chance() else s.constant(*(shape if s.chance(80) else ()))
        )
        y = s(kind, operand, y) if kind in ("Add", "Mul", "Sub") and s.chance(25) else s(kind, y, operand)
    return y


@_mostly_single
def convolution(s: Sketch) -> object:
    """Conv of one or two dimensions, with groups, strides and padding, and a tail that can be folded."""
    places = 1 if s.chance(15) else 2
    x = s.image(places)
    channels, sizes = _int(shape_of(x)[1]), [_int(d) for d in shape_of(x)[2:]]
    group = s.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    outputs = group * s.choice((1, 2, 4)) if group > 1 else s.choice((4, 3, 16, 1))
    kernel = [min(s.choice((1, 3, 2)), size) for size in sizes]
    attrs: dict[str, Any] = {"group": group} if group > 1 else {}
    if s.chance(40):
        attrs["pads"] = tuple(s.number(0, 1) for _ in range(2 * places))
    elif s.chance(20):
        attrs["auto_pad"] = s.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    if s.chance(30):
        attrs["strides"] = tuple(s.choice((1, 2)) for _ in range(places))
    if (
        s.chance(15)
        and "auto_pad" not in attrs
        and all(size >= 2 * k - 1 for size, k in zip(sizes, kernel, strict=True))
    ):
        attrs["dilations"] = (2,) * places
    bias = [s.constant(outputs)] if s.chance() else []
    y = s("Conv", x, s.constant(outputs, channels // group, *kernel), *bias, **attrs)
    return _tail(s, _affine(s, y))


@_mostly_single
def stacked(s: Sketch) -> object:
    """Convolutions of many channels one after the other, as layouts are chosen for, with what stands between."""
    channels = s.choice((16, 8, 32))
    x = s.value(rank=4, where=lambda d: d[1] == channels and all(isinstance(e, int) and e > 5 for e in d[2:]),
                shape=lambda: (s.choice((1, 2)), channels, 8, s.choice((8, 9))))  # fmt: skip
    for _ in range(s.number(1, 3)):
        kind = s.choice(("Conv", "Conv", "depthwise", "MaxPool", "Add", "Relu", "Transpose"))
        if kind in ("Conv", "depthwise"):
            group = channels if kind == "depthwise" else 1
            w = s.constant(channels, channels // group, 3, 3, kind="normal")
            x = s("Conv", x, w, group=group, pads=(1, 1, 1, 1))
        elif kind == "MaxPool":
            x = s(kind, x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
        elif kind == "Add":
            x = s(kind, x, s.constant(channels, 1, 1))
        else:
            x = s("Relu", x)
            if kind == "Transpose":
                s(kind, x, perm=(0, 2, 3, 1))
    return s("Conv", x, s.constant(channels, channels, 3, 3, kind="normal"), pads=(1, 1, 1, 1))


@_mostly_single
def transposed_convolution(s: Sketch) -> object:
    """ConvTranspose, with groups, and a tail that can be folded."""
    x = s.image()
    channels = _int(shape_of(x)[1])
    group = s.choice([g for g in (1, 1, 2) if channels % g == 0])
    outputs = s.choice((2, 3, 1))
    attrs: dict[str, Any] = {"group": group, "strides": (s.choice((1, 2)), 1)}
    bias = [s.constant(outputs * group)] if s.chance() else []
    y = s("ConvTranspose", x, s.constant(channels, outputs, 2, s.choice((1, 2))), *bias, **attrs)
    return _affine(s, y)


def _tail(s: Sketch, y: Value) -> Any:
    """An activation, a residual, both or neither."""
    if s.chance(30):
        dims = shape_of(y)
        y = s("Add", y, s.value(rank=len(dims), where=lambda d: d == dims, shape=lambda: dims))
    return s(s.choice(_AFTER), y) if s.chance(60) else y


@_mostly_single
def pool(s: Sketch) -> object:
    """Pools, local and global."""
    x = s.image()
    kind = s.choice(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    if kind.startswith("Global"):
        return s(kind, x)
    attrs: dict[str, Any] = {"kernel_shape": (2, 2), "strides": (s.choice((1, 2)),) * 2}
    if s.chance(30):
        attrs["pads"] = (0, 1, 1, 0)
    if s.chance(20):
        attrs["ceil_mode"] = 1
    if kind == "AveragePool" and s.chance(30):
        attrs["count_include_pad"] = 1
    return s(kind, x, **attrs)


def product(s: Sketch) -> object:
    """MatMul by a constant, with a bias that fits or nearly fits, and an activation."""
    x = s.rows() if s.chance(60) else s.matrix()
    y = s("MatMul", x, s.constant(_int(shape_of(x)[-1]), s.choice((3, 4, 16, 1))))
    columns = _int(shape_of(y)[-1])
    if s.chance(70):
        bias = s.constant(*s.choice(((columns,), (1, columns), (), (1, 1, columns))))
        y = s("Add", bias, y) if s.chance(30) else s("Add", y, bias)
    return _tail(s, y)


def two_matrices(s: Sketch) -> object:
    """A product of two values that are not constant."""
    x = s.rows()
    inner = _int(shape_of(x)[-1])
    y = s.value(
        rank=2, where=lambda d: d[0] == inner and isinstance(d[1], int), shape=lambda: (inner, s.size())
    )
    return s("MatMul", x, y)


def gemm(s: Sketch) -> object:
    """Gemm with factors, transposed operands, a bias of any shape that broadcasts, and a tail that can be folded."""
    x = s.matrix()
    inner, columns = _int(shape_of(x)[-1]), s.choice((3, 4, 1))
    attrs: dict[str, Any] = {}
    if s.chance(35):
        attrs["alpha"] = s.choice((0.5, 2.0, 1.0, 0.0))
    if s.chance(35):
        attrs["beta"] = s.choice((0.25, 2.0, 0.0))
    if s.chance(40):
        attrs["transB"] = 1
    w = s.constant(columns, inner) if "transB" in attrs else s.constant(inner, columns)
    bias = [s.constant(*s.choice(((columns,), (1, columns), (), (1,))))] if s.chance(60) else []
    y = s("Gemm", x, w, *bias, **attrs)
    return _tail(s, _affine(s, y) if s.chance(75) else s("Add", y, s.constant(columns)))


def narrow_weights(s: Sketch) -> object:
    """A product by 8-bit weights that are widened and scaled first."""
    x = s.rows()
    inner, columns = _int(shape_of(x)[-1]), s.choice((3, 4, 16))
    q = s.constant(inner, columns, dtype=DType.I8, kind="small")
    shape = s.choice(((), (columns,), (1, columns), (inner, 1)))
    if s.chance(60) or shape not in ((), (columns,)) or s.float is DType.F64:
        w = s("Mul", s("Cast", q, to=s.float.value), s.constant(*shape))
    else:
        scale = np.random.default_rng(s.number(0, 5)).random(shape) + 0.25
        zero = [s.array(np.zeros(shape, np.int8))] if s.chance(40) else []
        attrs: dict[str, Any] = {"axis": 1} if shape else {}
        w = s("DequantizeLinear", q, s.const(scale, dtype=s.float.numpy), *zero, **attrs)
    return s("MatMul", x, w)


def layer_norm(s: Sketch) -> object:
    """Layer normalization in pieces, scaled and shifted; or RMS and instance normalization."""
    x = s.rows()
    axis, size = s.ints(-1), _int(shape_of(x)[-1])
    if s.chance(20):
        scale = s.constant(size)
        return s("LayerNormalization", x, scale, *([s.constant(size)] if s.chance() else []), axis=-1)  # fmt: skip
    centred = s("Sub", x, s("ReduceMean", x, axis))
    square = (
        s("Mul", centred, centred) if s.chance() else s("Pow", centred, s.const(2.0, dtype=s.float.numpy))
    )
    epsilon = s.const(s.choice((1e-5, 1e-3, 1e-12)), dtype=s.float.numpy)
    deviation = s("Sqrt", s("Add", s("ReduceMean", square, axis), epsilon))
    y = s("Div", centred, deviation) if s.chance(70) else s("Mul", centred, s("Reciprocal", deviation))
    if s.chance(70):
        shape = s.choice(((size,), (1, size), ()))
        y = s("Mul", y, s.constant(*shape)) if s.chance(70) else s("Mul", s.constant(*shape), y)
        if s.chance(70):
            y = s("Add", y, s.constant(size))
    return y


def reduction(s: Sketch) -> object:
    """Reductions over one axis, several, or all; and what is normalized by them."""
    x = s.value(rank=(1, 4))
    rank = len(shape_of(x))
    kind = s.choice(("ReduceMean", "ReduceSum", "ReduceMax", "Softmax", "ReduceMin", "ReduceL2", "LogSoftmax",
                     "CumSum", "ArgMax", "ReduceSumSquare"))  # fmt: skip
    axis = s.number(0, rank - 1)
    if kind in ("Softmax", "LogSoftmax"):
        return s(kind, x, axis=axis - rank if s.chance(70) else axis)
    if kind == "ArgMax":
        return s(kind, x, axis=axis, keepdims=s.number(0, 1))
    if kind == "CumSum":
        return s(kind, x, s.const(axis, dtype=np.int64), reverse=s.number(0, 1))
    axes = [] if s.chance(20) else [s.ints(*sorted({axis, s.number(0, rank - 1)}))]
    y = s(kind, x, *axes, keepdims=s.choice((1, 1, 0)))
    return s("Sub", x, y) if s.chance(30) and len(shape_of(y)) == rank else y


def attention(s: Sketch) -> object:
    """Attention with heads, a scale, and perhaps a mask; the three operands may be one."""
    x = s.value(rank=3, where=lambda d: d[2] == 8, shape=lambda: (s.dim(), s.dim(), 8))
    heads = []
    for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        projected = s("MatMul", x, s.constant(8, 8, kind="normal")) if s.chance(70) else x
        split = s("Reshape", projected, s.ints(0, 0, 2, 4))
        heads.append(s("Transpose", split, perm=perm))
    query, key, value = heads
    scores = s("MatMul", query, key)
    scale = s.const(0.5, dtype=s.float.numpy)
    scores = s("Mul", scores, scale) if s.chance(70) else scores
    if s.chance(30):
        scores = s("Add", scores, s.constant(2, 1, 1, kind="normal"))
    mixed = s("MatMul", s("Softmax", scores, axis=-1), value)
    joined = s("Transpose", mixed, perm=(0, 2, 1, 3))
    return s("Reshape", joined, s.ints(0, 0, 8)) if s.chance(80) else joined


@_mostly_single
def resized(s: Sketch) -> object:
    """Images scaled up by whole numbers."""
    x = s.image()
    scales = s.const([1.0, 1.0, 2.0, 2.0])
    return s("Resize", x, None, scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")  # fmt: skip


@_mostly_single
def gate(s: Sketch) -> object:
    """Channels scaled by what a pool over places says (squeeze and excitation)."""
    x = s.image()
    channels = _int(shape_of(x)[1])
    pooled = s("GlobalAveragePool", x) if s.chance() else s("ReduceMean", x, s.ints(2, 3))
    mixed = s("Conv", pooled, s.constant(channels, channels, 1, 1))
    return s("Mul", x, s("Sigmoid", mixed))


MOTIFS = (convolution, stacked, transposed_convolution, batch_norm, pool, product, two_matrices, gemm, narrow_weights,
          layer_norm, reduction, attention, resized, gate)  # fmt: skip
