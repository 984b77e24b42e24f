"""Numbers for constants and inputs, awkward ones among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.evaluate import example_inputs
from graphopt.evaluate.awkward import sprinkle
from graphopt.ir.dims import symbols
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType

_BATCHES = (1, 2, 3, 1, 5, 4, 2, 7)


def numbers(dtype: DType, shape: tuple[int, ...], kind: str, seed: int) -> Array:
    """An array of one kind.

    Args:
        kind: ``normal``; ``small`` (integers from -3 to 3); ``ones``; ``zeros`` (of both signs for
            floats); ``halves``; ``wild`` (numbers of :func:`~graphopt.evaluate.awkward.awkward` among normal ones).
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


def sample_inputs(graph: Graph, seed: int = 0, *, wild: bool = False) -> dict[str, Any]:
    """Inputs on which a random graph runs, the same for the same arguments.

    Sizes of symbols follow from the seed: small ones, and 0 for one seed in eight. The numbers are those of
    :func:`graphopt.evaluate.example_inputs`.

    Args:
        wild: let the content be awkward, else varied.

    Raises:
        EvaluationError: an input has an unknown type or rank.
    """
    names = dict.fromkeys(
        name for value in graph.inputs for dim in value.tensor.shape or () for name in sorted(symbols(dim))
    )
    sizes = {
        name: 0 if seed % 8 == 7 and place == 0 else _BATCHES[(seed + 3 * place) % len(_BATCHES)]
        for place, name in enumerate(names)
    }
    return example_inputs(graph, seed, sizes, content="awkward" if wild else "varied")
