"""From a graph to a Relax module: one call per region, views for reshapes, weights as parameters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from graphopt.backend.arguments import Packed
from graphopt.backend.constants import Constants
from graphopt.backend.emitters import is_emitted
from graphopt.backend.kernels.narrow import is_even
from graphopt.backend.layout import stored_shape
from graphopt.backend.lower import Lowered, lower_region, value_at
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.sizes import size_rules
from graphopt.backend.symbolic import Symbols
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops import symbolic_content
from graphopt.runtime.sizes import SizeRule
from graphopt.targets import Target

Array = np.ndarray[Any, np.dtype[Any]]
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


@dataclass
class Assembled:
    """A module and what its ``main`` takes after the inputs."""

    module: Any
    weights: list[tuple[str, Array]]
    kernels: dict[str, list[str]]
    """For each kernel the labels of the nodes that it computes."""
    sizes: tuple[SizeRule, ...]
    """What the sizes at a call must be to each other."""


@dataclass(frozen=True)
class Call:
    """One step of ``main``: a kernel, or a view (``lowered`` None)."""

    region: KernelRegion
    lowered: Lowered | None
    name: str = ""


class KernelCache:
    """Lowers each distinct region once."""

    def __init__(self, target: Target, winograd_error: float, *, scheduled: bool = True) -> None:
        self.target = target
        self.scheduled = scheduled
        self.winograd_error = winograd_error
        self.functions: dict[str, Any] = {}
        self._known: dict[Hashable, list[tuple[Lowered, str]]] = {}
        self._names: dict[str, int] = {}

    def lower(self, region: KernelRegion, outputs: tuple[int, ...]) -> tuple[Lowered, str]:
        """The kernel of these outputs of a region, and its name."""
        key = (region.key, outputs)
        for lowered, name in self._known.get(key, ()):
            if all(
                _consult(region, kind, (row, index)) == found
                for (kind, row, index), found in lowered.consulted.items()
            ):
                return lowered, name
        lowered = lower_region(region, self.target, outputs, self.winograd_error, scheduled=self.scheduled)
        name = self._fresh(lowered.name)
        self._known.setdefault(key, []).append((lowered, name))
        self.functions[name] = lowered.function
        return lowered, name

    def _fresh(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name


def _consult(region: KernelRegion, kind: str, place: tuple[int, int]) -> Hashable:
    value = value_at(region, place)
    if kind == "content":
        return symbolic_content(value)
    if kind == "even":
        return is_even(region.constants[value].numpy())
    return region.constants[value].digest


def assemble(
    graph: Graph, target: Target, winograd_error: float = 0.0, *, scheduled: bool = True
) -> Assembled:
    """The Relax module of a graph whose nodes all have kernels.

    Args:
        winograd_error: bound of what Winograd's transforms may add to a convolution's relative error.
        scheduled: False for kernels straight from the operators' definitions.

    Raises:
        CompileError: a region can't be lowered, sizes don't fit together, or a size depends on data.
    """
    constants = Constants(graph)
    sizes = size_rules(graph, constants.get)
    cache = KernelCache(target, winograd_error, scheduled=scheduled)
    calls = _plan(graph, cache, constants)
    module = _Module(graph, cache, calls, constants)
    return Assembled(module.build(), module.weights, module.kernels, sizes)


def _plan(graph: Graph, cache: KernelCache, constants: Constants) -> list[Call]:
    """Calls in program order, of the nodes whose results are read as data."""
    calls: list[Call] = []
    needed = set(graph.outputs)
    for value in dict.fromkeys(graph.outputs):
        if value.producer is None or constants.get(value) is not None:
            region = KernelRegion.copy(value, constants.get)
            calls.append(Call(region, *cache.lower(region, (0,))))
    for node in reversed(graph.nodes):
        wanted = tuple(
            i for i, value in enumerate(node.outputs) if value in needed and constants.get(value) is None
        )
        if not wanted:
            continue
        region = KernelRegion.of(node, constants.get)
        if is_view(node) and (_is_computed(node.outputs[0], constants) or not node.outputs[0].is_output):
            calls.append(Call(region, None))
            needed.update(value for value in node.inputs[:1] if value is not None)
            continue
        together = any(is_emitted(inner) for inner in region.nodes)
        for outputs in [wanted] if together else [(index,) for index in reversed(wanted)]:
            lowered, name = cache.lower(region, outputs)
            calls.append(Call(region, lowered, name))
            needed.update(region.outer[position] for position in lowered.inputs)
    return calls[::-1]


def is_view(node: Node) -> bool:
    """Whether the only output that matters is the first input's memory in another shape."""
    if node.domain or node.op not in _VIEWS or len(node.outputs) != 1:
        return False
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.type == output.type or not isinstance(output.type, TensorType):
        return True
    return _row_major(source) and _row_major(output)


