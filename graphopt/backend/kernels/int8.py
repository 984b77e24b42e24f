"""Convolution and matrix product of 8-bit integers: exact int32 accumulators to the epilogue.

Data is uint8 or int8 with any zero point, known or computed at run time; weights are int8 with zero
point 0, or (`wide_weights`) int16 holding uint8 or int8 less a zero point of their own.
`spec.dtype` is the data's type. The value handed to `store` is sum (x - zero_point) * w, int32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from graphopt.backend.kernels import conv, gemm
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import Buffer, Expr
from graphopt.backend.kernels.gemm import GemmSpec, Reader
from graphopt.backend.kernels.integer import integer_arithmetic
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[np.generic]


def packed_conv_int8_shape(spec: ConvSpec, machine: Machine, wide_weights: bool = False) -> tuple[int, ...]:
    """Shape of the packed weights, of int32."""
    return conv.packed_shape(spec, integer_arithmetic(machine, spec.dtype, wide_weights, 0))


def pack_conv_int8_weights(spec: ConvSpec, machine: Machine, w: Array, wide_weights: bool = False) -> Array:
    """Weights [out, in/groups, *kernel] in the order in which the kernel reads them, as int32."""
    return conv.pack_words(spec, integer_arithmetic(machine, spec.dtype, wide_weights, 0), w)


def emit_conv_int8(
    spec: ConvSpec,
    machine: Machine,
    x: Buffer,
    w: Buffer,
    store: Store,
    x_zero_point: Expr = 0,
    wide_weights: bool = False,
) -> None:
    """Emit an integer convolution; see `emit_conv`. Outside the image x is its zero point."""
    arithmetic = integer_arithmetic(machine, spec.dtype, wide_weights, x_zero_point)
    conv.emit_arithmetic(spec, arithmetic, x, w, store)


def packed_gemm_int8_shape(spec: GemmSpec, machine: Machine, wide_weights: bool = False) -> tuple[int, ...]:
    """Shape of the packed weights, of int32."""
    return gemm.packed_shape(spec, integer_arithmetic(machine, spec.dtype, wide_weights, 0))


def pack_gemm_int8_weights(spec: GemmSpec, machine: Machine, b: Array, wide_weights: bool = False) -> Array:
    """Weights [k, n] or [weight_batches, k, n] in panel order, as int32."""
    return gemm.pack_words(spec, integer_arithmetic(machine, spec.dtype, wide_weights, 0), b)


def emit_gemm_int8(
    spec: GemmSpec,
    machine: Machine,
    a: Reader,
    b: Buffer,
    store: Store,
    a_zero_point: Expr = 0,
    wide_weights: bool = False,
    weight_batch: Callable[[tuple[Expr, ...]], Expr] | None = None,
) -> None:
    """Emit an integer product with packed weights; see `emit_gemm`.

    For two operands that are both computed, use `emit_gemm` with dtype int32 and readers that subtract
    the zero points.
    """
    arithmetic = integer_arithmetic(machine, spec.dtype, wide_weights, a_zero_point)
    gemm.emit_product(spec, arithmetic, a, b, store, weight_batch)
