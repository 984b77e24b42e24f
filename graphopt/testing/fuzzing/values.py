"""Numbers for constants and inputs, awkward ones among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.dims import symbols
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, TensorType

_BATCHES = (1, 2, 3, 1, 5, 4, 2, 7)


def numbers(dtype: DType, shape: tuple[int, ...], kind: str, seed: int) -> Array:
    """An array of one kind.

    Args:
        kind: ``normal``; ``small`` (integers from -3 to 3); ``ones``; ``zeros`` (of both signs for
            floats); ``halves``; ``wild`` (some numbers of :func:`awkward` among normal ones).
    """
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.random(shape) < {"ones": 1.0, "zeros": 0.0}.get(kind, 0.5)
    if not dtype.is_float:
        low = 0 if not dtype.is_signed else -3
        plain = {"ones": np.ones(shape), "zeros": np.zeros(shape)}.get(kind, rng.integers(low, 4, shape))
        return (
            sprinkle(plain.astype(dtype.numpy), dtype, rng) if kind == "wild" else plain.astype(dtype.numpy)
        )
    made: Array = {
        "ones": np.ones(shape),
        "zeros": np.where(rng.random(shape) < 0.5, 0.0, -0.0),
        "halves": np.full(shape, 0.5),
        "small": rng.integers(-3, 4, shape).astype(np.float64),
    }.get(kind, rng.standard_normal(shape))
    made = np.asarray(made).astype(dtype.numpy)
    return sprinkle(made, dtype, rng) if kind == "wild" else made


def awkward(dtype: DType) -> Array:
    """Numbers that rules are wrong about: zeros of both signs, the ends of the type, NaN, subnormals."""
    if dtype is DType.BOOL:
        return np.array([False, True])
    if not dtype.is_float:
        ends = np.iinfo(dtype.numpy)
        return np.array([0, 1, ends.min, ends.max, ends.max - 1], dtype.numpy)
    import ml_dtypes

    limits = ml_dtypes.finfo(dtype.numpy) if dtype is DType.BF16 else np.finfo(dtype.numpy)
    items = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, float(limits.tiny), float(limits.smallest_subnormal)]
    items += [
        float(limits.max),
        -float(limits.max),
        -float(limits.smallest_subnormal),
        2.5,
        -1.5,
        1e-30,
        1e30,
    ]
    with np.errstate(all="ignore"):
        return np.array(items).astype(dtype.numpy)


def sprinkle(array: Array, dtype: DType, rng: np.random.Generator) -> Array:
    """``array`` with about a third of it awkward."""
    odd = awkward(dtype)[rng.integers(0, len(awkward(dtype)), array.shape)]
    return np.asarray(np.where(rng.random(array.shape) < 0.35, odd, array), dtype.numpy)


def sample_inputs(graph: Graph, seed: int = 0, *, wild: bool = False) -> dict[str, Any]:
    """Inputs on which a random graph runs, the same for the same arguments.

    Sizes of symbols follow from the seed: small ones, and 0 for one seed in eight. Integers stay in the
    range of what they index. Floats are normal, with zeros of both signs and whole numbers among them.

    Args:
        wild: let floats, and integers that index nothing, be awkward: NaN, infinite, the ends of their types.

    Raises:
        EvaluationError: an input has an unknown type or rank.
    """
    from graphopt.evaluate import example_inputs

    names = dict.fromkeys(
        name for value in graph.inputs for dim in value.tensor.shape or () for name in sorted(symbols(dim))
    )
    rng = np.random.default_rng(seed)
    sizes = {
        name: 0 if seed % 8 == 7 and place == 0 else _BATCHES[(seed + 3 * place) % len(_BATCHES)]
        for place, name in enumerate(names)
    }
    found = example_inputs(graph, seed, sizes)
    for value in graph.inputs:
        if value.name not in found:
            continue
        if not isinstance(value.type, TensorType) or value.type.dtype is None:
            raise EvaluationError(f"%{value.name} has the type {value.type}, of which no numbers are made")
        found[value.name] = _varied(found[value.name], value.type.dtype, rng, wild, "index" in value.name)
    return found


def _varied(array: Array, dtype: DType, rng: np.random.Generator, wild: bool, is_index: bool) -> Array:
    if dtype.is_float:
        special = numbers(dtype, array.shape, "small", int(rng.integers(0, 100)))
        zeros = numbers(dtype, array.shape, "zeros", int(rng.integers(0, 100)))
        draw = rng.random(array.shape)
        mixed = np.where(draw < 0.1, zeros, np.where(draw < 0.2, special, array))
        array = np.asarray(mixed, dtype.numpy)
    elif is_index or dtype in (DType.BOOL, DType.STR) or not dtype.is_integer:
        return array
    else:
        low, high = (-9, 10) if dtype.is_signed else (0, 20)
        array = rng.integers(low, high, array.shape).astype(dtype.numpy)
    return sprinkle(array, dtype, rng) if wild else array
