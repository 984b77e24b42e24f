"""Branches whose condition is known when the model is compiled.

An If with a constant condition, or one that constants or types decide (a rank, a static size), is
replaced by the nodes of the branch that is taken. Branches may hold further ones: they are looked at
again, until nothing is left that is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ops import static_content
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.constant_cone import Cone
from graphopt_passes.dead_code import open_nodes

_MAX_BYTES = 1 << 20
"""Bytes of a value on the way to a condition; larger ones are not computed for it."""


@register_pass("fold-control-flow")
@dataclass(frozen=True)
class FoldControlFlow(Pass):
    """Replace an If whose condition is known by the branch that it takes."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Inlines taken branches from the outside in, in rounds: one branch may decide the next."""
        while self._round(rewriter, _computed(rewriter.graph)):
            pass

    def _round(self, rewriter: Rewriter, computed: Mapping[Value, bool]) -> bool:
        """Whether any branch was taken, by what is known at sight and by what was ``computed``."""
        count = rewriter.count
        pending = list(_branches(rewriter.graph.body))[::-1]
        while pending:
            node = pending.pop()
            taken = None if node.erased else _taken(node, computed)
            if taken is None:
                pending += [inner for region in node.regions.values() for inner in _branches(region)][::-1]
                continue
            region = node.parent
            with rewriter.rewrite("known-condition", node) as transaction:
                rewriter.replace_node(node, rewriter.inline(taken, [], node))
            inserted = [event.node for event in transaction.events if event.node is not None]
            pending += [n for n in inserted if n.regions and not n.erased and n.parent is region][::-1]
        return rewriter.count > count


def _branches(region: Region) -> Iterator[Node]:
    """The nodes of ``region`` that hold regions, those of fused nodes not."""
    return (node for node in region if node.regions and not node.is_fused)


def _taken(node: Node, computed: Mapping[Value, bool]) -> Region | None:
    condition = node.inputs[0] if node.op == "If" and not node.domain else None
    truth = None if condition is None else computed.get(condition, _truth(condition))
    if truth is None:
        return None
    return node.regions["then_branch" if truth else "else_branch"]


def _truth(condition: Value) -> bool | None:
    if condition.is_constant and condition.const is not None:
        return bool(condition.const.item())
    content = static_content(condition)
    return bool(content[0]) if content is not None and len(content) == 1 else None


def _computed(graph: Graph) -> dict[Value, bool]:
    """The conditions that constants decide through whatever arithmetic."""
    from graphopt.evaluate import evaluate_nodes

    branches = (n for n in open_nodes(graph.body) if n.op == "If" and not n.domain)
    conditions = [v for v in dict.fromkeys(n.inputs[0] for n in branches) if v is not None and v.producer]
    if not conditions:
        return {}
    cone = Cone(graph.body, _MAX_BYTES)
    decided = [value for value in conditions if value.producer in cone.members]
    found = evaluate_nodes(cone.behind(decided), graph, decided)
    return {value: bool(data.item()) for value, data in found.items() if data.size == 1}
