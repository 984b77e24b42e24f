"""Nodes that need not move data: what they make lies in what they read, or what they read in what they make.

A slice along the first axis that is not 1 is a contiguous part of its source, and the pieces of a
concatenation along such an axis are contiguous parts of its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from graphopt.backend.layout import stored_shape
from graphopt.backend.region import dtype_of, shape_of
from graphopt.ir.graph import Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import TensorType

Known = Callable[[Value], Tensor | None]
"""The data of a value that is known at compile time."""

_RENAMING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


@dataclass(frozen=True)
class Part:
    """``part`` lies ``offset`` bytes behind the start of ``whole``."""

    part: Value
    whole: Value
    offset: int


def is_view(node: Node) -> bool:
    """Whether the only output that matters is the first input's memory in another shape."""
    if node.domain or node.op not in _RENAMING or len(node.outputs) != 1:
        return False
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.type == output.type or not isinstance(output.type, TensorType):
        return True
    return _row_major(source) and _row_major(output)


def _row_major(value: Value) -> bool:
    """Whether elements lie in the order of their indices, be it that blocks of channels say so too."""
    block = value.tensor.channel_block
    if block == 1:
        return True
    _, channels, *spatial = shape_of(value)
    return channels % block == 0 and all(dim == 1 for dim in spatial)


def stored_bytes(value: Value) -> int | None:
    """How much memory holds ``value``; None where that is known only at the call."""
    extents = static_extents(value)
    return None if extents is None else math.prod(extents) * _item_bytes(value)


def static_extents(value: Value) -> tuple[int, ...] | None:
    """The shape of the memory that holds ``value``, if it does not depend on the call."""
    shape = stored_shape(value)
    return cast("tuple[int, ...]", shape) if all(isinstance(dim, int) for dim in shape) else None


def _item_bytes(value: Value) -> int:
    dtype = value.tensor.dtype
    assert dtype is not None
    return dtype.numpy.itemsize


def views_of(node: Node, known: Known) -> dict[int, Part]:
    """For each output of ``node`` that is a contiguous part of an input of static size: where it lies."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return {}
    source = node.inputs[0]
    if is_view(node):
        fits = stored_bytes(source) is not None and stored_bytes(source) == stored_bytes(node.output)
        return {0: Part(node.output, source, 0)} if fits else {}
    starts = _STARTS[node.op](node, known) if node.op in _STARTS else None
    found: dict[int, Part] = {}
    for index, start in (starts or {}).items():
        offset = _offset(node.outputs[index], source, start)
        if offset is not None:
            found[index] = Part(node.outputs[index], source, offset)
    return found


def pieces_of(node: Node) -> tuple[Part, ...]:
    """Where the inputs of a Concat lie in its result; empty where not all are contiguous parts of it."""
    if node.op_type != "Concat":
        return ()
    whole, parts, place = node.output, [], 0
    axis = cast(int, node.attrs.get("axis", 0)) % len(shape_of(whole))
    for piece in node.inputs:
        if piece is None:
            return ()
        start = [0] * len(shape_of(whole))
        start[axis] = place
        offset, extent = _offset(piece, whole, start), shape_of(piece)[axis]
        if offset is None or not isinstance(extent, int):
            return ()
        parts.append(Part(piece, whole, offset))
        place += extent
    return tuple(parts)


def _offset(part: Value, whole: Value, start: Sequence[int]) -> int | None:
    """Bytes to the element ``start`` of ``whole`` if ``part``, which begins there, is contiguous in it."""
    block = whole.tensor.channel_block
    inner, outer = static_extents(part), static_extents(whole)
    if inner is None or outer is None or dtype_of(part) != dtype_of(whole) or 0 in inner + outer:
        return None
    if part.tensor.channel_block != block or len(inner) != len(outer):
        return None
    if block > 1:
        if start[1] % block:
            return None
        start = [start[0], start[1] // block, *start[2:], 0]
    first = next((axis for axis, extent in enumerate(inner) if extent != 1), len(inner) - 1)
    if inner[first + 1 :] != outer[first + 1 :]:
        return None
    steps = [math.prod(outer[axis + 1 :]) for axis in range(len(outer))]
    return sum(map(math.prod, zip(start, steps, strict=True))) * _item_bytes(whole)


def _split_starts(node: Node, known: Known) -> dict[int, list[int]] | None:
    rank = len(shape_of(node.outputs[0]))
    axis = cast(int, node.attrs.get("axis", 0)) % rank
    starts, place = {}, 0
    for index, output in enumerate(node.outputs):
        starts[index] = [place if i == axis else 0 for i in range(rank)]
        extent = shape_of(output)[axis]
        if not isinstance(extent, int):
            return None
        place += extent
    return starts


def _slice_starts(node: Node, known: Known) -> dict[int, list[int]] | None:
    source = node.inputs[0]
    assert source is not None
    shape = shape_of(source)
    starts, axes, steps = (_integers(node.input(index), known) for index in (1, 3, 4))
    if starts is None or (node.input(3) is not None and axes is None):
        return None
    if node.input(4) is not None and (steps is None or set(steps) - {1}):
        return None
    place = [0] * len(shape)
    for start, axis in zip(starts, axes if axes is not None else range(len(starts)), strict=True):
        extent = shape[axis]
        if not isinstance(extent, int):
            return None
        place[axis] = min(max(start + extent if start < 0 else start, 0), extent)
    return {0: place}


def _integers(value: Value | None, known: Known) -> list[int] | None:
    data = None if value is None else known(value)
    return None if data is None else [int(item) for item in data.numpy().reshape(-1)]


_STARTS = {"Split": _split_starts, "Slice": _slice_starts}
"""For operators that read a part of their source: the index at which each output begins."""

MOVING = frozenset({"Concat", *_STARTS})
"""Operators that move data, unless it lies where it should be."""
