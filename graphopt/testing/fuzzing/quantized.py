"""Motifs: quantized values and layers, and what moves between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Value
from graphopt.ir.types import DType
from graphopt.testing.fuzzing.sketch import Sketch, shape_of

_SCALES = (0.05, 0.1, 0.02, 0.05, 1e-40, 2e38)


def _grid(s: Sketch) -> list[Value]:
    zero = s.choice((128, 0, 3))
    return [s.const(s.choice(_SCALES)), s.const(zero, dtype=np.uint8)]


def _quantized(s: Sketch, x: Value, grid: list[Value]) -> Any:
    return s("DequantizeLinear", s("QuantizeLinear", x, *grid), *grid)


def rounded(s: Sketch) -> object:
    """Quantized and widened again, once or twice on one grid or two."""
    x = s.value(DType.F32)
    grid = _grid(s)
    y = _quantized(s, x, grid)
    if s.chance(60):
        y = s(s.choice(("Relu", "Identity")), y) if s.chance(40) else y
        y = _quantized(s, y, grid if s.chance(60) else _grid(s))
    return y


def moved(s: Sketch) -> object:
    """Movement between two roundings on one grid."""
    grid = _grid(s)
    x = _quantized(s, s.value(DType.F32, (2, 3)), grid)
    rank = len(shape_of(x))
    kind = s.choice(("Transpose", "Reshape", "Concat", "Unsqueeze", "Slice", "Flatten"))
    if kind == "Transpose":
        y = s(kind, x, perm=s.order(rank))
    elif kind == "Concat":
        y = s(kind, x, x if s.chance() else _quantized(s, s("Neg", x), grid), axis=0)
    elif kind == "Flatten":
        y = s(kind, x, axis=1)
    elif kind == "Slice":
        y = s(kind, x, s.ints(0), s.ints(s.choice((1, 9))), s.ints(0))
    else:
        y = s(kind, x, s.ints(-1 if kind == "Reshape" else 0))
    return _quantized(s, y, grid if s.chance(75) else _grid(s))


def layer(s: Sketch) -> object:
    """Conv, Gemm or MatMul of u8 by s8 with a bias of s32 or of floats, then rounded."""
    kind = s.choice(("Conv", "Gemm", "MatMul"))
    grid = _grid(s)
    attrs: dict[str, Any] = {}
    outputs = s.choice((4, 3))
    x = (
        _image(s)
        if kind == "Conv"
        else s.value(DType.F32, 2, lambda d: isinstance(d[1], int), lambda: (s.dim(), s.size()))
    )
    inner = shape_of(x)[1]
    assert isinstance(inner, int)
    weight: tuple[int, ...] = (outputs, inner, 1, s.choice((1, 2)))
    axis = 0
    if kind != "Conv":
        weight, axis = (inner, outputs), 1
        if kind == "Gemm" and s.chance(30):
            weight, axis, attrs = weight[::-1], 0, {"transB": 1}
    per_channel = s.chance()
    scale = np.random.default_rng(s.number(0, 5)).random(outputs if per_channel else ()) * 0.1 + 0.01
    step = np.asarray(scale, np.float32)
    q = s.constant(*weight, dtype=DType.I8, kind="small")
    along: dict[str, Any] = {"axis": axis} if per_channel else {}
    w = s("DequantizeLinear", q, s.const(step), **along)
    rounded_x = _quantized(s, x, grid)
    bias = []
    if kind != "MatMul" and s.chance(70):
        bias = [_bias(s, outputs, grid[0], step)]
    y = s(kind, rounded_x, w, *bias, **attrs)
    y = s("Relu", y) if s.chance(40) else y
    return _quantized(s, y, _grid(s)) if s.chance() else y


def _bias(s: Sketch, outputs: int, scale: Value, step: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """A vector of floats, or of s32 on the grid of the accumulator."""
    if s.chance(30):
        return s.constant(outputs, dtype=DType.F32)
    assert scale.const is not None
    total = np.asarray(scale.const.numpy() * step, np.float32)
    terms = s.constant(outputs, dtype=DType.I32, kind="small")
    attrs: dict[str, Any] = {"axis": 0} if step.ndim else {}
    return s("DequantizeLinear", terms, s.const(total), **attrs)


def _image(s: Sketch) -> Any:
    return s.value(
        DType.F32, 4, lambda d: isinstance(d[1], int) and all(isinstance(e, int) and e > 1 for e in d[2:]),
        lambda: (s.choice((1, 2)), s.choice((3, 4)), 4, 4),
    )  # fmt: skip


def pooled(s: Sketch) -> object:
    """A pool between roundings, and a value that several read rounded."""
    grid = _grid(s)
    x = _quantized(s, _image(s), grid)
    y = s("MaxPool", x, kernel_shape=(2, 2))
    s("Relu", x)
    s("Tanh", x)
    return _quantized(s, y, grid)


MOTIFS = (rounded, moved, layer, pooled)
