"""Layouts: which values keep their channels in blocks, as wide as a vector.

With channels in blocks (``nCx16c``: ``[N, C/16, H, W, 16]`` in memory) a convolution reads and writes
whole vectors, needs no packing of its input, and takes no notice of the image's width. Other code
wants memory in row-major order. Every region that can do either is given one of the two so that the
cycles of all regions, and of the copies where the two meet, are least in sum.

That is a minimum cut. Regions are vertices between a source (blocks) and a sink (row-major); cutting
a region off the source costs its cycles in row-major form, off the sink those in blocks. A value
that some users want in the other layout is copied once: from its producer an edge of the copy's
cost leads to a vertex of its own, from which edges that can't be cut lead to these users.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.types import TensorType
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.layout_rules import Blockable, blockable, copy_cycles

_FLOAT_BITS = 32


@register_pass("assign-layouts")
@dataclass(frozen=True)
class AssignLayouts(Pass):
    """Choose for every value whether its channels lie in blocks in memory; without a CPU target, none do."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Sets layouts in value types and inserts an Identity where a copy is needed."""
        target = context.target
        if target is None:
            return
        lanes = target.vector_bits // _FLOAT_BITS if target.kind == "llvm" else 1
        _forget(rewriter, keep=_layout(lanes))
        if lanes == 1:
            return
        candidates = {
            node: found
            for node in rewriter.graph.body
            if (found := blockable(node, lanes)) is not None and not _is_blocked(node.outputs[0])
        }
        if not any(found.row_major > found.blocked for found in candidates.values()):
            return
        chosen = choose(candidates)
        _apply(rewriter, {node: candidates[node] for node in candidates if node in chosen}, lanes)
        context.notes["in blocks"] = len(chosen)


def choose(candidates: dict[Node, Blockable]) -> set[Node]:
    """The candidates that run in blocks in the cheapest assignment."""
    import networkx as nx

    graph = nx.DiGraph()
    blocks, rows = "blocks", "rows"
    for node, found in candidates.items():
        graph.add_edge(blocks, node, capacity=found.row_major)
        graph.add_edge(node, rows, capacity=found.blocked)
    for value in _values(candidates):
        producer = value.producer
        maker: object = producer if producer in candidates else rows
        in_blocks = [n for n in value.users if n in candidates and _reads_blocks(n, candidates[n], value)]
        others: list[object] = [n for n in value.users if n not in in_blocks]
        in_rows: list[object] = [*in_blocks, *([rows] if others or value.is_output else [])]
        cost = copy_cycles(value)
        if maker is not rows:
            graph.add_edge(maker, (value, "rows"), capacity=cost)
            for user in in_rows:
                graph.add_edge((value, "rows"), user)  # no capacity: can't be cut
        if in_blocks:
            graph.add_edge((value, "blocks"), maker, capacity=cost)
            for user in in_blocks:
                graph.add_edge(user, (value, "blocks"))
    _, (reached, _) = nx.minimum_cut(graph, blocks, rows)
    return {node for node in candidates if node in reached}


def _values(candidates: dict[Node, Blockable]) -> list[Value]:
    """What candidates make, and what they would read in blocks."""
    values: dict[Value, None] = {}
    for node, found in candidates.items():
        values.update(dict.fromkeys(v for i in found.operands if (v := node.inputs[i]) is not None))
        values.update(dict.fromkeys(node.outputs))
    return list(values)


def _reads_blocks(node: Node, found: Blockable, value: Value) -> bool:
    return any(node.inputs[i] is value for i in found.operands)


def _is_blocked(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.layout is not None


def _layout(lanes: int) -> str | None:
    return f"nCx{lanes}c" if lanes > 1 else None


def _forget(rewriter: Rewriter, keep: str | None) -> None:
    """Takes back layouts that were chosen for another target; its copies stay as identities."""
    for node in list(rewriter.graph.walk()):
        values = [*node.outputs, *(v for region in node.regions.values() for v in region.inputs)]
        foreign = [v for v in values if _is_blocked(v) and v.tensor.layout != keep]
        if foreign:
            with rewriter.rewrite("forget-layout", node):
                for value in foreign:
                    rewriter.set_type(value, replace(value.tensor, layout=None))


def _apply(rewriter: Rewriter, chosen: dict[Node, Blockable], lanes: int) -> None:
    layout = f"nCx{lanes}c"
    nodes = rewriter.graph.body.nodes
    place = {node: index for index, node in enumerate(nodes)}
    after = dict(itertools.pairwise(nodes))
    for value in _values(chosen):
        made = value.producer in chosen
        users = [n for n in value.users if n in chosen and _reads_blocks(n, chosen[n], value)]
        others = len(users) < len(value.users) or value.is_output
        if made and others:
            _copy_to_rows(rewriter, value, users, after)
        elif not made and users:
            _copy_to_blocks(rewriter, value, sorted(users, key=place.__getitem__), layout)
    for node, found in chosen.items():
        with rewriter.rewrite("layout", node):
            for value in node.outputs if not node.is_fused else (node.outputs[0], node.body.outputs[0]):
                _set_layout(rewriter, value, layout)
            for index in found.operands if node.is_fused else ():
                _set_layout(rewriter, node.body.inputs[index], layout)


def _copy_to_rows(rewriter: Rewriter, value: Value, keep: list[Node], after: dict[Node, Node]) -> None:
    """All users but those of ``keep`` read a copy of ``value``, which is about to be in blocks."""
    producer = value.producer
    assert producer is not None
    following = after.get(producer)
    with rewriter.rewrite("copy-to-rows", producer):
        copy = rewriter.create(
            "Identity", [value], types=[value.type], before=following,
            region=producer.parent if following is None else None, outputs=[f"{value.name}.rows"],
        )  # fmt: skip
        rewriter.replace(value, copy.output)
        for node in keep:
            _redirect(rewriter, node, copy.output, value)


def _copy_to_blocks(rewriter: Rewriter, value: Value, users: list[Node], layout: str) -> None:
    with rewriter.rewrite("copy-to-blocks", users[0]):
        type = replace(value.tensor, layout=layout)
        copy = rewriter.create("Identity", [value], types=[type], outputs=[f"{value.name}.blocks"])
        for node in users:
            _redirect(rewriter, node, value, copy.output)


def _redirect(rewriter: Rewriter, node: Node, old: Value, new: Value) -> None:
    rewriter.set_inputs(node, [new if value is old else value for value in node.inputs])


def _set_layout(rewriter: Rewriter, value: Value, layout: str) -> None:
    rewriter.set_type(value, replace(value.tensor, layout=layout))