def _row_major(value: Value) -> bool:
    """Whether elements lie in the order of their indices, be it that blocks of channels say so too."""
    block = value.tensor.channel_block
    if block == 1:
        return True
    _, channels, *spatial = shape_of(value)
    return channels % block == 0 and all(dim == 1 for dim in spatial)


def _is_computed(value: Value, constants: Constants) -> bool:
    """Whether a kernel makes the memory of ``value``.

    The caller must not be handed the memory of an input, of a weight, or of a view of one.
    """
    while value.producer is not None and is_view(value.producer):
        (value, *_) = (v for v in value.producer.inputs if v is not None)
    return value.producer is not None and constants.get(value) is None


class _Module:
    """Builds ``main``."""

    def __init__(self, graph: Graph, cache: KernelCache, calls: Sequence[Call], constants: Constants) -> None:
        self.graph = graph
        self.constants = constants
        self.calls = calls
        self.symbols = Symbols()
        self.weights: list[tuple[str, Array]] = []
        self.kernels: dict[str, list[str]] = {}
        self._functions = cache.functions
        self._values: dict[Value, Any] = {}
        self._weights: dict[Hashable, Any] = {}

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
        with builder.function("main", parameters):
            with builder.dataflow():
                copies = {
                    call.region.outputs[0]: self._emit(builder, variables, call)
                    for call in self.calls
                    if not call.region.nodes
                }
                for call in self.calls:
                    if call.region.nodes:
                        self._emit(builder, variables, call)
                returned = [copies.get(value, self._values.get(value)) for value in self.graph.outputs]
                result = builder.emit_output(relax.Tuple(returned))
            builder.emit_func_output(result)
        return builder.get()

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
                data, name = packed.pack(data), f"{name}.packed{len(self.weights)}"
            shape = packed.shape if packed is not None else data.shape
            self.weights.append((name, data))
            dtype = packed.dtype if packed is not None else dtype_of(value)
            made.append(relax.Var(f"w{len(self.weights)}", relax.TensorType(shape, dtype)))
            self._weights[key] = made[-1]
        return made

    def _weight_key(self, value: Value, packed: Packed | None) -> Hashable:
        return value, packed.form if packed is not None else None

    def _emit(self, builder: Any, variables: dict[str, Any], call: Call) -> Any:
        region, lowered = call.region, call.lowered
        if lowered is None:
            source = region.outer[0]
            passed = self._values.get(source)
            if passed is None:
                passed = self._weights[self._weight_key(source, None)]
            shape = relax.ShapeExpr(self.symbols.shape(stored_shape(region.outputs[0])))
            self._values[region.outputs[0]] = builder.emit(relax.op.reshape(passed, shape))
            return None
        passed = [
            self._values[value]
            if self.constants.get(value) is None
            else self._weights[self._weight_key(value, lowered.packed.get(position))]
            for position, value in ((p, region.outer[p]) for p in lowered.inputs)
        ]
        passed += [self.symbols.variable(name) for name in lowered.symbols]
        values = [region.outputs[position] for position in lowered.outputs]
        outer = values
        types = [self._type(value) for value in outer]
        result = builder.emit(relax.call_tir(variables[call.name], relax.Tuple(passed), types))
        self.kernels.setdefault(variables[call.name].name_hint, []).append(region.label)
        return self._record(builder, region, lowered, result)

    def _record(self, builder: Any, region: KernelRegion, lowered: Lowered, result: Any) -> Any:
        """Notes where the outputs of a call are."""
        places = [region.results[position] for position in lowered.outputs]
        if not region.nodes:
            return result
        if len(places) == 1:
            self._values[places[0]] = result
        else:
            for index, value in enumerate(places):
                self._values[value] = builder.emit(relax.TupleGetItem(result, index))
        return result
