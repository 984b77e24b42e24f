"""Opset 7: broadcasting by attributes gives way to NumPy's rules; flags of training are dropped."""

from __future__ import annotations

from graphopt.ir.graph import Value
from graphopt.onnx_io.upgrade.legacy import Legacy


def broadcast_7(node: Legacy) -> None:
    """``axis`` says where the dimensions of B begin in those of A; ones are put behind them instead."""
    does_broadcast = node.take_number("broadcast", 0)
    axis = node.number("axis", -1) if "axis" in node.attrs else None
    node.attrs.pop("axis", None)
    if not does_broadcast or axis is None:
        return
    rank, own = node.known_rank(0), node.known_rank(1)
    axis = axis + rank if axis < 0 else axis
    behind = rank - axis - own
    if behind > 0:
        node.inputs[1] = _with_ones_behind(node, node.data(1), own, behind)


def prelu_7(node: Legacy) -> None:
    """A slope for each channel of ``(N, C, ...)`` becomes one of shape ``(C, 1, ...)``."""
    slope = node.data(1).tensor
    if slope.shape is None or len(slope.shape) != 1 or slope.shape == (1,):
        return
    behind = node.known_rank(0) - 2
    if behind > 0:
        node.inputs[1] = _with_ones_behind(node, node.data(1), 1, behind)


def _with_ones_behind(node: Legacy, value: Value, rank: int, count: int) -> Value:
    return node.emit("Unsqueeze", value, node.constant(list(range(rank, rank + count))))


def gemm_7(node: Legacy) -> None:
    """C broadcasts without being told to."""
    node.attrs.pop("broadcast", None)


def without_test_flag_7(node: Legacy) -> None:
    """BatchNormalization and Dropout are for inference unless they have more outputs."""
    node.attrs.pop("is_test", None)


def recurrent_7(node: Legacy) -> None:
    """Which outputs are there says which are wanted."""
    node.attrs.pop("output_sequence", None)


def upsample_7(node: Legacy) -> None:
    """Two scales become one for each axis of ``(N, C, H, W)``."""
    height, width = node.take_float("height_scale", 1.0), node.take_float("width_scale", 1.0)
    node.attrs["scales"] = (1.0, 1.0, height, width)
