"""Readers of QuantizeLinear, DequantizeLinear and of batch normalisation, which scale along one axis."""

from __future__ import annotations

from typing import cast

import numpy as np
from tvm import tirx

from graphopt.backend.readers.context import Context, reader
from graphopt.backend.readers.elementwise import attribute
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.scalars import widen
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Node, Value


def axis_operand(context: Context, node: Node, value: Value, indices: Indices) -> Expr:
    """A scale or zero point for the element at ``indices``: one number, one per channel, or blocks."""
    shape = shape_of(value)
    if not shape:
        return context.read(value, ())
    axis = cast(int, node.attrs.get("axis", 1)) % len(indices)
    if len(shape) == 1:
        return context.read(value, (indices[axis] if shape[0] != 1 else tirx.IntImm("int64", 0),))
    block = cast(int, node.attrs.get("block_size", 0))
    if block <= 0:
        raise refuse(node, "scales of this rank need a block_size")
    return context.read(
        value, tuple(index // block if i == axis else index for i, index in enumerate(indices))
    )


@reader("DequantizeLinear")
def _dequantize(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    x = context.input(node, 0, indices)
    scale_value, zero_value = node.inputs[1], node.input(2)
    assert scale_value is not None
    scale = axis_operand(context, node, scale_value, indices)
    if zero_value is not None:
        # The difference of two 8-bit or 16-bit integers needs more bits than they have.
        x = x.astype("int32") - axis_operand(context, node, zero_value, indices).astype("int32")
    result = context.rounded(x.astype("float32") * widen(scale).astype("float32"))
    return result.astype(dtype_of(node.outputs[0]))


@reader("QuantizeLinear")
def _quantize(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    x = widen(context.input(node, 0, indices)).astype("float32")
    scale_value, zero_value = node.inputs[1], node.input(2)
    assert scale_value is not None
    scale = widen(axis_operand(context, node, scale_value, indices)).astype("float32")
    wanted = dtype_of(node.outputs[0])
    if not np.issubdtype(np.dtype(wanted), np.integer):
        raise refuse(node, f"quantization to {wanted} is not compiled")
    scaled = tirx.nearbyint(x / scale)
    if zero_value is not None:
        scaled = scaled + axis_operand(context, node, zero_value, indices).astype("float32")
    return saturate(scaled, wanted)


def saturate(x: Expr, wanted: str) -> Expr:
    """A whole number in float32 as an integer of at most 16 bits, clamped to its range."""
    info = np.iinfo(wanted)
    low, high = tirx.const(float(info.min), type_of(x)), tirx.const(float(info.max), type_of(x))
    # Through int32: conversions to narrow integers do not vectorise.
    return tirx.min(tirx.max(x, low), high).astype("int32").astype(wanted)


@reader("BatchNormalization")
def _batch_norm(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    if node.attrs.get("training_mode", 0):
        raise refuse(node, "training mode is not compiled", "export the model for inference")
    x = widen(context.input(node, 0, indices))
    scale, bias, mean, variance = (
        widen(context.input(node, i, (indices[1] if len(indices) > 1 else tirx.IntImm("int64", 0),))).astype(
            type_of(x)
        )
        for i in range(1, 5)
    )
    epsilon = tirx.const(attribute(node, "epsilon", 1e-5), type_of(x))
    factor = context.bind(scale / tirx.sqrt(variance + epsilon))
    result = (x - mean) * factor + bias
    return result.astype(dtype_of(node.outputs[0]))


@reader("LRN")
def _local_response(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    """x / (bias + alpha/size * sum of squares over neighbouring channels) ** beta."""
    size = cast(int, node.attrs["size"])
    channels = context.extent(shape_of(node.outputs[0])[1])
    before = (size - 1) // 2

    def squared(place: Expr) -> Expr:
        safe = context.clamp(place, channels)
        x = context.bind(widen(context.input(node, 0, (indices[0], safe, *indices[2:]))))
        return x * x

    x = widen(context.input(node, 0, indices))
    dtype = type_of(x)
    total: Expr = None
    for offset in range(-before, size - before):
        place = indices[1] + offset
        term = (
            squared(place)
            if offset == 0
            else context.branch_zero(
                place >= 0 if offset < 0 else place < channels,
                lambda place=place: squared(place),  # type: ignore[misc]
            )
        )
        total = term if total is None else total + term
    alpha, beta, bias = (attribute(node, n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    base = context.bind(tirx.const(bias, dtype) + tirx.const(alpha / size, dtype) * total)
    if beta == 0.75:
        root = context.bind(tirx.sqrt(base))
        power = root * tirx.sqrt(root)
    else:
        power = tirx.pow(base, tirx.const(beta, dtype))
    return (x / power).astype(dtype_of(node.outputs[0]))
