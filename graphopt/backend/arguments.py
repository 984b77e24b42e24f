"""The arguments of a kernel under construction: buffers, flat views of them, packed weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from graphopt.backend.readers import Memory, flat_offset
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.symbolic import Expr, Symbols
from graphopt.ir.dims import product
from graphopt.ir.graph import Value

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Packed:
    """A weight in the form that a kernel reads: what it becomes, and how."""

    shape: tuple[int, ...]
    dtype: str
    pack: Callable[[Array], Array]
    form: Hashable
    """Equal for equal ways of packing, so that a weight packed alike for two kernels is kept once."""


class Arguments:
    """The buffers of a kernel under construction, made when code first asks for them."""

    def __init__(self, region: KernelRegion, symbols: Symbols) -> None:
        self.region = region
        self.symbols = symbols
        self.buffers: dict[int, Any] = {}
        self.packed: dict[int, Packed] = {}
        self.views: list[tuple[Any, Any]] = []
        self._flat: dict[Value, Any] = {}

    def buffer(self, value: Value) -> Any:
        """The buffer of a leaf in its own shape."""
        position = self.region.inputs.index(value)
        if position not in self.buffers:
            self.buffers[position] = tirx.decl_buffer(
                self.symbols.plain(shape_of(value)), dtype_of(value), name=f"p{position}"
            )
        return self.buffers[position]

    def flat(self, value: Value) -> Any:
        """A leaf as a one-dimensional buffer."""
        if value not in self._flat:
            self._flat[value] = self.view(self.buffer(value), value)
        return self._flat[value]

    def view(self, buffer: Any, value: Value) -> Any:
        """The memory of ``buffer`` as one dimension of the size of ``value``."""
        size = self.symbols.expression(product(shape_of(value)))
        flat = tirx.decl_buffer((size,), buffer.dtype, name=f"{buffer.name}_flat", data=buffer.data)
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
        shape = shape_of(value)

        def load(indices: tuple[Expr, ...]) -> Expr:
            return load_flat(flat_offset(indices, self.symbols.shape(shape)))

        def load_flat(offset: Expr) -> Expr:
            return self.flat(value)[offset]

        return Memory(load, load_flat)
