"""Emitters: operators whose elements can't be computed one by one, such as reductions and products.

An emitter writes loops into the open kernel and hands each finished element to a `Sink`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Arguments
from graphopt.backend.emitters.stages import Stages
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.layout import stored_offset
from graphopt.backend.nests import emit_relaid, emit_value
from graphopt.backend.readers import Context, Indices, Memory, flat_offset, variables_of
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import product
from graphopt.ir.graph import Node, Value
from graphopt.targets import Target

Sink = Callable[[Expr, Sequence[Expr]], None]
"""sink(element, indices) emits the store of one element; storing an element twice is harmless.

While the context is tracing it only reads what the store would read.
"""
Touch = Callable[[Indices], object]


@dataclass(frozen=True)
class Work:
    """What an emitter works with."""

    context: Context
    arguments: Arguments
    target: Target
    machine: Machine
    """The target as kernels see it, with choices of this kernel's own."""
    stages: Stages | None = None
    """Where tensor expressions are made instead of loops."""
    kernel_error: float = 0.0
    """Bound of what fast kernels may add to the relative error of a convolution or product."""
    methods: list[str] = field(default_factory=list)
    """Names of the special methods that were chosen, for the kernel's name."""

    def touch(
        self, sinks: Mapping[int, Sink], node: Node, index_of: Callable[[Indices], Sequence[Expr]]
    ) -> Touch:
        """What reads, while tracing, all that ``sinks`` read for the element at ``index_of(indices)``."""

        def read(indices: Indices) -> None:
            for output, sink in sinks.items():
                sink(tirx.Var("element", dtype_of(node.outputs[output])), index_of(indices))

        return read

    def shape(self, value: Value) -> list[Expr]:
        """Extents of a value as 64-bit expressions."""
        return self.context.symbols.shape(shape_of(value))

    def place(self, value: Value, indices: Sequence[Expr]) -> Expr:
        """The offset of an element in the memory of ``value``."""
        return stored_offset(value, indices, self.context.symbols)

    def reserve(self, value: Value) -> Any:
        """A flat buffer that holds ``value`` while the kernel runs; reads of it go there from now on."""
        buffer = scratch(self.context.extent(product(shape_of(value))), dtype_of(value))
        self._lies_in(value, buffer)
        return buffer

    def _lies_in(self, value: Value, buffer: Any) -> None:
        """Reads of ``value`` go to a flat row-major buffer from now on."""
        shape = self.shape(value)
        self.context.memory[value] = Memory(
            lambda indices: buffer[flat_offset(indices, shape)], lambda offset: buffer[offset]
        )

    def materialized(self, value: Value) -> Any:
        """A row-major buffer in ``value``'s own shape: the argument, or scratch filled by a nest."""
        leaf = value in self.context.region.inputs
        if leaf and value.tensor.channel_block == 1:
            return self.arguments.buffer(value)
        if not leaf and value in self.context.memory:
            raise AssertionError(f"{value.name} lies in scratch of another form")
        buffer = scratch(self.context.extent(product(shape_of(value))), dtype_of(value))
        if leaf:
            emit_relaid(self.context, self.target, value, 1, buffer)
        else:
            emit_value(self.context, self.target, value, buffer)
        self._lies_in(value, buffer)
        return T.decl_buffer(self.shape(value), buffer.dtype, data=buffer.data)

    def sink_into(self, value: Value, buffer: Any) -> Sink:
        """Stores elements of ``value`` as they are."""

        def store(element: Expr, indices: Sequence[Expr]) -> None:
            if self.context.trace is None:
                T.buffer_store(buffer, element, [self.place(value, indices)])

        return store

    def sink_through(self, value: Value, final: Value, buffer: Any) -> Sink:
        """Applies what the region does to elements of ``value``, and stores elements of ``final``."""
        context = self.context

        def store(element: Expr, indices: Sequence[Expr]) -> None:
            context.memory[value] = Memory(lambda _: element)
            if context.trace is not None:
                context.read(final, indices)
                del context.memory[value]
                return
            outer = context.vector_variables
            context.vector_variables = frozenset[Expr]().union(*(variables_of(index) for index in indices))
            T.buffer_store(buffer, context.expression(final, indices), [self.place(final, indices)])
            context.vector_variables = outer
            del context.memory[value]

        return store


Emitter = Callable[[Work, Node, dict[int, Sink]], None]
"""emitter(work, node, sinks): sinks are given for the outputs that are wanted."""

EMITTERS: dict[str, Emitter] = {}


def emitter(*ops: str) -> Callable[[Emitter], Emitter]:
    """Enters an emitter for standard operators."""

    def attach(function: Emitter) -> Emitter:
        for op in ops:
            EMITTERS[op] = function
        return function

    return attach
