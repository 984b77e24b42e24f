"""The arguments of a kernel under construction: buffers, flat views of them, packed weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from tvm import tirx

from graphopt.backend.layout import stored_offset, stored_shape, vector_bytes
from graphopt.backend.readers import Memory
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.symbolic import Expr, Symbols
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.runtime.dtypes import itemsize
from graphopt.targets import Target

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Packed:
    """A weight in the form that a kernel reads: what it becomes, and how."""

    shape: tuple[int, ...]
    dtype: str
    pack: Callable[[Array], Array]
    form: Hashable
    """Equal for equal ways of packing, so that a weight packed alike for two kernels is kept once."""

    def apply(self, data: Array) -> Array:
        """The weight in this form."""
        return self.pack(_without_denormals(data))


# Where some number is as large as this, denormal ones are none to the sums that both are in.
_LARGE = 2.0**-90


def _without_denormals(data: Array) -> Array:
    """float32 weights with 0 for denormal numbers beside large ones.

    Decay leaves them in channels that a model has learned to do without, and processors take some 150 cycles
    for a multiplication by one: the gates of PP-OCRv4's recogniser took twenty times as long.
    """
    if data.dtype != np.float32 or not data.size:
        return data
    size = np.abs(data)
    denormal = (size < np.finfo(np.float32).tiny) & (size > 0)
    if not denormal.any() or not size.max() >= _LARGE:
        return data
    return np.where(denormal, np.float32(0), data)


def _padded(value: Value, extra: int) -> Packed:
    """A constant in row-major order with ``extra`` zeros behind it."""
    size = math.prod(cast("tuple[int, ...]", shape_of(value)))
    return Packed(
        (size + extra,), dtype_of(value), lambda data: np.pad(data.reshape(-1), (0, extra)), ("padded", extra)
    )


class Arguments:
    """The buffers of a kernel under construction, made when code first asks for them."""

    def __init__(self, region: KernelRegion, symbols: Symbols, target: Target) -> None:
        self.region = region
        self.target = target
        self.symbols = symbols
        self.buffers: dict[int, Any] = {}
        self.packed: dict[int, Packed] = {}
        self.views: list[tuple[Any, Any]] = []
        self._lanes = max(value.tensor.channel_block for value in region.outputs)
        self._flat: dict[Value, Any] = {}

    def buffer(self, value: Value) -> Any:
        """The buffer of a leaf in the shape in which it is stored."""
        position = self.region.inputs.index(value)
        if position not in self.buffers:
            # A caller's array begins at any element. Code for that is as fast where memory is aligned.
            self.buffers[position] = self._declare(value, f"p{position}", itemsize(dtype_of(value)))
        return self.buffers[position]

    def result(self, position: int) -> Any:
        """The buffer of an output of the region in the shape in which it is stored."""
        return self._declare(self.region.outputs[position], f"out{position}", vector_bytes(self.target))

    def _declare(self, value: Value, name: str, alignment: int) -> Any:
        return tirx.decl_buffer(
            self.symbols.plain(stored_shape(value)),
            dtype_of(value),
            name=name,
            data_alignment=alignment,
        )

    def flat(self, value: Value) -> Any:
        """A leaf as a one-dimensional buffer."""
        if value not in self._flat:
            extra = self._padding(value)
            assert not extra or self.region.inputs.index(value) not in self.buffers, (
                "read before it was padded"
            )
            self._flat[value] = (
                self.pack(value, _padded(value, extra)) if extra else self.view(self.buffer(value), value)
            )
        return self._flat[value]

    def _padding(self, value: Value) -> int:
        """Elements to add to a constant, so that a whole vector of channels can be read from its last."""
        if self._lanes == 1 or value not in self.region.constants:
            return 0
        shape = cast("tuple[int, ...]", shape_of(value))
        axis = max(len(shape) - len(shape_of(self.region.outputs[0])) + 1, 0)
        return (self._lanes - 1) * math.prod(shape[axis + 1 :])

    def view(self, buffer: Any, value: Value) -> Any:
        """The memory of ``buffer``, which holds ``value``, as one dimension."""
        size = self.symbols.expression(product(stored_shape(value)))
        flat = tirx.decl_buffer(
            (size,),
            buffer.dtype,
            name=f"{buffer.name}_flat",
            data=buffer.data,
            data_alignment=buffer.data_alignment,
        )
        self.views.append((flat, buffer))
        return flat

    def pack(self, value: Value, packed: Packed) -> Any:
        """The buffer of a constant leaf, brought into another form at compile time."""
        position = self.region.inputs.index(value)
        assert position not in self.buffers, "a weight is read in two forms"
        self.packed[position] = packed
        self.buffers[position] = tirx.decl_buffer(packed.shape, packed.dtype, name=f"p{position}")
        return self.buffers[position]

    def leaf(self, value: Value) -> Memory:
        """How the elements of a leaf are loaded."""

        row_major = value.tensor.channel_block == 1
        shape = shape_of(value)
        # Vectors of channels may run past the last one, and rows have no memory there.
        bounded = self._lanes > 1 and row_major and value not in self.region.constants and len(shape) > 1

        def place(indices: Sequence[Expr]) -> Expr:
            if bounded:
                last = self.symbols.expression(shape[1]) - 1
                indices = (indices[0], tirx.min(indices[1], last), *indices[2:])
            return stored_offset(value, indices, self.symbols)

        def load(indices: Sequence[Expr]) -> Expr:
            return load_flat(place(indices))

        def load_flat(offset: Expr) -> Expr:
            return self.flat(value)[offset]

        return Memory(load, load_flat if row_major else None, None if row_major else place, load_flat)
