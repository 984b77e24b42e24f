"""What static quantization can turn into integers: layers, and the values that lie between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType, TensorType

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators whose second input may be a weight."""
PASSING = frozenset(
    {"Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose results are elements of their operands: they run on integers as well as on floats."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with a constant: ``axis`` of ``weight`` runs over output channels."""

    node: Node
    activation: Value
    weight: Value
    weight_index: int
    axis: int
    bias: Value | None


def layers_of(graph: Graph) -> list[Layer]:
    """The layers in the root of ``graph``, in program order."""
    return [layer for node in graph.nodes if (layer := _layer(node)) is not None]


def _layer(node: Node) -> Layer | None:
    if node.domain or node.op not in LAYERS:
        return None
    x, weight, bias = (node.input(i) for i in range(3))
    if x is None or weight is None or not weight.is_constant or x.is_constant:
        return None
    if not is_f32(x) or not is_f32(weight) or (weight.tensor.rank or 0) < 2:
        return None
    if node.op == "MatMul" and (weight.tensor.rank != 2 or (x.tensor.rank or 0) < 2):
        return None
    if node.op == "Gemm" and not _is_plain_gemm(node):
        return None
    if bias is not None and not _is_vector(bias):
        if node.op == "Conv":
            return None
        bias = None
    axis = {"Conv": 0, "MatMul": 1, "Gemm": 0 if node.attrs.get("transB", 0) else 1}[node.op]
    return Layer(node, x, weight, 1, axis, bias)


def _is_plain_gemm(node: Node) -> bool:
    scaled = node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0
    return not scaled and not node.attrs.get("transA", 0)


def _is_vector(value: Value) -> bool:
    return value.is_constant and is_f32(value) and value.tensor.rank == 1


def is_f32(value: Value) -> bool:
    """Whether ``value`` is a tensor of f32 of known rank."""
    return (
        isinstance(value.type, TensorType) and value.type.dtype is DType.F32 and value.type.shape is not None
    )


def values_to_quantize(graph: Graph, layers: Sequence[Layer]) -> list[list[Value]]:
    """Values to quantize, in groups that share one grid, in program order of their first members."""
    groups = _Groups()
    pending = list(dict.fromkeys(layer.activation for layer in layers))
    pending += _first_of_added(graph, layers, pending)
    while pending:
        value = pending.pop()
        groups.add(value)
        producer = value.producer
        if producer is not None and _passes(producer):
            sources = producer.inputs if producer.op == "Concat" else producer.inputs[:1]
            for source in sources:
                assert source is not None
                if not groups.has(source):
                    pending.append(source)
                groups.join(value, source)
    order = {v: i for i, v in enumerate([*graph.inputs, *(v for n in graph.nodes for v in n.outputs)])}
    return groups.sorted(order)


def _passes(node: Node) -> bool:
    if node.domain or node.op not in PASSING or len(node.outputs) != 1:
        return False
    sources = node.inputs if node.op == "Concat" else node.inputs[:1]
    return all(v is not None and not v.is_constant and is_f32(v) for v in sources)


def _first_of_added(graph: Graph, layers: Sequence[Layer], chosen: Sequence[Value]) -> list[Value]:
    """Of two layers that only an Add joins, the result of the earlier one: the later one takes the Add along."""
    made_by = {layer.node: layer.node.outputs[0] for layer in layers}
    found: list[Value] = []
    for node in graph.nodes:
        if node.op != "Add" or node.domain:
            continue
        operands = [v for v in node.inputs if v is not None]
        if (
            all(v.producer in made_by and v not in chosen for v in operands)
            and operands[0] is not operands[1]
        ):
            first, second = (v.producer for v in operands)
            assert first is not None and second is not None
            found.append(operands[0] if first.is_before(second) else operands[1])
    return found


class _Groups:
    """Disjoint sets of values."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def add(self, value: Value) -> None:
        self._parent.setdefault(value, value)

    def has(self, value: Value) -> bool:
        return value in self._parent

    def join(self, a: Value, b: Value) -> None:
        self.add(b)
        self._parent[self._root(b)] = self._root(a)

    def sorted(self, order: dict[Value, int]) -> list[list[Value]]:
        groups: dict[Value, list[Value]] = {}
        for value in sorted(self._parent, key=order.__getitem__):
            groups.setdefault(self._root(value), []).append(value)
        return list(groups.values())

    def _root(self, value: Value) -> Value:
        while self._parent[value] is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value
