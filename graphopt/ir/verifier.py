"""Checks that a graph keeps its invariants.

:func:`verify` looks at everything. :class:`IncrementalVerifier` listens to a rewriter and looks only
at what it touched, so that verification after a pass costs what the pass changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.errors import VerifyError
from graphopt.ir.graph import Graph, Node, Value, dominates
from graphopt.ir.node_rules import NODE_RULES, Scope, Stage
from graphopt.ir.printer import excerpt
from graphopt.ir.semantics import Semantics
from graphopt.ir.structure_rules import (
    Fault,
    chain_problem,
    constant_problem,
    first_users,
    gone_faults,
    graph_faults,
    region_faults,
    region_label,
    value_problem,
)
from graphopt.ir.transaction import EventKind, Transaction


def verify(graph: Graph, semantics: Semantics | None = None, *, stage: Stage = "pass") -> None:
    """Checks every invariant of ``stage``.

    Args:
        semantics: knowledge of operators; without it types and attributes are not judged.

    Raises:
        VerifyError: names the rule and the node, and shows the lines around it.
    """
    for fault in faults(graph, semantics, stage=stage):
        raise error_of(fault)


def faults(graph: Graph, semantics: Semantics | None = None, *, stage: Stage = "pass") -> Iterator[Fault]:
    """All faults, the root ones first. Later ones may follow from earlier ones."""
    scope = Scope(graph, semantics)
    rules = [rule for rule in NODE_RULES if stage in rule.stages]
    yield from graph_faults(graph)
    count = len(graph.constants)
    for value in graph.constants.values():
        problem = constant_problem(graph, value) or value_problem(graph, value)
        if problem:
            yield Fault("constant", f"constant %{value.name}: {problem}", first_users(value))
    regions = [graph.body]
    while regions:
        region = regions.pop()
        broken = chain_problem(region)
        if broken:
            yield Fault("order", f"{region_label(region)}: {broken}")
            return
        yield from region_faults(graph, region)
        count += len(region.inputs)
        for node in region:
            count += len(node._outputs)
            for rule in rules:
                problem = rule.check(scope, node)
                if problem:
                    yield Fault(rule.name, _located(node, problem), (node,))
            if node._regions:
                regions += node._regions.values()
    if count != len(graph._values):
        yield Fault("names", f"the graph knows {len(graph._values)} values by name, but holds {count}")


def _located(node: Node, problem: str) -> str:
    return problem if problem.startswith(f"{node.label}:") else f"{node.label}: {problem}"


def error_of(fault: Fault) -> VerifyError:
    """The error to raise for a fault."""
    shown = [node for node in fault.nodes if not node.erased and node.parent is not None]
    lines = excerpt(shown[:3]) if shown else ""
    return VerifyError(
        f"the graph is not valid: {fault.message} [{fault.rule}]" + (f"\n{lines}" if lines else "")
    )


class IncrementalVerifier:
    """Collects what transactions touch; :meth:`check` judges that and forgets it."""

    def __init__(self, graph: Graph, semantics: Semantics | None, *, stage: Stage = "pass") -> None:
        self.scope = Scope(graph, semantics)
        self.rules = [rule for rule in NODE_RULES if stage in rule.stages]
        self.nodes: dict[Node, None] = {}
        self.values: dict[Value, None] = {}

    def committed(self, transaction: Transaction) -> None:
        """Rewriter listener."""
        for event in transaction.events:
            if event.node is not None:
                self.nodes[event.node] = None
                if event.kind is EventKind.ERASED:
                    self.values.update(dict.fromkeys(v for v in event.node.inputs if v is not None))
            for value in (event.value, event.new):
                if value is not None:
                    self.values[value] = None

    def faults(self) -> Iterator[Fault]:
        """Faults in what was touched since the last :meth:`check`."""
        graph = self.scope.graph
        for value in list(self.values):
            if graph._values.get(value.name) is not value:
                yield from gone_faults(value)
                continue
            problem = value_problem(graph, value)
            if value.is_constant:
                problem = problem or constant_problem(graph, value)
            if problem:
                yield Fault("uses", f"%{value.name}: {problem}", first_users(value))
            self.nodes.update(dict.fromkeys(value.users))
            if value.producer is not None:
                self.nodes[value.producer] = None
        for node in self.nodes:
            if node.erased:
                for value in node.outputs:
                    yield from gone_faults(value)
                continue
            yield from self._node_faults(node)
        yield from graph_faults(graph)

    def _node_faults(self, node: Node) -> Iterator[Fault]:
        graph = self.scope.graph
        for rule in self.rules:
            problem = rule.check(self.scope, node)
            if problem:
                yield Fault(rule.name, _located(node, problem), (node,))
        for output in node.outputs:
            for user in output.users:
                # A node that moved past its users is the only one that was touched.
                if not dominates(output, user):
                    yield Fault("dominance", f"{user.label}: %{output.name} is computed only later", (user,))
        for region in node.regions.values():
            yield from region_faults(graph, region)
            for inner in region:
                yield from self._node_faults(inner)

    def check(self) -> None:
        """Judges what was touched.

        Raises:
            VerifyError: names the rule and the node, and shows the lines around it.
        """
        for fault in self.faults():
            raise error_of(fault)
        self.nodes.clear()
        self.values.clear()
