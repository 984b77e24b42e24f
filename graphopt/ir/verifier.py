"""Checks that a graph keeps its invariants.

The rules stand in tables, each with the stages at which it holds:

- ``import``: what every graph keeps from the moment it is built,
- ``pass``: what holds between passes as well,
- ``compile``: what the back end relies on.

:func:`verify` looks at everything. :class:`IncrementalVerifier` listens to a rewriter and looks only
at what it touched, so that verification after a pass costs what the pass changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import TypeInferenceError, VerifyError
from graphopt.ir.graph import Graph, Node, RefAttr, Region, TypeAttr, Use, Value, dominates, refines
from graphopt.ir.printer import excerpt
from graphopt.ir.rewriter import EventKind, Transaction
from graphopt.ir.semantics import Semantics
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import OptionalType, TensorType, Type

Stage = Literal["import", "pass", "compile"]
_ALL: tuple[Stage, ...] = ("import", "pass", "compile")


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken invariant: the rule, what is wrong, and the nodes to show."""

    rule: str
    message: str
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """What a rule may look at beside the thing it judges."""

    graph: Graph
    semantics: Semantics | None


NodeCheck = Callable[[Scope, Node], "str | None"]


@dataclass(frozen=True, slots=True)
class NodeRule:
    """A rule about one node; ``check`` says what is wrong, None if nothing."""

    name: str
    stages: tuple[Stage, ...]
    check: NodeCheck


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
    yield from _graph_faults(graph)
    count = len(graph.constants)
    for value in graph.constants.values():
        problem = _constant_problem(graph, value) or value_problem(graph, value)
        if problem:
            yield Fault("constant", f"constant %{value.name}: {problem}", _users(value))
    regions = [graph.body]
    while regions:
        region = regions.pop()
        broken = _chain_problem(region)
        if broken:
            yield Fault("order", f"{_region_label(region)}: {broken}")
            return
        yield from _region_faults(graph, region)
        count += len(region.inputs)
        for node in region:
            count += len(node.outputs)
            for rule in rules:
                problem = rule.check(scope, node)
                if problem:
                    yield Fault(rule.name, f"{node.label}: {problem}", (node,))
            if node.regions:
                regions += node.regions.values()
    if count != len(graph._values):
        yield Fault("names", f"the graph knows {len(graph._values)} values by name, but holds {count}")


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
                yield from _gone(value)
                continue
            problem = value_problem(graph, value)
            if value.is_constant:
                problem = problem or _constant_problem(graph, value)
            if problem:
                yield Fault("uses", f"%{value.name}: {problem}", _users(value))
            self.nodes.update(dict.fromkeys(value.users))
            if value.producer is not None:
                self.nodes[value.producer] = None
        for node in self.nodes:
            if node.erased:
                for value in node.outputs:
                    yield from _gone(value)
                continue
            yield from self._node_faults(node)
        yield from _graph_faults(graph)

    def _node_faults(self, node: Node) -> Iterator[Fault]:
        graph = self.scope.graph
        for rule in self.rules:
            problem = rule.check(self.scope, node)
            if problem:
                yield Fault(rule.name, f"{node.label}: {problem}", (node,))
        for output in node.outputs:
            for user in output.users:
                # A node that moved past its users is the only one that was touched.
                if not dominates(output, user):
                    yield Fault("dominance", f"{user.label}: %{output.name} is computed only later", (user,))
        for region in node.regions.values():
            yield from _region_faults(graph, region)
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


# --- the graph, its constants and regions -------------------------------------------------------


def _graph_faults(graph: Graph) -> Iterator[Fault]:
    names = graph.output_names
    if len(names) != len(graph.body.outputs):
        yield Fault("outputs", f"{len(graph.body.outputs)} outputs have {len(names)} names")
    elif len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield Fault("outputs", f'two outputs have the name "{twice}"')
    if graph.body.parent is not None:
        yield Fault("order", "the root region has a parent")


def _constant_problem(graph: Graph, value: Value) -> str | None:
    data = value.const
    if data is None or value.owner is not None:
        return "has no data" if data is None else "belongs to a node or region"
    if graph.constants.get(value.name) is not value:
        return "stands under another name"
    type = value.type
    if not isinstance(type, TensorType) or type.dtype is not data.dtype or type.shape != data.shape:
        return f"has type {type}, its data {data.type}"
    return None


