"""A random graph under construction: draws what it needs, finds a fitting value or makes an input."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from graphopt.ir.dims import Dim, evaluate, sym, symbols
from graphopt.ir.graph import Attr, Region, Value
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, TensorType
from graphopt.testing.draft import Draft
from graphopt.testing.fuzzing.choices import Draw
from graphopt.testing.fuzzing.values import numbers

T = TypeVar("T")

SYMBOLS = (sym("n"), sym("m"))
SIZES = (1, 2, 3, 4, 5, 8, 17)
_BATCHES: tuple[Dim, ...] = (1, 2, SYMBOLS[0])
_NOMINAL = 5
"""The size that a symbol is taken to have where growth is bounded."""
_LARGEST = 4096
"""Elements of the largest value that is used again."""
_RECENT = 8
"""Values that a step chooses among: late ones, so that graphs grow deep."""


class Sketch(Draft):
    """What a motif builds with.

    Attributes:
        float: the element type of most values.
        wild: constants may hold infinities, NaN and numbers at the ends of their type.
        number: (low, high) -> an integer between them, both included; shrinks to the low one.
        pool: values that may be used, in program order.
    """

    def __init__(self, draw: Draw, float: DType = DType.F32, *, wild: bool = False) -> None:
        super().__init__("random")
        self.number = draw
        self.float = float
        self.wild = wild
        self.pool: list[Value] = []
        self.depth = 0
        self._region: Region | None = None

    # --- drawing ------------------------------------------------------------------------------

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``; shrinks to the first."""
        return options[self.number(0, len(options) - 1)]

    def chance(self, percent: int = 50) -> bool:
        """True in about so many of 100 draws; shrinks to False."""
        return self.number(0, 99) >= 100 - percent

    def order(self, rank: int) -> tuple[int, ...]:
        """A permutation of the axes of a value of ``rank``."""
        left = list(range(rank))
        return tuple(left.pop(self.number(0, len(left) - 1)) for _ in range(rank))

    def dim(self) -> Dim:
        """A size: a number, odd ones too, or a symbol."""
        dims: tuple[Dim, ...] = (*SIZES[1:], SIZES[0], *SYMBOLS)
        return self.choice(dims)

    # --- values -------------------------------------------------------------------------------

    def value(
        self,
        dtype: DType | None = None,
        rank: int | tuple[int, int] = (0, 4),
        where: Callable[[tuple[Dim, ...]], bool] | None = None,
        shape: Callable[[], tuple[Dim, ...]] | None = None,
    ) -> Value:
        """A value made before that fits, or a new input.

        Args:
            dtype: :attr:`float` by default.
            rank: one, or the least and the most.
            where: what its shape must fulfil.
            shape: makes the shape of a new input, where not any shape of this rank will do.
        """
        dtype = dtype or self.float
        low, high = (rank, rank) if isinstance(rank, int) else rank
        found = [v for v in self.pool if v.tensor.dtype is dtype and self._fits(v, low, high, where)]
        if found and not self.chance(12):
            return self.choice(found[-1 : -_RECENT - 1 : -1])
        made = shape() if shape is not None else tuple(self.dim() for _ in range(self.number(low, high)))
        return self.new_input(dtype, made)

    def _fits(self, v: Value, low: int, high: int, where: Callable[[tuple[Dim, ...]], bool] | None) -> bool:
        shape = shape_of(v)
        return low <= len(shape) <= high and (where is None or where(shape))

    def new_input(self, dtype: DType, shape: tuple[Dim, ...], name: str = "") -> Value:
        """A new input of the graph, taken into the pool."""
        value = self.input(name or "xyzuvw"[len(self.graph.inputs) % 6], *shape, dtype=dtype.text)
        self.pool.append(value)
        return value

    def matrix(self) -> Value:
        """A value of rank 2 with a known last size."""
        return self.value(
            rank=2, where=lambda s: isinstance(s[1], int), shape=lambda: (self.dim(), self.size())
        )

    def rows(self) -> Value:
        """A value of rank 1 or more with a known last size."""
        return self.value(
            rank=(1, 4), where=lambda s: isinstance(s[-1], int),
            shape=lambda: (*(self.dim() for _ in range(self.number(1, 3))), self.size()),
        )  # fmt: skip

    def image(self, places: int = 2) -> Value:
        """A value [batch, channels, ...] with known channels and places, of 2 places or more in each."""
        return self.value(
            rank=2 + places,
            where=lambda s: isinstance(s[1], int) and all(isinstance(d, int) and d > 1 for d in s[2:]),
            shape=lambda: (
                self.choice(_BATCHES), self.choice((3, 4, 16, 1, 7, 20)),
                *(self.choice((4, 5, 7, 9)) for _ in range(places)),
            ),
        )  # fmt: skip

    def size(self) -> int:
        """A known size."""
        return self.choice((*SIZES[1:], SIZES[0]))

    def constant(self, *shape: int, dtype: DType | None = None, kind: str = "") -> Value:
        """A constant of random numbers; see :func:`~graphopt.testing.fuzzing.values.numbers` for kinds."""
        dtype = dtype or self.float
        kinds = (
            "normal",
            "small",
            "normal",
            "ones",
            "zeros",
            "halves",
            *(("wild", "wild") if self.wild else ()),
        )
        return self.array(numbers(dtype, shape, kind or self.choice(kinds), self.number(0, 7)), dtype)

    def array(self, data: Array, dtype: DType | None = None) -> Value:
        """A constant of this array."""
        return self.const(data, "c", (dtype or DType.of(data.dtype)).numpy)

    # --- nodes --------------------------------------------------------------------------------

    def __call__(
        self,
        op: str,
        *inputs: Value | None,
        outputs: int = 1,
        region: Region | None = None,
        name: str = "",
        **attrs: Attr,
    ) -> Any:
        """A node in the region under construction; its outputs go to the pool."""
        made = super().__call__(
            op, *inputs, outputs=outputs, region=region or self._region, name=name, **attrs
        )
        for value in [made] if outputs == 1 else made:
            self.add(value)
        return made

    def add(self, value: Value) -> None:
        """Takes a value into the pool, unless its type is unknown or it is too large."""
        kind = value.type
        if isinstance(kind, TensorType) and kind.is_known and 0 < elements(shape_of(value)) <= _LARGEST:
            self.pool.append(value)

    def branch(self, op: str, *inputs: Value | None, **regions: Any) -> Any:
        """A node of control flow with one output; see :meth:`Draft.control`."""
        made = self.control(
            op, inputs, {k: (p, self._inside(f)) for k, (p, f) in regions.items()}, region=self._region
        )
        self.add(made)
        return made

    def _inside(self, fill: Callable[[Region], list[Value]]) -> Callable[[Region], list[Value]]:
        def filled(region: Region) -> list[Value]:
            with self._within(region):
                return fill(region)

        return filled

    @contextlib.contextmanager
    def _within(self, region: Region) -> Iterator[None]:
        outside, region_outside, inputs = list(self.pool), self._region, len(self.graph.inputs)
        self._region, self.depth = region, self.depth + 1
        yield
        # Values of the region are not visible outside, but inputs that it made are.
        self.pool = [*outside, *self.graph.inputs[inputs:]]
        self._region, self.depth = region_outside, self.depth - 1


Motif = Callable[[Sketch], object]
"""One step of a random graph: takes values of the sketch and adds nodes to it."""


def shape_of(value: Value) -> tuple[Dim, ...]:
    """The shape of a value that has a known one."""
    assert value.tensor.shape is not None
    return value.tensor.shape


def elements(shape: Sequence[Dim]) -> int:
    """How many there are when every symbol is 5."""
    return math.prod(evaluate(d, dict.fromkeys(symbols(d), _NOMINAL)) for d in shape)


def known(shape: Sequence[Dim]) -> list[int]:
    """The axes whose sizes are numbers."""
    return [axis for axis, dim in enumerate(shape) if isinstance(dim, int)]


def vector_to(shape: Sequence[Dim], axis: int) -> tuple[int, ...]:
    """The shape of a constant that varies along ``axis`` only, of the rank that broadcasting needs."""
    size = shape[axis]
    assert isinstance(size, int)
    return (size, *(1,) * (len(shape) - axis - 1))


def i64(*items: int) -> Array:
    """A vector of i64."""
    return np.array(items, np.int64)
