"""Where a model can be cut in two with one tensor between the parts.

All data goes through such a tensor, so the node that makes it dominates the output. Of these, the one is taken
that has about half of the work before it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from itertools import accumulate

import graphopt as go
from graphopt.analysis import Dominators, flops
from graphopt.ir.graph import Node


class Measure(enum.Enum):
    """What is to be halved."""

    FLOPS = "flops"
    NODES = "nodes"


@go.register_pass("cut-in-two")
@dataclass(frozen=True)
class CutInTwo(go.Pass):
    """Put an Identity where the model can best be cut in two, and note its name."""

    effect = go.Effect.EXACT
    by: Measure = field(default=Measure.FLOPS, metadata={"help": "what both parts have the same of"})

    def run(self, rewriter: go.Rewriter, context: go.Context) -> None:
        """Looks for the cut among the nodes that every path to the output goes through."""
        graph = rewriter.graph
        last = graph.outputs[0].producer
        if len(graph.outputs) > 1 or last is None:
            return
        done = dict(zip(graph.nodes, accumulate(map(self._work, graph.nodes)), strict=True))
        candidates = list(rewriter.analysis(Dominators).chain(last))[1:]
        if not candidates:
            return
        best = min(candidates, key=lambda node: abs(2 * done[node] - done[graph.nodes[-1]]))
        following = graph.nodes[graph.nodes.index(best) + 1]
        with rewriter.rewrite("cut", best):
            cut = rewriter.create("Identity", [best.outputs[0]], before=following)
            rewriter.replace(best.outputs[0], cut.output)
        context.notes["cut after"] = best.label

    def _work(self, node: Node) -> int:
        return 1 if self.by is Measure.NODES else flops(node, {}) or 0