def _region_faults(graph: Graph, region: Region) -> Iterator[Fault]:
    where = _region_label(region)
    nodes = (region.parent,) if region.parent is not None else ()
    for index, value in enumerate(region.inputs):
        problem = value_problem(graph, value)
        if value.owner is not region or value.index != index:
            problem = f"is not its input {index}"
        if problem:
            yield Fault("inputs", f"{where}: input %{value.name} {problem}", nodes)
    for index, value in enumerate(region.outputs):
        if graph._values.get(value.name) is not value:
            yield Fault("names", f"{where}: output %{value.name} is not in the graph", nodes)
        elif Use(region, index) not in value._uses:
            yield Fault("uses", f"{where}: output %{value.name} does not know this use", nodes)
        elif not visible_at_end(value, region):
            yield Fault("dominance", f"{where}: output %{value.name} is not visible there", nodes)


def _region_label(region: Region) -> str:
    if region.parent is None:
        return "the graph"
    name = next((name for name, r in region.parent.regions.items() if r is region), region.name)
    return f"{region.parent.label}, region {name}"


def visible_at_end(value: Value, region: Region) -> bool:
    """Whether ``value`` can be an output of ``region``."""
    if value.owner is region:
        return True
    producer = value.producer
    if producer is not None and producer.parent is region:
        return not producer.erased
    if region.is_isolated:
        return False
    return value.is_constant if region.parent is None else dominates(value, region.parent)


def _chain_problem(region: Region) -> str | None:
    """What is wrong with the links and places of the nodes of a region."""
    count, before, node = 0, None, region._first
    while node is not None:
        count += 1
        if count > region._count:
            return f"it counts {region._count} nodes, but holds more"
        if node._prev is not before or node.parent is not region or node._erased:
            return f"{node.label} is not linked in its place"
        if before is not None and before._order >= node._order:
            return f"{node.label} has no place after {before.label}"
        before, node = node, node._next
    if count != region._count or region._last is not before:
        return f"it counts {region._count} nodes, but holds {count}"
    return None


# --- values -------------------------------------------------------------------------------------


def value_problem(graph: Graph, value: Value) -> str | None:
    """What is wrong with the name of a value, its uses, or its type."""
    if graph._values.get(value.name) is not value:
        return "is not the value that the graph knows by this name"
    for user, index in value._uses:
        if user.__class__ is Node:
            slots: Sequence[Value | None] = user.inputs
            if user._erased or user.parent is None:
                return f"is used by {user.label}, which was erased"
        else:
            slots = user.outputs
        if index >= len(slots) or slots[index] is not value:
            return f"claims a use by {_user_label(user)} at {index}, which uses something else"
        if user.__class__ is Region and not visible_at_end(value, user):
            return f"is an output of {_region_label(user)}, where it is not visible"
    return _type_problem(value.type)


def _type_problem(type: Type) -> str | None:
    if isinstance(type, TensorType) and type.shape is not None:
        for dim in type.shape:
            if dim.__class__ is int and dim < 0:
                return f"has a negative dimension: {type}"
    return None


def _user_label(user: Node | Region) -> str:
    return user.label if isinstance(user, Node) else _region_label(user)


def _users(value: Value) -> tuple[Node, ...]:
    return value.users[:2]


def _gone(value: Value) -> Iterator[Fault]:
    if value._uses:
        user = next(iter(value._uses)).user
        nodes = (user,) if isinstance(user, Node) else ()
        yield Fault("uses", f"%{value.name} is not in the graph, but {_user_label(user)} uses it", nodes)


# --- rules about nodes --------------------------------------------------------------------------


def _inputs_known(scope: Scope, node: Node) -> str | None:
    values = scope.graph._values
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if values.get(value.name) is not value:
            return f"input {index}, %{value.name}, is not in the graph"
        if (node, index) not in value._uses:
            return f"input {index}, %{value.name}, does not know this use"
    return None


