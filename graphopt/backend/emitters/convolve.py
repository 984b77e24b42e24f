"""Conv and ConvInteger: the hand-built kernels where they apply, plain folds elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tvm import tirx

from graphopt.backend.arguments import Array, Packed
from graphopt.backend.emitters.places import Place, View, add
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.rows import emit_rows
from graphopt.backend.emitters.windows import Window, spatial, windows_of
from graphopt.backend.kernels.conv import ConvSpec, emit_conv, pack_conv_weights, packed_conv_shape
from graphopt.backend.kernels.emit import i64, static
from graphopt.backend.kernels.int8 import (
    emit_conv_int8,
    pack_conv_int8_weights,
    packed_conv_int8_shape,
)
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.scalars import widen
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Shape
from graphopt.ir.graph import Node, Value

if TYPE_CHECKING:
    from graphopt.backend.emitters.stages import Stages

_ZERO = tirx.IntImm("int64", 0)
Factors = tuple[Callable[[Indices], Expr], Callable[[Indices], Expr]]
"""How a factor of a product is read from the first operand, and the other one from the second."""


@emitter("Conv")
def _conv(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    sink = with_bias(work, node, sinks[0])
    weights = operand(node, 1)
    spec = conv_spec(work, node, weights, ("float32", "float16", "float64"))
    if work.stages is not None or spec is None or weights not in work.context.region.constants:
        fold_conv(work, node, sink, float_factors(work, node), weights)
        return
    machine = work.machine
    packed = Packed(
        packed_conv_shape(spec, machine),
        "float32" if spec.dtype == "float16" else spec.dtype,
        lambda data: pack_conv_weights(spec, machine, data),
        ("conv", spec.groups, spec.kernel, packed_conv_shape(spec, machine)),
    )
    buffer = work.arguments.pack(weights, packed)
    emit_conv(spec, machine, work.materialized(operand(node, 0)), buffer, sink)


def with_bias(work: Work, node: Node, sink: Sink) -> Sink:
    """Adds the third input, one number per channel."""
    bias = node.input(2)
    if bias is None:
        return sink

    def store(value: Expr, indices: Sequence[Expr]) -> None:
        sink(value + work.context.closed(lambda: work.context.read(bias, (indices[1],))), indices)

    return store


def conv_spec(work: Work, node: Node, weights: Value, dtypes: tuple[str, ...]) -> ConvSpec | None:
    """The convolution as the kernels take it; None where they don't."""
    x, w = shape_of(operand(node, 0)), shape_of(weights)
    size, out = spatial(node)
    windows = windows_of(node, work.context.symbols, w[2:], size, out)
    dtype = dtype_of(operand(node, 0))
    static_pads = all(isinstance(window.pad, int) for window in windows)
    if dtype not in dtypes or not static_pads or not isinstance(x[1], int):
        return None
    return ConvSpec(
        batch=static(work.context.extent(x[0])),
        in_channels=x[1],
        out_channels=cast(int, w[0]),
        spatial=tuple(static(work.context.extent(dim)) for dim in size),
        kernel=tuple(window.kernel for window in windows),
        groups=cast(int, node.attrs.get("group", 1)),
        strides=tuple(window.stride for window in windows),
        pads_begin=tuple(window.pad for window in windows),
        pads_end=tuple(window.pad_end for window in windows),
        dilations=tuple(window.dilation for window in windows),
        dtype=dtype,
    )


def float_factors(work: Work, node: Node) -> Factors:
    """x[i] and w[j], 16-bit floats in float32."""
    context = work.context
    return (
        lambda at: widen(context.read(operand(node, 0), at)),
        lambda at: widen(context.read(operand(node, 1), at)),
    )


