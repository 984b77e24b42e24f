"""A diff as a page: both graphs side by side, with what differs marked and listed."""

from __future__ import annotations

from collections import defaultdict

from graphopt.diff.changes import Change, Move
from graphopt.diff.describe import node_text
from graphopt.diff.result import GraphDiff
from graphopt.diff.text import summary
from graphopt.ir.graph import Node
from graphopt.page import Drawing, Entry, Pair

_MOST_NAMED = 6
"""Nodes that are named when they moved to one place together."""


def html_page(diff: GraphDiff, names: tuple[str, str] | None = None) -> str:
    """The page of a diff.

    Args:
        names: what stands over the graphs, such as their files; by default the graphs' names.
    """
    return pair(diff, names).html()


def pair(diff: GraphDiff, names: tuple[str, str] | None = None) -> Pair:
    """The two drawings and the list of changes, for a page that shows more than these."""
    drawings = Drawing(diff.a), Drawing(diff.b)
    left, right = drawings
    names = names or (diff.a.name, diff.b.name)
    return Pair(
        f"{names[0]} ↔ {names[1]}",
        names,
        drawings,
        summary(diff).plain,
        {**_ends(diff, drawings), **Pair.partners_of(drawings, diff.partners)},
        entries=[*(_own(change, diff, drawings) for change in diff.signature), *_entries(diff, left, right)],
        marks=(
            {left.of_node[m.before]: "moved" for m in diff.moved},
            {right.of_node[m.after]: "moved" for m in diff.moved},
        ),
    )


def _ends(diff: GraphDiff, drawings: tuple[Drawing, Drawing]) -> dict[int, int]:
    """Inputs and outputs of the graphs with the same name."""
    found: dict[int, int] = {}
    for ours, theirs in ((d.inputs for d in drawings), (d.outputs for d in drawings)):
        names = {drawings[1].boxes[box].name: box for box in theirs}
        found |= {box: names[name] for box in ours if (name := drawings[0].boxes[box].name) in names}
    return found


def _own(change: Change, diff: GraphDiff, drawings: tuple[Drawing, Drawing]) -> Entry:
    """A difference of the graph itself, shown at the input or output that it names."""
    boxes = []
    for drawing in drawings:
        ends = [*drawing.inputs, *drawing.outputs]
        boxes.append(next((box for box in ends if f'"{drawing.boxes[box].name}"' in change.where), -1))
    mark = "changed"
    if change.where.startswith("graph ") and not (change.before and change.after):
        mark = "removed" if change.before else "added"
    return Entry(mark, change.where, "", [("", change.before, change.after)], *boxes)  # type: ignore[arg-type]


def _entries(diff: GraphDiff, left: Drawing, right: Drawing) -> list[Entry]:
    found = []
    for changed in diff.changed:
        lines = [_line(change) for change in changed.changes]
        found.append(
            Entry(
                "changed",
                *_named(changed.before),
                lines,
                left.of_node[changed.before],
                right.of_node[changed.after],
            )
        )
    rewired: dict[Node, list[tuple[str, str, str]]] = defaultdict(list)
    for entry in diff.rewired:
        node = entry.removed or entry.added
        if node is not None:
            rewired[node].append((f"{entry.user} {entry.where}".strip(), entry.before, entry.after))
    for node in diff.removed:
        found.append(Entry("removed", *_named(node), rewired[node], left.of_node[node]))
    for node in diff.added:
        found.append(Entry("added", *_named(node), rewired[node], -1, right.of_node[node]))
    ways: dict[tuple[str, str], list[Move]] = defaultdict(list)
    for move in diff.moved:
        ways[move.source, move.target].append(move)
    for (source, target), moves in ways.items():
        title = ", ".join(move.before.op for move in moves[:_MOST_NAMED])
        title += f" and {len(moves) - _MOST_NAMED} more" if len(moves) > _MOST_NAMED else ""
        first = moves[0]
        found.append(
            Entry(
                "moved",
                title,
                "",
                [("", source, target)],
                left.of_node[first.before],
                right.of_node[first.after],
            )
        )
    return found


def _named(node: Node) -> tuple[str, str]:
    """The operator of a node, and its name and place."""
    return node.op_type, node_text(node).removeprefix(node.op_type).strip()


def _line(change: Change) -> tuple[str, str, str]:
    what = (
        f"{change.what} {change.where}"
        if change.what in ("attribute", "weight", "constant")
        else change.where
    )
    if change.distance is not None:
        what += f" ({change.distance})"
    return (what, change.before, change.after)