def _inputs_visible(scope: Scope, node: Node) -> str | None:
    region, order = node.parent, node._order
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        owner = value.owner
        if owner.__class__ is Node and owner.parent is region:
            if owner._order < order and not owner._erased:
                continue
            return f"input {index}, %{value.name}, is computed {'nowhere' if owner._erased else 'only later'}"
        if not dominates(value, node):
            isolated = (
                " (a fused node sees only its inputs)" if region is not None and region.is_isolated else ""
            )
            return f"input {index}, %{value.name}, is not visible here{isolated}"
    return None


def _outputs_owned(scope: Scope, node: Node) -> str | None:
    values = scope.graph._values
    for index, value in enumerate(node.outputs):
        if value.owner is not node or value.index != index:
            return f"%{value.name} is not its output {index}"
        if values.get(value.name) is not value:
            return f"output %{value.name} has the name of another value"
        if value.const is not None:
            return f"output %{value.name} has constant data"
        problem = value_problem(scope.graph, value)
        if problem:
            return f"output %{value.name} {problem}"
    return None


_KINDS = frozenset({int, float, str, bytes, Tensor, TypeAttr, RefAttr})


def _attributes_immutable(scope: Scope, node: Node) -> str | None:
    for name, value in node.attrs.items():
        if name in node.regions:
            return f"{name} is an attribute and a region"
        wrong = _wrong_attribute(value)
        if wrong is not None:
            return f"attribute {name} holds a {type(wrong).__name__}"
    return None


def _wrong_attribute(value: object) -> object | None:
    kind = value.__class__
    if kind in _KINDS:
        return None
    if kind is tuple:
        for item in value:  # type: ignore[attr-defined]
            wrong = None if item.__class__ in _KINDS else _wrong_attribute(item)
            if wrong is not None:
                return wrong
        return None
    return value


def _regions_owned(scope: Scope, node: Node) -> str | None:
    for name, region in node.regions.items():
        if region.parent is not node:
            return f"region {name} belongs to another node"
    return None


def _fused_shape(scope: Scope, node: Node) -> str | None:
    if not node.is_fused:
        return None
    if list(node.regions) != ["body"] or len(node.outputs) != 1 or len(node.body.outputs) != 1:
        return "a fused node has one region, body, with one output"
    body = node.body
    if len(body.inputs) != len(node.inputs) or None in node.inputs:
        return f"{len(node.inputs)} inputs, its body has {len(body.inputs)}"
    pairs = [*zip(node.inputs, body.inputs, strict=True), (node.outputs[0], body.outputs[0])]
    for outer, inner in pairs:
        if outer is not None and not refines(inner.type, outer.type):
            return f"%{outer.name} has type {outer.type}, in the body {inner.type}"
    return None


def _schema(scope: Scope, node: Node) -> str | None:
    return None if scope.semantics is None or node.is_fused else scope.semantics.check(node)


def _types_agree(scope: Scope, node: Node) -> str | None:
    if scope.semantics is None or node.is_fused:
        return None
    try:
        inferred = scope.semantics.infer(node)
    except TypeInferenceError as error:
        return error.message
    for value, type in zip(node.outputs, inferred, strict=False):
        if node.regions and isinstance(type, OptionalType) and not isinstance(value.type, OptionalType):
            # A Loop may carry an optional in and give its content out: the model says which.
            type = type.elem
        if type is not value.type and not refines(type, value.type):
            return f"%{value.name} has type {value.type}, the operator gives {type}"
    return None


def _typed(scope: Scope, node: Node) -> str | None:
    for value in node.outputs:
        type = value.type
        if not isinstance(type, TensorType) or not type.is_known:
            return f"%{value.name} has type {type}: element type and rank must be known to compile"
    return None


NODE_RULES: Sequence[NodeRule] = (
    NodeRule("uses", _ALL, _inputs_known),
    NodeRule("dominance", _ALL, _inputs_visible),
    NodeRule("outputs", _ALL, _outputs_owned),
    NodeRule("attributes", _ALL, _attributes_immutable),
    NodeRule("regions", _ALL, _regions_owned),
    NodeRule("fused", _ALL, _fused_shape),
    NodeRule("schema", _ALL, _schema),
    NodeRule("types", _ALL, _types_agree),
    NodeRule("typed", ("compile",), _typed),
)
