"""The way back from fused regions to the nodes that they hold."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Node
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Effect, Pass, register_pass


@register_pass("inline-regions")
@dataclass(frozen=True)
class InlineRegions(Pass):
    """Dissolve fused regions, so that passes that look at single nodes can work again."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Puts the nodes of each region in its place."""
        for node in list(rewriter.graph.walk()):
            if node.is_fused:
                _inline(rewriter, node)


def _inline(rewriter: Rewriter, node: Node) -> None:
    arguments = [value for value in node.inputs if value is not None]
    with rewriter.rewrite("inline-region", node):
        rewriter.replace_node(node, rewriter.inline(node.body, arguments, node))


def require_single_nodes(graph: Graph) -> None:
    """For passes that would overlook what is inside of regions.

    Raises:
        PassError: there are fused regions.
    """
    fused = next((node for node in graph.walk() if node.is_fused), None)
    if fused is not None:
        raise PassError(
            f"{fused.label} is a fused region, whose nodes can't be changed one by one",
            hint="put this pass before fuse-regions, or inline-regions before this pass",
        )
