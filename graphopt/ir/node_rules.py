"""Rules about single nodes, in a table: each with the stages at which it holds.

- ``import``: what every graph keeps from the moment it is built,
- ``pass``: what holds between passes as well,
- ``compile``: what the back end relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import TypeInferenceError
from graphopt.ir.graph import Graph, Node, RefAttr, TypeAttr, Value, dominates
from graphopt.ir.semantics import Semantics
from graphopt.ir.structure_rules import value_problem
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import OptionalType, TensorType, refines

Stage = Literal["import", "pass", "compile"]
_ALL: tuple[Stage, ...] = ("import", "pass", "compile")


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


def _inputs_known(scope: Scope, node: Node) -> str | None:
    values = scope.graph._values
    for index, value in enumerate(node._inputs):
        if value is None:
            continue
        if values.get(value.name) is not value:
            return f"input {index}, %{value.name}, is not in the graph"
        if (node, index) not in value._uses:
            return f"input {index}, %{value.name}, does not know this use"
    return None


def _inputs_visible(scope: Scope, node: Node) -> str | None:
    region, order = node.parent, node._order
    for index, value in enumerate(node._inputs):
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
    for index, value in enumerate(node._outputs):
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
    for name, value in node._attrs.items():
        if name in node._regions:
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
    for name, region in node._regions.items():
        if region.parent is not node:
            return f"region {name} belongs to another node"
    return None


def _layout(value: Value) -> str | None:
    return value.type.layout if isinstance(value.type, TensorType) else None


def _fused_shape(scope: Scope, node: Node) -> str | None:
    if not node.is_fused:
        return None
    if list(node._regions) != ["body"] or len(node._outputs) != 1 or len(node.body.outputs) != 1:
        return "a fused node has one region, body, with one output"
    body = node.body
    if len(body.inputs) != len(node._inputs) or None in node._inputs:
        return f"{len(node._inputs)} inputs, its body has {len(body.inputs)}"
    pairs = [*zip(node._inputs, body.inputs, strict=True), (node._outputs[0], body.outputs[0])]
    for outer, inner in pairs:
        if outer is not None and not refines(inner.type, outer.type):
            return f"%{outer.name} has type {outer.type}, in the body {inner.type}"
        if outer is not None and outer.type != inner.type and _layout(outer) != _layout(inner):
            return f"%{outer.name} has layout {_layout(outer)}, in the body {_layout(inner)}"
    return None


def _schema(scope: Scope, node: Node) -> str | None:
    if scope.semantics is None or node.is_fused:
        return None
    return scope.semantics.check(node, canonical=node.op not in scope.graph.unverifiable)


def _types_agree(scope: Scope, node: Node) -> str | None:
    if scope.semantics is None or node.is_fused:
        return None
    try:
        inferred = scope.semantics.infer(node)
    except TypeInferenceError as error:
        return error.message
    for value, type in zip(node._outputs, inferred, strict=False):
        if node._regions and isinstance(type, OptionalType) and not isinstance(value.type, OptionalType):
            # A Loop may carry an optional in and give its content out: the model says which.
            type = type.elem
        if type is not value.type and not refines(type, value.type):
            return f"%{value.name} has type {value.type}, the operator gives {type}"
    return None


def _typed(scope: Scope, node: Node) -> str | None:
    for value in node._outputs:
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
