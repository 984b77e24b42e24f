"""Common subexpressions: the same operator on the same inputs gives the same values.

Values are numbered in program order with one scope per region: a node inside a branch may reuse
a value from outside it, never the other way round; the body of a fused node is a scope of its
own. Random operators, unknown ones and control flow are left alone. Constants with equal type
and bits become one; large ones are compared only by where they came from, so that external
weights are not read.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable
from dataclasses import dataclass, field

from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import refines
from graphopt.ops import info, is_pure
from graphopt.pipeline import Context, Effect, Pass, register_pass

Scope = ChainMap[Hashable, Node]


@register_pass("eliminate-common-subexpressions")
@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal values once and keep equal constants once."""

    effect = Effect.EXACT
    max_constant_bytes: int = field(
        default=4096,
        metadata={"help": "constants up to this size are compared by content, others by source", "min": 0},
    )

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Merges constants, then nodes."""
        self._merge_constants(rewriter)
        _merge_nodes(rewriter, rewriter.graph.body, ChainMap())

    def _merge_constants(self, rewriter: Rewriter) -> None:
        small: dict[Hashable, list[Value]] = {}
        large: dict[Hashable, list[Value]] = {}
        for value in rewriter.graph.constants.values():
            data = value.const
            assert data is not None
            if data.nbytes <= self.max_constant_bytes:
                small.setdefault((data.dtype, data.shape), []).append(value)
            elif isinstance(data.source, Hashable) and data.source is not None:
                large.setdefault((data.dtype, data.shape, data.source), []).append(value)
        merged: list[Value] = []
        for group in small.values():
            if len(group) > 1:
                for equal in _by_digest(group):
                    merged += _merge_equal(rewriter, equal)
        for group in large.values():
            merged += _merge_equal(rewriter, group)
        with rewriter.rewrite("merged-constants"):
            for value in merged:
                rewriter.erase_constant(value)


def _by_digest(group: list[Value]) -> list[list[Value]]:
    """Values of one type, sorted into lists of bitwise equal ones."""
    equal: dict[str, list[Value]] = {}
    for value in group:
        assert value.const is not None
        equal.setdefault(value.const.digest, []).append(value)
    return list(equal.values())


def _merge_equal(rewriter: Rewriter, equal: list[Value]) -> list[Value]:
    first, *others = equal
    if others:
        with rewriter.rewrite("equal-constants"):
            for value in others:
                rewriter.replace(value, first)
    return others


def _merge_nodes(rewriter: Rewriter, region: Region, scope: Scope) -> None:
    for node in region:
        for inner in node.regions.values():
            _merge_nodes(rewriter, inner, ChainMap() if inner.is_isolated else scope.new_child())
        if node.regions or not is_pure(node):
            continue
        first = scope.setdefault(_key(node), node)
        if first is node or not _can_stand_for(first, node):
            continue
        with rewriter.rewrite("equal-nodes", node):
            rewriter.replace_node(node, first.outputs)


def _key(node: Node) -> Hashable:
    attrs = tuple((name, _frozen(node.attrs[name])) for name in sorted(node.attrs))
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    known = info(node)
    # Operands in either order; a frozenset is only compared, it orders nothing.
    commutes = known is not None and known.commutative and len(inputs) == 2
    operands: Hashable = frozenset(inputs) if commutes else tuple(inputs)
    return (node.op, node.domain, attrs, operands, len(node.outputs))


def _frozen(attr: object) -> Hashable:
    if isinstance(attr, Tensor):
        return (attr.type, attr.digest)
    if isinstance(attr, tuple) and type(attr) is tuple:
        return tuple(_frozen(item) for item in attr)
    # 1 and 1.0 and True are equal keys to Python, and 0.0 equals -0.0, but they are different attributes.
    return (type(attr), repr(attr)) if isinstance(attr, float) else (type(attr), attr)


def _can_stand_for(first: Node, node: Node) -> bool:
    return all(refines(a.type, b.type) for a, b in zip(first.outputs, node.outputs, strict=True))
