"""What nothing can be compared behind: operators that draw random numbers, and those that no engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphopt.errors import EvaluationError
from graphopt.evaluate import Session
from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType
from graphopt.ops import is_random
from graphopt.verify.expressions import Expressions

Signature = tuple[str, str, tuple[DType | None, ...]]
"""Domain, operator, and the element types of its operands: what decides whether an engine has a kernel."""
_SMALL = 1 << 10
"""Constants of up to so many bytes are part of a trial: kernels may ask for constant axes and shapes."""


@dataclass(frozen=True)
class Opacity:
    """Says of a node, its regions included, why nothing that depends on it can be compared.

    Attributes:
        missing: what no engine can run, as :func:`unloadable` finds it.
    """

    missing: frozenset[Signature] = frozenset()

    def __call__(self, node: Node) -> str:
        for inner in _inside(node):
            if is_random(inner):
                return f"{inner.label} draws random numbers"
            if _signature(inner) in self.missing:
                return f"no engine can run {inner.label}"
        return ""


def unloadable(graph: Graph) -> frozenset[Signature]:
    """The operators of a graph that neither engine can load by themselves."""
    found: dict[Signature, bool] = {}
    for node in graph.walk():
        signature = _signature(node)
        if signature not in found and not node.regions:
            found[signature] = _loads(node, graph)
    return frozenset(signature for signature, loads in found.items() if not loads)


def opaque_parts(graph: Graph, ids: Mapping[Value, int], expressions: Expressions) -> list[str]:
    """What can't be compared from the beginning: for each operator to blame how many values there are behind it."""
    behind: dict[str, set[int]] = {}
    outputs: dict[str, list[str]] = {}
    for number in ids.values():
        if why := expressions.opaque(number):
            behind.setdefault(why, set()).add(number)
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        outputs.setdefault(expressions.opaque(ids[value]), []).append(f'"{name}"')
    found = []
    for why, numbers in behind.items():
        text = "1 value comes" if len(numbers) == 1 else f"{len(numbers)} values come"
        among = f", output {' and '.join(outputs[why])} among them" if why in outputs else ""
        found.append(f"{why}: {text} of it{among}")
    return found


def _loads(node: Node, graph: Graph) -> bool:
    alone = Graph("alone")
    alone.opset = dict(graph.opset)
    builder = Builder(alone)
    mapping: dict[Value, Value] = {}
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        small = value.const is not None and value.const.nbytes <= _SMALL
        mapping[value] = (
            builder.constant(value.const, value.name)
            if small and value.const is not None
            else builder.input(value.name, value.type)
        )
    builder.outputs(copy_node(node, builder, mapping).outputs)
    alone.output_names = [value.name for value in alone.outputs]
    try:
        Session(alone).close()
    except EvaluationError:
        return False
    return True


def _signature(node: Node) -> Signature:
    dtypes = tuple(None if value is None else value.tensor.dtype for value in node.inputs)
    return node.domain, node.op, dtypes


def _inside(node: Node) -> Iterator[Node]:
    yield node
    for region in node.regions.values():
        for inner in region:
            yield from _inside(inner)
