"""Generated inputs: typed, seeded, and within the range of what they index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir import dims as dim_algebra
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type

_BATCH = re.compile(r"n|b|bs|batch.*|.*batch(_?size)?", re.IGNORECASE)
_SPATIAL_SIZE, _SIZE, _BATCH_SIZE, _SEQUENCE_LENGTH = 64, 8, 1, 2
_PASSES_ON = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"}
)
_DEFAULT_RANGE = 2
_MAX_STEPS = 8


def example_inputs(graph: Graph, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Inputs that ``graph`` can run on.

    Floats are standard normal; masks are ones; integers that end up as indices of a Gather stay
    in its range, other integers are 0 or 1, except that 8-bit ones have their whole range. The same arguments give the same inputs.

    Args:
        graph: whose inputs; those with a default are left out.
        seed: of the generator.
        dims: numbers for named dimensions. Others are 1 for a batch, 64 for the spatial axes of
            a tensor of four dimensions and more, else 8.

    Raises:
        EvaluationError: an input has an unknown type or rank.
    """
    rng = np.random.default_rng(seed)
    sizes = _sizes(graph, dims or {})
    return {
        value.name: _example(value, value.type, rng, sizes) for value in graph.inputs if value.const is None
    }


def _sizes(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    sizes = dict(given)
    for value in graph.inputs:
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        for axis, dim in enumerate(shape or ()):
            for name in dim_algebra.symbols(dim):
                if name not in sizes:
                    sizes[name] = _default_size(name, axis, len(shape or ()))
    return sizes


def _default_size(name: str, axis: int, rank: int) -> int:
    if _BATCH.fullmatch(name) or (axis == 0 and rank > 1):
        return _BATCH_SIZE
    return _SPATIAL_SIZE if rank >= 4 and axis >= 2 else _SIZE


def _example(value: Value, type: Type, rng: np.random.Generator, sizes: Mapping[str, int]) -> Any:
    match type:
        case TensorType(dtype=DType() as dtype, shape=tuple() as shape):
            return _array(value, dtype, tuple(_size(dim, sizes) for dim in shape), rng)
        case SequenceType(elem=elem):
            return [_example(value, elem, rng, sizes) for _ in range(_SEQUENCE_LENGTH)]
        case OptionalType(elem=elem):
            return _example(value, elem, rng, sizes)
    raise EvaluationError(
        f'no example can be made for input "{value.name}" of type {type}',
        hint="give inputs, or fix its shape on import",
    )


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    names = dict.fromkeys(dim_algebra.symbols(dim), _SIZE)
    return max(dim_algebra.evaluate(dim, {**names, **sizes}), 0)


def _array(value: Value, dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if dtype is DType.STR:
        return rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype in (DType.C64, DType.C128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if "mask" in value.name.lower():
        return np.ones(shape, dtype.numpy)
    limit = _index_limit(value, _MAX_STEPS)
    if limit is None and dtype.bits == 8:
        low, high = (-128, 128) if dtype.is_signed else (0, 256)
        return rng.integers(low, high, shape).astype(dtype.numpy)
    return rng.integers(0, min(limit or _DEFAULT_RANGE, 1 << min(dtype.bits - 1, 31)), shape).astype(
        dtype.numpy
    )


def _index_limit(value: Value, steps: int) -> int | None:
    """The smallest range of what ``value`` indexes, found through operators that keep its elements."""
    found: list[int] = []
    for use in value.uses:
        node = use.user
        if not isinstance(node, Node) or steps == 0:
            continue
        limit = _own_limit(node, use.index)
        if limit is None and use.index == 0 and node.op in _PASSES_ON and not node.domain:
            limit = _index_limit(node.outputs[0], steps - 1)
        if limit is None and node.is_fused:
            limit = _index_limit(node.body.inputs[use.index], steps - 1)
        if limit is not None:
            found.append(limit)
    return max(min(found), 1) if found else None


def _own_limit(node: Node, index: int) -> int | None:
    data = node.input(0)
    if node.domain or index != 1 or data is None:
        return None
    if node.op in ("Gather", "GatherElements"):
        axis = node.attrs.get("axis", 0)
        shape = data.tensor.shape
        if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape):
            size = shape[axis]
            return size if isinstance(size, int) else None
    if node.op == "GatherND" and data.tensor.shape:
        sizes = [dim for dim in data.tensor.shape if isinstance(dim, int)]
        return min(sizes) if sizes else None
    return None
