"""Models of which a part is made as in the artifact, and the rest in a way that is taken to be right."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backend.artifact import Artifact
from graphopt.backend.compile import compile_graph
from graphopt.backend.constants import Constants
from graphopt.backend.contiguous import is_view
from graphopt.backend.lower import lower_region
from graphopt.backend.region import KernelRegion
from graphopt.bisect.pieces import detached
from graphopt.bisect.predicate import Model
from graphopt.bisect.row_major import in_row_major, without_layouts
from graphopt.errors import CompileError
from graphopt.evaluate import Session, check_inputs
from graphopt.ir.graph import Graph, Node, Value
from graphopt.targets import Target


def half_compiled(graph: Graph, nodes: Sequence[Node], target: Target, kernel_error: float) -> Model:
    """A model whose first ``nodes`` are compiled, and whose others ONNX Runtime runs."""
    first = detached(graph, [nodes])
    chosen = set(nodes)
    rest = [node for node in graph.body if node not in chosen]
    second = detached(graph, [rest]) if rest else None
    executable = compile_graph(first.graph, target, kernel_error=kernel_error).load(threads=1)
    session = Session(second.graph) if second is not None else None
    defaults = {value.name: value.const.numpy() for value in graph.inputs if value.const is not None}

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        own = {**defaults, **check_inputs(graph.inputs, inputs)}
        held = dict(zip(graph.inputs, (own.get(v.name) for v in graph.inputs), strict=True))
        made = executable(own)
        held.update({value: array for (value, _), array in zip(first.results, made, strict=True)})
        if second is not None and session is not None:
            border = {name: held[value] for value, name in second.names.items()}
            names = [value.name for value in second.graph.inputs]
            results = session.run({name: border[name] if name in border else own[name] for name in names})
            found = (results[name] for name in second.graph.output_names)
            held.update({value: array for (value, _), array in zip(second.results, found, strict=True)})
        outputs = zip(graph.output_names, graph.outputs, strict=True)
        return {name: held[value] if value in held else _constant(value) for name, value in outputs}

    return run


def _constant(value: Value) -> Any:
    assert value.const is not None
    return value.const.numpy()


@dataclass(frozen=True)
class HalfScheduled:
    """The kernels of a graph, each as in the artifact or as loops straight from the definition of its operators.

    Attributes:
        nodes: those that have both forms, in program order.
    """

    graph: Graph
    target: Target
    kernel_error: float
    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, graph: Graph, target: Target, kernel_error: float) -> HalfScheduled:
        """Finds the nodes that have both forms."""
        plain = without_layouts(graph)
        constants = Constants(plain)
        pairs = zip(graph.nodes, plain.nodes, strict=True)
        found = tuple(node for node, copy in pairs if _has_plain_loops(copy, constants, target))
        return cls(graph, target, kernel_error, found)

    def artifact(self, scheduled: Collection[Node]) -> Artifact:
        """Compiles it; of :attr:`nodes` those of ``scheduled`` are as in the artifact."""
        graph, nodes = in_row_major(self.graph, [node for node in self.nodes if node not in scheduled])
        return compile_graph(graph, self.target, kernel_error=self.kernel_error, unscheduled=frozenset(nodes))


def _has_plain_loops(node: Node, constants: Constants, target: Target) -> bool:
    if is_view(node):
        return False
    region = KernelRegion.of(node, constants.get)
    try:
        lower_region(region, target, tuple(range(len(region.outputs))), 0.0, scheduled=False)
    except CompileError:
        return False
    return True
