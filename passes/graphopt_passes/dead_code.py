"""Dead code: nodes whose values nobody uses, and constants that nothing reads.

One walk against program order finds all dead nodes, also chains of them: when a node is looked
at, its users were looked at before. Nodes of unknown operators stay, since nobody says that they
have no effect; nodes that draw random numbers go, since nothing else can see the draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir.graph import Node, Region
from graphopt.ir.rewriter import Rewriter
from graphopt.ops import info
from graphopt.pipeline import Context, Effect, Pass, register_pass


@register_pass("eliminate-dead-code")
@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes and constants that no output depends on."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Removes dead nodes in every region, then unused constants."""
        _sweep(rewriter, rewriter.graph.body)
        unused = [value for value in rewriter.graph.constants.values() if not value.num_uses]
        with rewriter.rewrite("unused-constants"):
            for value in unused:
                rewriter.erase_constant(value)


def _sweep(rewriter: Rewriter, region: Region) -> None:
    for node in reversed(region.nodes):
        if is_dead(node):
            with rewriter.rewrite("dead-node", node):
                rewriter.erase(node)
            continue
        for inner in node.regions.values():
            _sweep(rewriter, inner)


def open_nodes(region: Region) -> Iterator[Node]:
    """The nodes of ``region`` and of the control flow in it, in program order; bodies of fused nodes not."""
    for node in region:
        yield node
        for inner in node.regions.values():
            if not inner.is_isolated:
                yield from open_nodes(inner)


def erase_chain(rewriter: Rewriter, node: Node, *, constants: bool = False) -> None:
    """Erases ``node`` if it is dead, and then the nodes that only it used; on request their constants too."""
    pending = [node]
    while pending:
        dead = pending.pop()
        if dead.erased or not is_dead(dead):
            continue
        inputs = dict.fromkeys(value for value in dead.inputs if value is not None)
        rewriter.erase(dead)
        for value in inputs:
            if value.producer is not None:
                pending.append(value.producer)
            elif constants and value.is_constant and not value.num_uses:
                rewriter.erase_constant(value)


def is_dead(node: Node) -> bool:
    """Whether nothing uses ``node`` and its operator is known, so that it has no other effect."""
    if any(output.num_uses for output in node.outputs):
        return False
    return info(node) is not None
