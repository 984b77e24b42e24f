"""Generated inputs: typed, seeded, and within what the operators that read them can take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.evaluate.awkward import sprinkle
from graphopt.evaluate.domains import Domain, domain_of
from graphopt.ir import dims as dim_algebra
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Value
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type

_BATCH = re.compile(r"n|b|bs|batch.*|.*batch(_?size)?", re.IGNORECASE)
_SPATIAL_SIZE, _SIZE, _BATCH_SIZE, _SEQUENCE_LENGTH = 64, 8, 1, 2
_DEFAULT_RANGE = 2
_VARIED_RANGE = 100
_MASKED = 0.3
"""Share of the elements of a mask that are 0."""
_LEAST_SCALE = 2.0**-7
"""Takes the place of 0 in the type that holds powers of two only."""
_LARGE_DEFAULT = 1 << 16
"""Defaults of more elements are weights: drawing them takes long and tells little."""

Content = Literal["plain", "varied", "awkward"]
"""What numbers are drawn; see :func:`example_inputs`."""


def example_inputs(
    graph: Graph,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    *,
    size: int = _SIZE,
    spatial: int = _SPATIAL_SIZE,
    distinct: bool = False,
    content: Content = "plain",
    defaults: bool = False,
) -> dict[str, Any]:
    """Inputs that ``graph`` can run on: the one generator for verification, calibration, tests and fuzzing.

    With ``plain`` content floats are standard normal, masks are ones, integers 0 or 1, except that 8-bit ones have
    their whole range. With ``varied`` content some floats are zeros of either sign or small whole numbers, so
    that there are ties, masks hold zeros, and integers go up to 100 either way. ``awkward`` content has
    NaN, infinities and the ends of the types besides, wherever numbers index nothing. In any case plain and varied
    numbers are within the domain of what reads them (positive below a logarithm or a root, say), and integers
    that end up as indices or lengths in range. The same arguments give the same inputs.

    Args:
        graph: whose inputs.
        seed: of the generator.
        dims: numbers for named dimensions. Others are 1 for a batch, ``spatial`` (or ``size``, where that is
            more) for the spatial axes of a tensor of four dimensions and more, else ``size``.
        size: of dimensions of which nothing is known.
        spatial: of spatial axes.
        distinct: give every symbolic dimension a size of its own, none of them 1, so that mixing two of them
            up, or taking one for a number, makes a difference.
        content: what numbers are drawn.
        defaults: give inputs that have a default, which are else left out, numbers near it. Large ones, and
            integers that may be shapes or axes, keep theirs.

    Raises:
        EvaluationError: an input has an unknown type or rank.
    """
    sizes = _distinct(graph, dims or {}) if distinct else _sizes(graph, dims or {}, size, spatial)
    numbers = _Numbers(np.random.default_rng(seed), sizes, content)
    found = {value.name: numbers.of(value, value.type) for value in graph.inputs if value.const is None}
    if defaults:
        own = ((value, value.const.numpy()) for value in graph.inputs if value.const is not None)
        found.update({value.name: numbers.near(value, array) for value, array in own})
    return found


def _sizes(
    graph: Graph, given: Mapping[str, int], size: int = _SIZE, spatial: int = _SPATIAL_SIZE
) -> dict[str, int]:
    sizes = dict(given)
    for value in graph.inputs:
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        for axis, dim in enumerate(shape or ()):
            for name in dim_algebra.symbols(dim):
                if name not in sizes:
                    sizes[name] = _default_size(name, axis, len(shape or ()), size, spatial)
    return sizes


def _distinct(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """2, 3, ... for batches, multiples of 32 for spatial axes, odd numbers for others."""
    sizes = _sizes(graph, given)
    series = {_BATCH_SIZE: iter(range(2, 1000)), _SPATIAL_SIZE: iter(range(64, 1 << 20, 32))}
    others = iter(range(7, 1 << 20, 2))
    return {name: size if name in given else next(series.get(size, others)) for name, size in sizes.items()}


def _default_size(name: str, axis: int, rank: int, size: int, spatial: int) -> int:
    if _BATCH.fullmatch(name) or (axis == 0 and rank > 1):
        return _BATCH_SIZE
    return max(spatial, size) if rank >= 4 and axis >= 2 else size


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    names = dict.fromkeys(dim_algebra.symbols(dim), _SIZE)
    return max(dim_algebra.evaluate(dim, {**names, **sizes}), 0)


def _cast(array: Array, dtype: DType) -> Array:
    """Numbers of a type; where it has neither zero nor negative numbers, what is nearest to them in size."""
    if dtype is DType.F8E8M0:
        array = np.maximum(np.abs(array), _LEAST_SCALE)
    return array.astype(dtype.numpy)


@dataclass(frozen=True)
class _Numbers:
    """Draws arrays."""

    rng: np.random.Generator
    sizes: Mapping[str, int]
    content: Content

    def of(self, value: Value, type: Type) -> Any:
        """What an input of a type gets."""
        match type:
            case TensorType(dtype=DType() as dtype, shape=tuple() as shape):
                return self._array(value, dtype, tuple(_size(dim, self.sizes) for dim in shape))
            case SequenceType(elem=elem):
                return [self.of(value, elem) for _ in range(_SEQUENCE_LENGTH)]
            case OptionalType(elem=elem):
                return self.of(value, elem)
        raise EvaluationError(
            f'no example can be made for input "{value.name}" of type {type}',
            hint="give inputs, or fix its shape on import",
        )

    def near(self, value: Value, default: Array) -> Array:
        """What takes the place of a default: zeros become small, other floats keep their sign."""
        dtype, domain = value.tensor.dtype, self._domain(value)
        if dtype is None or default.size > _LARGE_DEFAULT:
            return default
        if not dtype.is_float:
            is_free = dtype is DType.BOOL or domain is not None
            return self._array(value, dtype, default.shape) if is_free else default
        noise = 0.1 * self.rng.standard_normal(default.shape)
        exact = default.astype(np.float64)
        moved = np.where(exact == 0, noise, exact * np.exp(noise))
        if domain is not None:
            # A default that lies outside is one that the model has all the same.
            moved = np.clip(moved, np.minimum(domain.low, exact), np.maximum(domain.high, exact))
        return _cast(moved, dtype)

    def _domain(self, value: Value) -> Domain | None:
        return domain_of(value, lambda dim: _size(dim, self.sizes))

    def _array(self, value: Value, dtype: DType, shape: tuple[int, ...]) -> Array:
        if dtype is DType.STR:
            return self.rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
        if dtype is DType.BOOL:
            return self.rng.integers(0, 2, shape).astype(np.bool_)
        if dtype in (DType.C64, DType.C128):
            return (self.rng.standard_normal(shape) + 1j * self.rng.standard_normal(shape)).astype(
                dtype.numpy
            )
        if "mask" in value.name.lower():
            return _cast(self._mask(shape), dtype)
        domain = self._domain(value)
        if dtype.is_float:
            array = _cast(self._floats(domain, shape), dtype)
        else:
            array = self._integers(domain, dtype, shape).astype(dtype.numpy)
        is_free = dtype.is_float or domain is None
        return sprinkle(array, dtype, self.rng) if self.content == "awkward" and is_free else array

    def _mask(self, shape: tuple[int, ...]) -> Array:
        mask = np.ones(shape)
        if self.content != "plain" and shape:
            mask[self.rng.random(shape) < _MASKED] = 0
            mask[..., :1] = 1  # what masks all of a row makes NaN of it
        return mask

    def _integers(self, domain: Domain | None, dtype: DType, shape: tuple[int, ...]) -> Array:
        lowest = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
        highest = lowest + (1 << dtype.bits) - 1
        if domain is not None:
            low, high = domain.integers
            return self.rng.integers(low, min(high, highest, (1 << 31) - 1) + 1, shape)
        if dtype.bits == 8:
            return self.rng.integers(lowest, highest + 1, shape)
        if self.content == "plain":
            return self.rng.integers(0, min(_DEFAULT_RANGE - 1, highest) + 1, shape)
        wide, narrow = (
            self.rng.integers(max(-most, lowest), min(most, highest) + 1, shape)
            for most in (_VARIED_RANGE, 3)
        )
        return np.where(self.rng.random(shape) < 0.5, wide, narrow)

    def _floats(self, domain: Domain | None, shape: tuple[int, ...]) -> Array:
        array = self.rng.standard_normal(shape)
        if domain is not None:
            # The middle of the domain, all of it between its ends.
            array = (domain.low + domain.high) / 2 + (domain.high - domain.low) / 2 * np.tanh(array)
        if self.content == "plain":
            return array
        whole, draw = self.rng.integers(-3, 4, shape), self.rng.random(shape)
        zeros = np.where(self.rng.random(shape) < 0.5, 0.0, -0.0)
        mixed = np.where(draw < 0.1, zeros, np.where(draw < 0.2, whole, array))
        return mixed if domain is None else np.clip(mixed, domain.low, domain.high)
