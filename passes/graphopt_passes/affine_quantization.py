"""Affine quantization: ``real = scale * (integer - zero_point)`` (Jacob et al., 2018).

Activations are u8 with one scale and zero point per tensor, weights s8 with zero point 0 and one
scale per output channel. The range of an activation is widened to hold 0, so that padding and
rectified values are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = np.ndarray[Any, np.dtype[np.float32]]
Int8s = np.ndarray[Any, np.dtype[np.int8]]
Int32s = np.ndarray[Any, np.dtype[np.int32]]


class Grid(NamedTuple):
    """Scale and zero point of a u8 tensor."""

    scale: np.float32
    zero_point: np.uint8


def activation_grid(low: float, high: float, symmetric: bool) -> Grid:
    """The u8 grid that covers ``low`` to ``high`` and 0; symmetric: zero point 128, or 0 if ``low`` is not
    below 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric and low < 0:
        limit = max(-low, high)
        return Grid(np.float32(limit / 127), np.uint8(128))
    if high == low:
        return Grid(np.float32(1), np.uint8(0))
    scale = np.float32((high - low) / 255)
    if scale == 0:  # the range is below what f32 can tell from 0
        return Grid(np.float32(1), np.uint8(0))
    return Grid(scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255)))


def quantize_weight(weight: Floats, axis: int, per_channel: bool) -> tuple[Int8s, Floats]:
    """Integers in -127 to 127 and their scales: one per index of ``axis``, or a scalar.

    Raises:
        ValueError: a weight is not finite.
    """
    if not np.isfinite(weight).all():
        raise ValueError("a weight is infinite or not a number")
    others = tuple(i for i in range(weight.ndim) if i != axis)
    limit = np.abs(weight.astype(np.float64)).max(axis=others if per_channel else None)
    scale = np.where(limit > 0, limit / 127, 1.0).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    spread = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]) if per_channel else scale
    integers = np.clip(np.rint(weight.astype(np.float64) / spread), -127, 127)
    return integers.astype(np.int8), scale


def accumulator_room(weight: Int8s, axis: int) -> npt.NDArray[np.int64]:
    """How large a bias, in steps, an s32 accumulator takes beside any product with u8: one number per index of
    ``axis``, below 0 where products alone may overflow."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    room: npt.NDArray[np.int64] = np.iinfo(np.int32).max - 255 * np.abs(weight.astype(np.int64)).sum(others)
    return room


def quantize_bias(bias: Floats, scale: Floats, room: npt.NDArray[np.int64]) -> Int32s | None:
    """Integers on the grid of the accumulator, whose step is input scale times weight scale; None where they
    leave less than ``room``.

    Raises:
        ValueError: a bias is not finite.
    """
    if not np.isfinite(bias).all():
        raise ValueError("a bias is infinite or not a number")
    integers = np.rint(bias.astype(np.float64) / scale)
    return integers.astype(np.int32) if (np.abs(integers) <= room).all() else None
