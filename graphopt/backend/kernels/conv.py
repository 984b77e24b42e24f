"""Convolution: packed weights, and the choice of a kernel.

`emit_conv` writes the loops of one convolution into the open TIR function. Layout is plain
`N, C, *spatial`; batch and spatial sizes may be symbolic. 16-bit floats are computed in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.backend.kernels import gemm, pointwise, shifted
from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.conv_spec import ConvSpec, Store, row_tile
from graphopt.backend.kernels.emit import Buffer, Expr, ceil_div
from graphopt.backend.kernels.machine import Machine

__all__ = ["ConvSpec", "emit_conv", "pack_conv_weights", "packed_conv_shape"]

Array = npt.NDArray[np.generic]


def conv_arithmetic(spec: ConvSpec, machine: Machine) -> Arithmetic:
    """How `spec` is computed on `machine`."""
    return float_arithmetic(machine, spec.dtype)


def packed_conv_shape(spec: ConvSpec, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights: [groups, output blocks, words of reduction, rows of a tile]."""
    return packed_shape(spec, conv_arithmetic(spec, machine))


def packed_shape(spec: ConvSpec, arithmetic: Arithmetic) -> tuple[int, ...]:
    """`packed_conv_shape` for a given arithmetic."""
    if pointwise.is_turned(spec, arithmetic):
        return gemm.packed_shape(pointwise.turned_spec(spec), arithmetic)
    rows = row_tile(spec, arithmetic).rows
    words = ceil_div(spec.group_in, arithmetic.group) * spec.taps + arithmetic.header
    return (spec.groups, ceil_div(spec.group_out, rows), words, rows)


def pack_conv_weights(spec: ConvSpec, machine: Machine, w: Array) -> Array:
    """Weights [out, in/groups, *kernel] in the order in which the kernel reads them."""
    return pack_words(spec, conv_arithmetic(spec, machine), w)


def pack_words(spec: ConvSpec, arithmetic: Arithmetic, w: Array) -> Array:
    """Weights [out, in/groups, *kernel] as words, shaped as `packed_shape` says; padding is 0."""
    if pointwise.is_turned(spec, arithmetic):
        turned = w.reshape(spec.groups, spec.group_out, spec.group_in).transpose(0, 2, 1)
        return gemm.pack_words(pointwise.turned_spec(spec), arithmetic, turned)
    groups, blocks, words, rows = packed_shape(spec, arithmetic)
    channels = ceil_div(spec.group_in, arithmetic.group)
    padded = np.zeros((groups, blocks * rows, channels * arithmetic.group, spec.taps), w.dtype)
    padded[:, : spec.group_out, : spec.group_in] = w.reshape(groups, spec.group_out, spec.group_in, spec.taps)
    split = padded.reshape(groups, blocks, rows, channels, arithmetic.group, spec.taps)
    # [group, block, channel word, tap, row, element of word]
    ordered = split.transpose(0, 1, 3, 5, 2, 4)
    packed = arithmetic.pack_words(ordered).reshape(groups, blocks, -1, rows)
    if arithmetic.header:
        packed = np.concatenate([arithmetic.pack_header(ordered, (2, 3, 5))[:, :, None], packed], axis=2)
    return np.ascontiguousarray(packed).reshape(groups, blocks, words, rows)


def emit_conv(spec: ConvSpec, machine: Machine, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit out[n, o, *p] = sum over c, taps of x * w, each handed to store(value, (n, o, *p)).

    Args:
        x: [batch, in_channels, *spatial] of `spec.dtype`.
        w: what `pack_conv_weights` returned.
        store: called while the loops are open; the value has type `spec.dtype`.
    """
    arithmetic = conv_arithmetic(spec, machine)

    def cast_store(value: Expr, index: tuple[Expr, ...]) -> None:
        store(value.astype(spec.dtype), index)

    emit_arithmetic(spec, arithmetic, x, w, cast_store)


def emit_arithmetic(spec: ConvSpec, arithmetic: Arithmetic, x: Buffer, w: Buffer, store: Store) -> None:
    """`emit_conv` for a given arithmetic; `store` gets accumulators as they are."""
    if pointwise.is_turned(spec, arithmetic):
        pointwise.emit_turned(spec, arithmetic, x, w, store)
    elif pointwise.is_flat(spec):
        pointwise.emit_pointwise(spec, arithmetic, x, w, store)
    else:
        shifted.emit_shifted(spec, arithmetic, x, w, store)
