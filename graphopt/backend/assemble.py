"""From a graph to a Relax module: calls of kernels on memory that is planned, weights as parameters."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from tvm import relax

from graphopt.backend.arguments import Packed
from graphopt.backend.calls import Call, KernelCache, plan_calls
from graphopt.backend.constants import Constants
from graphopt.backend.contiguous import MOVING
from graphopt.backend.layout import stored_shape, vector_bytes
from graphopt.backend.memory import Arena, Block, Blocks, pack, size_of
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.sizes import size_rules
from graphopt.backend.symbolic import Symbols
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.runtime.manifest import MemoryUse
from graphopt.runtime.sizes import SizeRule
from graphopt.targets import Target

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Assembled:
    """A module and what its ``main`` takes after the inputs."""

    module: Any
    weights: list[tuple[str, Array]]
    kernels: dict[str, list[str]]
    """For each kernel the labels of the nodes that it computes."""
    sizes: tuple[SizeRule, ...]
    """What the sizes at a call must be to each other."""
    memory: MemoryUse


def assemble(
    graph: Graph,
    target: Target,
    kernel_error: float = 0.0,
    choices: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    unscheduled: Collection[Node] = frozenset(),
    *,
    memory_plan: bool = True,
) -> Assembled:
    """The Relax module of a graph whose nodes all have kernels.

    Args:
        kernel_error: bound of what fast kernels may add to the relative error of a convolution or product.
        choices: see :class:`KernelCache`.
        unscheduled: nodes whose kernels are loops straight from the operators' definitions.
        memory_plan: False for memory of its own for every value.

    Raises:
        CompileError: a region can't be lowered, sizes don't fit together, or a size depends on data.
    """
    constants = Constants(graph)
    sizes = size_rules(graph, constants.get)
    cache = KernelCache(target, kernel_error, choices)
    planned = memory_plan and target.kind == "llvm"
    blocks = Blocks(graph, constants.get, vector_bytes(target) if planned else None)
    calls = plan_calls(graph, cache, constants, blocks, unscheduled)
    module = _Module(graph, cache, calls, constants, blocks)
    return Assembled(module.build(), module.weights, module.kernels, sizes, module.memory_use())


def lay_out(calls: Sequence[Call], blocks: Blocks) -> Arena[Block]:
    """Where the blocks lie that are not returned."""
    views = {call.region.outputs[0]: call.reads[0] for call in calls if call.lowered is None}

    def block_of(value: Value) -> Block | None:
        while value in views:
            value = views[value]
        return blocks.of(value)

    steps = []
    for call in calls:
        values = [*call.reads, *call.writes, *([call.place.whole] if call.place is not None else [])]
        touched = [block_of(value) for value in values if call.lowered is not None]
        steps.append([block for block in touched if block is not None and block.output is None])
    return pack(steps, lambda block: block.size)


class _Module:
    """Builds ``main``."""

    def __init__(
        self, graph: Graph, cache: KernelCache, calls: Sequence[Call], constants: Constants, blocks: Blocks
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.calls = calls
        self.symbols = Symbols()
        self.weights: list[tuple[str, Array]] = []
        self.kernels: dict[str, list[str]] = {}
        self.blocks = blocks
        self.arena = lay_out(calls, blocks)
        self._functions = cache.functions
        self._values: dict[Value, Any] = {}
        self._weights: dict[Hashable, Any] = {}
        self._storages: dict[Block | None, Any] = {}

    def build(self) -> Any:
        """The module; fills ``weights`` and ``kernels``."""
        self._check_symbols()
        parameters = []
        for position, value in enumerate(self.graph.inputs):
            self._values[value] = relax.Var(f"in{position}", self._type(value))
            parameters.append(self._values[value])
        for call in self.calls:
            parameters += self._declare_weights(call)
        builder = relax.BlockBuilder()
        variables = {name: builder.add_func(function, name) for name, function in self._functions.items()}
        copies: dict[Value, Any] = {}
        with builder.function("main", parameters, pure=False):
            for call in self.calls:
                if call.lowered is None:
                    self._emit_view(builder, call)
                    continue
                results = self._emit(builder, variables[call.name], call)
                if call.region.nodes:
                    self._values.update(zip(call.writes, results, strict=True))
                elif call.place is None:
                    copies.update(zip(call.writes, results, strict=True))
            returned = [
                copies[value] if value in copies else self._tensor(builder, value)
                for value in self.graph.outputs
            ]
            builder.emit_func_output(relax.Tuple(returned))
        return builder.get()

    def memory_use(self) -> MemoryUse:
        """What the manifest says of memory."""
        written = {value for call in self.calls for value in call.writes if call.region.nodes}
        moved = [
            call.region.nodes[0]
            for call in self.calls
            if call.lowered is not None and len(call.region.nodes) == 1 and call.region.nodes[0].op in MOVING
        ]
        in_place = [node for node in self.blocks.in_place if node.op in MOVING]
        joined = [node.output for node in in_place if node.op == "Concat"]
        return MemoryUse(
            planned=self.arena.size,
            separate=sum(
                size_of(value)
                for value in (*written, *joined)
                if (block := self.blocks.of(value)) is not None and block in self.arena.places
            ),
            in_place=len(in_place),
            moved=len(dict.fromkeys(moved)),
            dynamic=sum(self.blocks.of(value) is None for value in written.difference(self.graph.outputs)),
        )

    def _type(self, value: Value) -> Any:
        return relax.TensorType(self.symbols.shape(stored_shape(value)), dtype_of(value))

    def _check_symbols(self) -> None:
        """Every symbol must be the extent of an input along some axis.

        Raises:
            CompileError: a size is known only while the model runs.
        """
        bound = {
            dim.symbol for value in self.graph.inputs for dim in shape_of(value) if not isinstance(dim, int)
        }
        for call in self.calls:
            for name in call.region.symbols + (call.lowered.symbols if call.lowered else ()):
                if name not in bound:
                    raise CompileError(
                        f"{call.region.label}: the size {name!r} depends on data, or on an input's shape in a "
                        "way that can't be followed",
                        hint="fix the input shapes at import (--dim, --input)"
                        + (
                            ""
                            if "graphopt.pipeline" in self.graph.metadata
                            else ", or optimize the graph first"
                        ),
                    )

    def _declare_weights(self, call: Call) -> list[Any]:
        """New parameters for the constants that a call reads."""
        made = []
        positions = call.lowered.inputs if call.lowered else (0,)
        for position in positions:
            value = call.region.outer[position]
            packed = call.lowered.packed.get(position) if call.lowered else None
            key = self._weight_key(value, packed)
            known = self.constants.get(value)
            if known is None or key in self._weights:
                continue
            data = known.numpy()
            name = value.name
            if packed is not None:
                data, name = packed.apply(data), f"{name}.packed{len(self.weights)}"
            shape = packed.shape if packed is not None else data.shape
            self.weights.append((name, data))
            dtype = packed.dtype if packed is not None else dtype_of(value)
            made.append(relax.Var(f"w{len(self.weights)}", relax.TensorType(shape, dtype)))
            self._weights[key] = made[-1]
        return made

    def _weight_key(self, value: Value, packed: Packed | None) -> Hashable:
        return value, packed.form if packed is not None else None

    def _emit_view(self, builder: Any, call: Call) -> None:
        """A view of what is not in a block."""
        (source,), (output,) = call.reads, call.region.outputs
        known = self.constants.get(source) is not None
        passed = self._weights[self._weight_key(source, None)] if known else self._tensor(builder, source)
        shape = relax.ShapeExpr(self.symbols.shape(stored_shape(output)))
        self._values[output] = builder.emit(relax.op.reshape(passed, shape))

    def _emit(self, builder: Any, kernel: Any, call: Call) -> list[Any]:
        """A kernel call; gives its results."""
        lowered = call.lowered
        assert lowered is not None
        passed = [
            self._tensor(builder, value)
            if self.constants.get(value) is None
            else self._weights[self._weight_key(value, lowered.packed.get(position))]
            for position, value in zip(lowered.inputs, call.reads, strict=True)
        ]
        passed += [self.symbols.variable(name) for name in lowered.symbols]
        if call.place is None:
            results = [self._tensor(builder, value, fresh=not call.region.nodes) for value in call.writes]
        else:
            results = [self._place(builder, call.place.whole, call.place.offset, call.place.part)]
        builder.emit(relax.Call(kernel, [*passed, *results]))
        self.kernels.setdefault(kernel.name_hint, []).append(call.region.label)
        return results

    def _tensor(self, builder: Any, value: Value, fresh: bool = False) -> Any:
        """The tensor of a value, in its block, or ``fresh`` or for want of a block in memory of its own."""
        if value in self._values and not fresh:
            return self._values[value]
        if fresh or self.blocks.of(value) is None:
            kind = self._type(value)
            return builder.emit(relax.op.builtin.alloc_tensor(kind.shape, str(kind.dtype), 0))
        self._values[value] = self._place(builder, value, 0, value)
        return self._values[value]

    def _place(self, builder: Any, value: Value, offset: int, like: Value) -> Any:
        """A tensor for ``like``, ``offset`` bytes into ``value``."""
        block = self.blocks.of(value)
        assert block is not None
        shared = None if block.output is None else block
        if shared not in self._storages:
            shape = relax.ShapeExpr([self.arena.size if shared is None else block.size])
            self._storages[shared] = builder.emit(relax.op.memory.alloc_storage(shape, 0, "global", "uint8"))
        start = self.arena.places[block] if shared is None else 0
        kind = self._type(like)
        return builder.emit(
            relax.op.memory.alloc_tensor(
                self._storages[shared],
                start + block.offset(value) + offset,
                kind.shape,
                str(kind.dtype),
            )
        )
