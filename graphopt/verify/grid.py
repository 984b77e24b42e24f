"""The grids of quantized values, and how far values are from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Value
from graphopt.ir.tensor import Array
from graphopt.verify.distance import Distance, compare
from graphopt.verify.tolerance import Effect, Path, Tolerance

_CLIPPED = 0.1
"""Share of the elements of a quantized value that may lie outside of its grid."""


@dataclass(frozen=True)
class Grid:
    """Steps and ends of the values that a dequantized tensor may have, to be broadcast to it."""

    step: Array
    low: Array
    high: Array


def distance_to_grid(actual: Array, exact: Array, grid: Grid) -> Distance:
    """How far quantized values are from what they stand for, where they are furthest in steps of their grid."""
    # What lies outside of the grid goes to its end.
    inside = np.clip(exact.astype(np.float64), grid.low, grid.high)
    if inside.size and np.mean(np.abs(inside - exact) > grid.step) > _CLIPPED:
        inside = exact.astype(np.float64)
    distance = compare(actual, inside.astype(exact.dtype), Effect.LOSSY, Path())
    if not np.isfinite(distance.measured) or not inside.size:
        return distance
    away = np.abs(actual.astype(np.float64) - inside)
    bound = 0.505 * np.broadcast_to(grid.step, away.shape)
    # Steps of 32 bits may be smaller than what a float resolves.
    eps = float(np.finfo(exact.dtype).eps) if exact.dtype.kind == "f" else 2.0**-7
    bound = bound + 4 * eps * np.abs(inside) + np.finfo(np.float64).tiny
    place = np.unravel_index(int(np.argmax(away / bound)), away.shape)
    largest = float(np.max(np.abs(inside))) or 1.0
    step = float(np.broadcast_to(grid.step, away.shape)[place])
    allowed = Tolerance(float(bound[place]) / largest, f"half a step of the grid, {step:.3g}")
    at = f" at [{', '.join(map(str, map(int, place)))}]" if place else ""
    detail = f"{actual[place]:.7g} for {exact[place]:.7g}{at}"
    return Distance(float(away[place]) / largest, allowed, detail)


def grid_of(value: Value, shape: tuple[int, ...]) -> Grid | None:
    """The grid of a dequantized value of a shape; None where it is not constant."""
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or node.domain:
        return None
    data, scale, zero = node.input(0), node.input(1), node.input(2)
    dtype = data.tensor.dtype if data is not None else None
    if scale is None or scale.const is None or dtype is None or not dtype.is_integer or dtype.bits > 32:
        return None
    if zero is not None and zero.const is None:
        return None
    steps = scale.const.numpy().astype(np.float64)
    offset = np.zeros_like(steps)
    if zero is not None and zero.const is not None:
        offset = zero.const.numpy().astype(np.float64)
    axis, block = (node.attrs.get(name, default) for name, default in (("axis", 1), ("block_size", 0)))
    assert isinstance(axis, int) and isinstance(block, int)
    if block:
        # The last block may be cut off.
        kept = range(shape[axis])
        steps, offset = (np.repeat(part, block, axis).take(kept, axis) for part in (steps, offset))
    elif steps.ndim == 1 and len(shape) > 1:
        along = [1] * len(shape)
        along[axis] = -1
        steps, offset = steps.reshape(along), offset.reshape(along)
    lowest = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    highest = lowest + (1 << dtype.bits) - 1
    return Grid(np.abs(steps), (lowest - offset) * steps, (highest - offset) * steps)
