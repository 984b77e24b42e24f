"""Constant indices are checked when a model is compiled; those that are data are clamped when it runs."""

from __future__ import annotations

from typing import cast

import numpy as np

from graphopt.backend.readers.registry import refuse
from graphopt.backend.region import KernelRegion, shape_of
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node

_ALONG_AXIS = frozenset({"Gather", "GatherElements", "ScatterElements"})
_TUPLES = frozenset({"GatherND", "ScatterND"})


def check_indices(region: KernelRegion) -> None:
    """Refuses a region that takes elements which are not there.

    Raises:
        CompileError: a constant index is out of range.
    """
    for node in region.nodes:
        if node.domain or node.op not in _ALONG_AXIS | _TUPLES:
            continue
        data, positions = node.inputs[:2]
        assert data is not None and positions is not None
        known = region.constants.get(positions)
        if known is None or known.size == 0:
            continue
        shape, indices = shape_of(data), known.numpy()
        if node.op in _ALONG_AXIS:
            axis = cast(int, node.attrs.get("axis", 0)) % len(shape)
            _check(node, indices, axis, shape[axis])
            continue
        batch = cast(int, node.attrs.get("batch_dims", 0))
        for place in range(indices.shape[-1]):
            _check(node, indices[..., place], batch + place, shape[batch + place])


def _check(
    node: Node, indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]], axis: int, extent: Dim
) -> None:
    if not isinstance(extent, int):
        return
    low, high = int(indices.min()), int(indices.max())
    if low < -extent or high >= extent:
        wrong = low if low < -extent else high
        raise refuse(node, f"index {wrong} of axis {axis}, which has {extent} elements")
