"""Golden models: real networks that graphopt is held against, and inputs that suit them.

    >>> import golden_models
    >>> golden_models.path("ppocr-cls")             # fetched once, then cached
    >>> golden_models.example_inputs("minilm-int8", batch=4, sequence=64)

`python -m golden_models list` shows them; `python -m golden_models fetch` brings them all.
"""

from __future__ import annotations

import numpy as np

from golden_models.arrays import Array
from golden_models.fetch import FetchError, cache_dir, path
from golden_models.table import MODELS, GoldenModel

__all__ = ["MODELS", "FetchError", "GoldenModel", "cache_dir", "example_inputs", "names", "path"]


def names() -> list[str]:
    """The names of all golden models."""
    return list(MODELS)


def example_inputs(name: str, seed: int = 0, **dims: int) -> dict[str, Array]:
    """Inputs for the golden model `name`, drawn from `seed`: one array by graph input name.

    `dims` sets free dimensions (`batch=4`); the others keep the table's defaults.

    Raises:
        KeyError: no model has this name.
        TypeError: the model has no free dimension of a given name.
    """
    model = MODELS[name]
    if unknown := sorted(dims.keys() - model.dims.keys()):
        raise TypeError(f"{name} has the free dimensions {sorted(model.dims)}, not {unknown}")
    sizes = model.dims | dims
    rng = np.random.default_rng(seed)
    return {
        item.name: item.draw(rng, tuple(sizes[d] if isinstance(d, str) else d for d in item.shape))
        for item in model.inputs
    }
