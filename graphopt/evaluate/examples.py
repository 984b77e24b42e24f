"""Generated inputs: typed, seeded, and within what the operators that read them can take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.evaluate.domains import Domain, domain_of
from graphopt.ir import dims as dim_algebra
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Value
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type

_BATCH = re.compile(r"n|b|bs|batch.*|.*batch(_?size)?", re.IGNORECASE)
_SPATIAL_SIZE, _SIZE, _BATCH_SIZE, _SEQUENCE_LENGTH = 64, 8, 1, 2
_DEFAULT_RANGE = 2


def example_inputs(
    graph: Graph,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    *,
    size: int = _SIZE,
    distinct: bool = False,
) -> dict[str, Any]:
    """Inputs that ``graph`` can run on.

    Floats are standard normal, within the domain of what reads them (positive below a logarithm or a root,
    say); masks are ones; integers that end up as indices or lengths stay in range, other integers are 0 or 1,
    except that 8-bit ones have their whole range. The same arguments give the same inputs.

    Args:
        graph: whose inputs; those with a default are left out.
        seed: of the generator.
        dims: numbers for named dimensions. Others are 1 for a batch, 64 for the spatial axes of
            a tensor of four dimensions and more, else ``size``.
        size: of dimensions of which nothing is known.
        distinct: give every symbolic dimension a size of its own, none of them 1, so that mixing two of them
            up, or taking one for a number, makes a difference.

    Raises:
        EvaluationError: an input has an unknown type or rank.
    """
    rng = np.random.default_rng(seed)
    sizes = _distinct(graph, dims or {}) if distinct else _sizes(graph, dims or {}, size)
    return {
        value.name: _example(value, value.type, rng, sizes) for value in graph.inputs if value.const is None
    }


def _sizes(graph: Graph, given: Mapping[str, int], size: int) -> dict[str, int]:
    sizes = dict(given)
    for value in graph.inputs:
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        for axis, dim in enumerate(shape or ()):
            for name in dim_algebra.symbols(dim):
                if name not in sizes:
                    sizes[name] = _default_size(name, axis, len(shape or ()), size)
    return sizes


def _distinct(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """2, 3, ... for batches, multiples of 32 for spatial axes, odd numbers for others."""
    sizes = _sizes(graph, given, _SIZE)
    series = {_BATCH_SIZE: iter(range(2, 1000)), _SPATIAL_SIZE: iter(range(64, 1 << 20, 32))}
    others = iter(range(7, 1 << 20, 2))
    return {name: size if name in given else next(series.get(size, others)) for name, size in sizes.items()}


def _default_size(name: str, axis: int, rank: int, size: int) -> int:
    if _BATCH.fullmatch(name) or (axis == 0 and rank > 1):
        return _BATCH_SIZE
    return max(_SPATIAL_SIZE, size) if rank >= 4 and axis >= 2 else size


def _example(value: Value, type: Type, rng: np.random.Generator, sizes: Mapping[str, int]) -> Any:
    match type:
        case TensorType(dtype=DType() as dtype, shape=tuple() as shape):
            return _array(value, dtype, tuple(_size(dim, sizes) for dim in shape), rng, sizes)
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


def _array(
    value: Value, dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, sizes: Mapping[str, int]
) -> Array:
    if dtype is DType.STR:
        return rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype in (DType.C64, DType.C128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    if "mask" in value.name.lower():
        return np.ones(shape, dtype.numpy)
    domain = domain_of(value, lambda dim: _size(dim, sizes))
    if dtype.is_float:
        return _floats(domain, shape, rng).astype(dtype.numpy)
    if domain is None and dtype.bits == 8:
        low, high = (-128, 128) if dtype.is_signed else (0, 256)
        return rng.integers(low, high, shape).astype(dtype.numpy)
    low, high = (0, _DEFAULT_RANGE - 1) if domain is None else domain.integers
    return rng.integers(low, min(high, (1 << min(dtype.bits - 1, 31)) - 1) + 1, shape).astype(dtype.numpy)


def _floats(domain: Domain | None, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    normal = rng.standard_normal(shape)
    if domain is None:
        return normal
    # The middle of the domain, all of it between its ends.
    low, high = domain.low, domain.high
    return (low + high) / 2 + (high - low) / 2 * np.tanh(normal)
