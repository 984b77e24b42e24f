"""How scalars inside a region are read: leaves from memory, everything else by its operator's reader.

`Context.read(value, indices)` gives the element of any value of the region as an expression, so
chains of operators become one expression by construction. Values that are used more than once are
bound to a variable, so that the expression stays as small as the region.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import tirx

from graphopt.backend.kernels.math import bound_by
from graphopt.backend.kernels.temporaries import temporary
from graphopt.backend.readers.indices import ZERO, Indices, flat_offset, immediate, variables_of
from graphopt.backend.refusal import refuse
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.symbolic import Expr, Symbols, type_of
from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node, Value
from graphopt.ops import symbolic_content

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Memory:
    """How the elements of a value that lies in memory are loaded: by indices, and by row-major offset.

    ``place`` gives the offset of an element in memory that is not row-major, ``load_stored`` what is at
    an offset of the memory.
    """

    load: Callable[[Indices], Expr]
    load_flat: Callable[[Expr], Expr] | None = None
    place: Callable[[Indices], Expr] | None = None
    load_stored: Callable[[Expr], Expr] | None = None


@dataclass
class Trace:
    """What reading a value touches, found by reading it once with plain variables as indices."""

    loads: list[tuple[str, Expr]] = field(default_factory=list)
    """Element type and flat offset of each load."""
    others: list[Expr] = field(default_factory=list)
    """Index expressions that are used in any other way."""


class Context:
    """The reading side of one kernel.

    Args:
        region: what is compiled.
        symbols: variables of the kernel.
        vector_math: functions of one scalar by name (``exp``, ``tanh``...), over TVM's own.
    """

    def __init__(
        self,
        region: KernelRegion,
        symbols: Symbols,
        vector_math: Mapping[str, Callable[[Expr], Expr]] | None = None,
    ) -> None:
        self.region = region
        self.symbols = symbols
        self.vector_math = vector_math or {}
        self.memory: dict[Value, Memory] = {}
        """Values that lie in memory, leaves and scratch, with how one element is loaded."""
        self.consulted: dict[tuple[str, Value], Hashable] = {}
        """What the code depends on beside the region's key: contents of constants."""
        self.trace: Trace | None = None
        self.inline = False
        """Whether nothing is bound: tensor expressions have no statements."""
        self.pieces: dict[Node, int] = {}
        """For a Concat: which input all indices fall into, where the loop nest was split."""
        self.vector_variables: frozenset[Expr] = frozenset()
        self._lets: list[tuple[Any, Expr]] = []
        self._memo: dict[tuple[Hashable, ...], tuple[Expr, Indices]] = {}
        self._unsafe = 0
        self._open = False
        self._branches = 0
        self._shared = _shared_values(region)

    # Reading

    def expression(self, value: Value, indices: Sequence[Expr]) -> Expr:
        """``value[indices]``; what it needs more than once is computed by statements emitted now."""
        return self.closed(lambda: self.read(value, indices))

    def closed(self, make: Callable[[], Expr]) -> Expr:
        """The expression that ``make`` gives; nothing read within is remembered after it."""
        memo, self._memo = self._memo, dict(self._memo) if self._open else {}
        was_open, self._open = self._open, True
        try:
            return make()
        finally:
            self._memo, self._open = memo, was_open

    def _branch(self, make: Callable[[], Expr]) -> Expr:
        """The expression of one side of a branch, with its own bindings inside of it."""
        lets, self._lets = self._lets, []
        memo, self._memo = self._memo, dict(self._memo)
        self._branches += 1
        try:
            result = make()
            for variable, bound in reversed(self._lets):
                result = tirx.Let(variable, bound, result)
            return result
        finally:
            self._lets, self._memo = lets, memo
            self._branches -= 1

    def read(self, value: Value, indices: Sequence[Expr]) -> Expr:
        """The element of ``value`` at ``indices`` (one for each dimension).

        Raises:
            CompileError: an operator has no reader.
        """
        place = indices if isinstance(indices, tuple) else tuple(indices)
        inline = self._inlined(value, place)
        if inline is not None:
            return inline
        key = (value, *map(id, place))
        if key in self._memo:
            return self._memo[key][0]
        if value in self.memory:
            result = self._load(value, place)
        else:
            node = value.producer
            if node is None or node.domain or node.op not in READERS:
                raise (
                    refuse(node, "no kernel computes it") if node is not None else AssertionError(value.name)
                )
            result = READERS[node.op](self, node, value.index, place)
        if value in self._shared:
            result = self.bind(result)
        # The indices are kept so that their identities stay taken.
        self._memo[key] = (result, place)
        return result

    def input(self, node: Node, index: int, indices: Sequence[Expr]) -> Expr:
        """Element of input ``index`` of ``node``."""
        value = node.inputs[index]
        assert value is not None
        return self.read(value, indices)

    def broadcast(self, value: Value, indices: Sequence[Expr], shape: Shape) -> Expr:
        """Element of ``value`` that broadcasts to ``indices`` of ``shape``."""
        own = shape_of(value)
        if own == shape:
            return self.read(value, indices)
        lead = len(shape) - len(own)
        return self.read(
            value,
            [
                self.broadcast_index(dim, whole, index)
                for dim, whole, index in zip(own, shape[lead:], indices[lead:], strict=True)
            ],
        )

    def broadcast_index(self, dim: Dim, whole: Dim, index: Expr) -> Expr:
        """Where an operand of extent ``dim`` is read for ``index`` of the extent ``whole``."""
        if dim == 1:
            return ZERO
        if dim == whole:
            return index
        # Sizes that don't fit together are the caller's fault; they must not read other memory.
        return tirx.Select(self.extent(dim) == 1, ZERO, tirx.min(index, self.extent(dim) - 1))

    def read_flat(self, value: Value, offset: Expr) -> Expr | None:
        """The element at a row-major offset; None where that can't be loaded directly."""
        memory = self.memory.get(value)
        if memory is None or memory.load_flat is None or self._inlined(value, (offset,)) is not None:
            return None
        return self._traced(value, offset) if self.trace is not None else memory.load_flat(offset)

    def bind(self, expression: Expr) -> Expr:
        """A variable that stands for ``expression`` in what is being read."""
        if isinstance(expression, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
            return expression
        dtype = type_of(expression)
        if self.trace is not None:
            return tirx.Var("v", dtype)
        if dtype == "bool" or self.inline:
            # In a buffer it would be widened to bytes and narrowed again.
            return expression
        if self._branches:
            variable = tirx.Var("v", dtype)
            self._lets.append((variable, expression))
            return variable
        return temporary(expression)

    def branch(self, condition: Expr, then: Callable[[], Expr], other: Callable[[], Expr]) -> Expr:
        """``then`` where ``condition`` holds, else ``other``.

        A condition that is the same for all lanes of a vector becomes a branch. For one that is not,
        both sides are computed, so their indices must pass through :meth:`clamp`.
        """
        if self.trace is not None:
            self.trace.others.append(condition)
            then()
            return other()
        if not self.vector_variables.isdisjoint(variables_of(condition)):
            self._unsafe += 1
            try:
                return tirx.Select(condition, then(), other())
            finally:
                self._unsafe -= 1
        return tirx.if_then_else(condition, self._branch(then), self._branch(other))

    def branch_zero(self, condition: Expr, then: Callable[[], Expr]) -> Expr:
        """``then`` where ``condition`` holds, else 0 of the same type."""
        made: list[Expr] = []

        def first() -> Expr:
            made.append(then())
            return made[0]

        return self.branch(condition, first, lambda: tirx.const(0, type_of(made[0])))

    def clamp(self, index: Expr, extent: Expr) -> Expr:
        """``index``, kept inside the extent where it may lie outside but is not used."""
        # Schedules of tensor expressions copy operands with no regard to the conditions around them.
        if self._unsafe == 0 and not self.inline:
            return index
        return tirx.max(tirx.min(index, extent - 1), ZERO)

    def number(self, index: Expr, dtype: str) -> Expr:
        """An index as a value of type ``dtype``."""
        if self.trace is not None:
            self.trace.others.append(index)
        return index.astype(dtype)

    # Knowledge

    def extent(self, dim: Dim) -> Expr:
        """A dimension as a 64-bit expression."""
        return self.symbols.expression(dim)

    def constant(self, value: Value | None) -> Array | None:
        """The data of a constant; the code made then depends on it."""
        data = None if value is None else self.region.constants.get(value)
        if value is None or data is None:
            return None
        self.consulted["data", value] = data.digest
        return data.numpy()

    def content(self, value: Value | None) -> tuple[Dim, ...] | None:
        """Elements of a small integer tensor in terms of dimensions, None when not known."""
        if value is None:
            return None
        found = symbolic_content(value)
        self.consulted["content", value] = found
        return found

    def math(self, name: str, x: Expr) -> Expr:
        """The function ``name`` of a float, computed in float32 or float64."""
        if type_of(x) == "float32" and name in self.vector_math:
            with bound_by(self.bind):
                return self.vector_math[name](self.bind(x))
        return getattr(tirx, name)(x)

    def rounded(self, x: Expr) -> Expr:
        """``x``, a product in float32, rounded before it is added to anything.

        A multiply-add would round once, on the CPUs that have one and in the order that LLVM happens
        to choose; quantized results are to be the same everywhere. The fence is no instruction.
        """
        return x if self.inline else tirx.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", x)

    @contextmanager
    def tracing(self) -> Iterator[Trace]:
        """Within, reading records what is touched instead of making code."""
        self.trace = Trace()
        memo, self._memo = self._memo, {}
        try:
            yield self.trace
        finally:
            self.trace, self._memo = None, memo

    def _inlined(self, value: Value, indices: Indices) -> Expr | None:
        """A scalar constant, or an element of a shape computation."""
        constant = self.region.constants.get(value)
        if constant is not None and constant.size == 1:
            data = self.constant(value)
            assert data is not None
            return immediate(data.reshape(-1)[0], dtype_of(value))
        if constant is None and value in self.memory and len(indices) <= 1 and value.tensor.dtype is not None:
            content = self.content(value) if value.tensor.dtype.is_integer else None
            if content is not None and len(content) == 1:
                return self.extent(content[0]).astype(dtype_of(value))
        return None

    def _load(self, value: Value, indices: Indices) -> Expr:
        if self.trace is None:
            return self.memory[value].load(indices)
        place = self.memory[value].place
        if place is not None:
            return self._traced(value, place(indices))
        return self._traced(value, flat_offset(indices, self.symbols.shape(shape_of(value))))

    def _traced(self, value: Value, offset: Expr) -> Expr:
        assert self.trace is not None
        self.trace.loads.append((dtype_of(value), offset))
        return tirx.Var("loaded", dtype_of(value))


def _shared_values(region: KernelRegion) -> frozenset[Value]:
    """Values that are computed in the region and read more than once."""
    uses: dict[Value, int] = {}
    for node in region.nodes:
        for value in node.inputs:
            if value is not None:
                uses[value] = uses.get(value, 0) + 1
    inner = {value for node in region.nodes for value in node.outputs}
    return frozenset(value for value, count in uses.items() if count > 1 and value in inner)


Reader = Callable[[Context, Node, int, Indices], Expr]
"""reader(context, node, output index, indices) -> scalar expression of that output's element type."""

READERS: dict[str, Reader] = {}
"""How the scalars of operators are read, by the operator."""


def reader(*ops: str) -> Callable[[Reader], Reader]:
    """Enters a reader for standard operators."""

    def attach(function: Reader) -> Reader:
        for op in ops:
            READERS[op] = function
        return function

    return attach