@emitter("ConvInteger")
def _conv_integer(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    zeros = node.input(2), node.input(3)
    if not emit_integer_conv(work, node, sinks[0], operand(node, 1), zeros):
        fold_conv(work, node, sinks[0], integer_factors(work, node, (1, 0)), operand(node, 1))


def emit_integer_conv(
    work: Work, node: Node, sink: Sink, weights: Value, zeros: tuple[Value | None, Value | None]
) -> bool:
    """The integer kernel, for constant 8-bit weights; ``zeros`` are the zero points of data and weights.

    Returns:
        False where it does not apply; nothing was emitted then.
    """
    data_zero, weight_zero = zeros
    spec = conv_spec(work, node, weights, ("uint8", "int8"))
    offset = integer_offset(work, weights, weight_zero)
    if work.stages is not None or spec is None or offset is None or not is_scalar(data_zero):
        return False
    machine, wide = work.machine, needs_wide(weights, offset)
    shape = packed_conv_int8_shape(spec, machine, wide)
    packed = Packed(
        shape,
        "int32",
        lambda data: pack_conv_int8_weights(spec, machine, shifted_weights(data, offset, 0), wide),
        (
            "conv_int8",
            spec.groups,
            spec.kernel,
            shape,
            wide,
            None if weight_zero is None else weight_zero.name,
        ),
    )
    buffer = work.arguments.pack(weights, packed)
    zero = scalar_zero(work, data_zero)
    x = work.materialized(operand(node, 0))
    emit_conv_int8(spec, machine, x, buffer, sink, zero, wide)
    return True


def is_scalar(value: Value | None) -> bool:
    """Whether an optional operand is absent or a single number."""
    return value is None or all(dim == 1 for dim in shape_of(value))


def scalar_zero(work: Work, zero: Value | None) -> Expr:
    """A zero point that is one number, as int32."""
    if zero is None:
        return tirx.const(0, "int32")
    at = [_ZERO] * len(shape_of(zero))
    return work.context.closed(lambda: work.context.read(zero, at)).astype("int32")


def integer_offset(work: Work, weights: Value, zero: Value | None) -> Array | None:
    """The zero points of constant 8-bit weights (0 where there are none); None where a kernel can't use them."""
    constants = work.context.region.constants
    if weights not in constants or dtype_of(weights) not in ("int8", "uint8"):
        return None
    if zero is None:
        return np.zeros((), np.int16)
    data = work.context.constant(zero)
    return (
        None
        if data is None or data.ndim > 1
        else data.astype(np.int16).reshape(data.shape if data.size > 1 else ())
    )


def needs_wide(weights: Value, offset: Array) -> bool:
    """Whether weights less their zero points leave the range of int8."""
    return dtype_of(weights) == "uint8" or bool(offset.any())


def shifted_weights(data: Array, offset: Array, axis: int) -> Array:
    """Weights less their zero points, which lie along ``axis``, as int16; as they are where those are 0."""
    if data.dtype == np.int8 and not offset.any():
        return data
    shape = [1] * data.ndim
    if offset.ndim:
        shape[axis] = -1
    return data.astype(np.int16) - offset.reshape(shape)


def integer_factors(work: Work, node: Node, axes: tuple[int, int]) -> Factors:
    """x[i] - zero and w[j] - zero in int32; ``axes`` are those that a list of zero points belongs to."""
    context = work.context

    def shifted(which: int, indices: Indices) -> Expr:
        value, zero = operand(node, which), node.input(which + 2)
        x = context.read(value, indices).astype("int32")
        if zero is None:
            return x
        shape = shape_of(zero)
        place = (indices[axes[which]],) if shape and shape[0] != 1 else (_ZERO,) * len(shape)
        return x - context.read(zero, place).astype("int32")

    return lambda at: shifted(0, at), lambda at: shifted(1, at)


def fold_conv(
    work: Work,
    node: Node,
    sink: Sink,
    factors: Factors,
    weights: Value,
    dtype: str | None = None,
) -> None:
    """A convolution as a fold over channels and taps, for whatever has no kernel of its own.

    ``dtype`` is the type of the sum where it is not that of the output.
    """
    x, w = operand(node, 0), weights
    size, out = spatial(node)
    windows = windows_of(node, work.context.symbols, shape_of(w)[2:], size, out)
    rank, groups = len(windows), cast(int, node.attrs.get("group", 1))
    group_in, group_out = shape_of(w)[1], cast(int, shape_of(w)[0]) // groups
    extent = work.context.extent
    data, weight = factors
    padded = None if work.stages is None else _padded_stage(work, work.stages, windows, shape_of(x)[:2], data)

    def read(at: Sequence[Expr]) -> Expr:
        (n, o), p = at[:2], (*at[2 : rank + 1], at[-1])
        c, taps = at[rank + 1], at[rank + 2 : -1]
        channel = c if groups == 1 else tirx.floordiv(o, group_out) * extent(group_in) + c
        if padded is not None:
            steps = [v.source(out, tap) + v.pad for v, out, tap in zip(windows, p, taps, strict=True)]
            return padded(n, channel, *steps) * weight((o, c, *taps))
        places = [window.source(out, tap) for window, out, tap in zip(windows, p, taps, strict=True)]
        return inside(work, windows, places, lambda safe: data((n, channel, *safe)) * weight((o, c, *taps)))

    n, o = (extent(dim) for dim in shape_of(node.outputs[0])[:2])
    outs = [extent(dim) for dim in out]
    shape = [n, o, *outs[:-1], extent(group_in), *(i64(v.kernel) for v in windows), outs[-1]]
    axes = frozenset(range(rank + 1, 2 * rank + 2))
    fold_view(work, node, sink, View(shape, read, dtype_of(x)), axes, dtype)


def _padded_stage(
    work: Work, stages: Stages, windows: Sequence[Window], lead: Shape, data: Callable[[Indices], Expr]
) -> Any:
    """The data with zeros around it, as a stage of its own.

    Schedules of products copy operands into shared memory; a condition around the product would not
    keep those copies inside of the data.
    """
    extent = work.context.extent
    spans = [
        (extent(window.out) - 1) * window.stride + (window.kernel - 1) * window.dilation + 1
        for window in windows
    ]

    def element(n: Expr, channel: Expr, *steps: Expr) -> Expr:
        places = [step - window.pad for window, step in zip(windows, steps, strict=True)]
        return work.context.closed(
            lambda: inside(work, windows, places, lambda safe: data((n, channel, *safe)))
        )

    return stages.compute([*map(extent, lead), *spans], element)


def inside(
    work: Work, windows: Sequence[Window], places: Sequence[Expr], read: Callable[[Indices], Expr]
) -> Expr:
    """``read(places)``, 0 where a place lies outside of the input."""
    context = work.context
    conditions = []
    for window, place in zip(windows, places, strict=True):
        if window.padded:
            conditions += [place >= 0, place < context.extent(window.size)]
    if not conditions:
        return read(tuple(places))

    def safe() -> Expr:
        return read(
            tuple(
                context.clamp(place, context.extent(window.size)) if window.padded else place
                for window, place in zip(windows, places, strict=True)
            )
        )

    return context.branch_zero(tirx.all(*conditions), safe)


def fold_view(
    work: Work, node: Node, sink: Sink, view: View, axes: frozenset[int], summed: str | None = None
) -> None:
    """Sums ``view`` over ``axes``; what remains, in order, are the indices of the first output.

    ``summed`` is the type of the sum where it is not that of the output.
    """
    wanted = summed or dtype_of(node.outputs[0])
    dtype = "float32" if wanted in ("float16", "bfloat16") else wanted

    def kept(indices: Sequence[Expr]) -> list[Expr]:
        return [index for axis, index in enumerate(indices) if axis not in axes]

    def row(row: Row) -> None:
        def element(place: Place) -> Expr:
            return work.context.closed(lambda: view.read(place.indices))

        total = row.fold(add, tirx.const(0, dtype), element)

        def finish(place: Place) -> None:
            result = total(place)
            sink(result if dtype == wanted else result.astype(wanted), kept(place.indices))

        row.once(finish)

    emit_rows(work, view, axes, row, work.touch({0: sink}, node, kept), cost=64)
