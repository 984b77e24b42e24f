"""The values of nodes whose inputs are all constant."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.evaluate.session import Session
from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.captures import operands
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.tensor import Array, Tensor

log = logging.getLogger(__name__)


def evaluate_nodes(
    nodes: Sequence[Node], graph: Graph, outputs: Iterable[Value] | None = None
) -> dict[Value, Array]:
    """Values that ``nodes`` compute from constants alone.

    All run in one session. Where ONNX Runtime can't, e.g. for want of a kernel for an element
    type, each node runs by itself, on the reference evaluator if need be; what no engine can
    run is missing from the result.

    Args:
        nodes: in program order; their inputs are constants or outputs of earlier ones.
        graph: what they belong to.
        outputs: what to return; by default each output that something other than ``nodes`` uses.
    """
    wanted = list(dict.fromkeys(_escaping(nodes) if outputs is None else outputs))
    if not wanted:
        return {}
    try:
        return _run(nodes, graph, wanted, {})
    except EvaluationError as error:
        if len(nodes) == 1:
            log.info("%s can't be evaluated: %s", nodes[0].label, error.message)
            return {}
    return _one_by_one(nodes, graph, wanted)


def _one_by_one(nodes: Sequence[Node], graph: Graph, wanted: Sequence[Value]) -> dict[Value, Array]:
    known: dict[Value, Array] = {}
    for node in nodes:
        if any(value not in known for value in operands(node) if not value.is_constant):
            continue
        used = [value for value in node.outputs if value.num_uses or value in wanted]
        try:
            known.update(_run([node], graph, used, known))
        except EvaluationError as error:
            log.info("%s can't be evaluated: %s", node.label, error.message)
    return {value: known[value] for value in wanted if value in known}


def _run(
    nodes: Sequence[Node], graph: Graph, wanted: Sequence[Value], known: Mapping[Value, Array]
) -> dict[Value, Array]:
    small = Graph(graph.name)
    small.opset = dict(graph.opset)
    builder = Builder(small)
    mapping: dict[Value, Value] = {}
    made = {value for node in nodes for value in node.outputs}
    for node in nodes:
        for value in operands(node):
            if value in mapping or value in made:
                continue
            data = value.const if value.is_constant else _held(known, value, node)
            assert data is not None
            mapping[value] = builder.constant(data, value.name)
    for node in nodes:
        copy_node(node, builder, mapping)
    builder.outputs([mapping[value] for value in wanted])
    small.output_names = [mapping[value].name for value in wanted]
    with Session(small) as session:
        results = session.run({})
    arrays = [np.asarray(results[name]) for name in small.output_names]
    return dict(zip(wanted, arrays, strict=True))


def _held(known: Mapping[Value, Array], value: Value, node: Node) -> Tensor:
    if value not in known:
        raise EvaluationError(
            f"{node.label} uses %{value.name}, which is not constant",
            hint="evaluate only nodes whose inputs are constants or outputs of the nodes before them",
        )
    return Tensor.of(known[value], value.tensor.dtype)


def _escaping(nodes: Sequence[Node]) -> Iterator[Value]:
    inside = set(nodes)
    for node in nodes:
        for value in node.outputs:
            if any(not isinstance(use.user, Node) or _outer(use.user, inside) for use in value.uses):
                yield value


def _outer(user: Node, inside: set[Node]) -> bool:
    """Whether neither ``user`` nor a node around it is in ``inside``."""
    position: Node | None = user
    while position is not None:
        if position in inside:
            return False
        position = position.parent.parent if position.parent is not None else None
    return True
