"""A diff as lines for a terminal: what is different first, each node in a line or a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from graphopt.diff.changes import Change, Differences, NodeChange, Rewired
from graphopt.diff.describe import node_text, shorten
from graphopt.ir.graph import Node
from graphopt.units import counted

_STYLES = {"+": "green", "-": "red", "~": "yellow", ">": "cyan"}
_MOST_NAMED = 6
"""Nodes that are named when they moved to one place together."""


def render(diff: Differences, limit: int) -> Text:
    """The lines of a diff; ``limit`` 0: all of them."""
    lines = [summary(diff), *_lines(diff)]
    if limit and len(lines) > limit:
        hidden = len(lines) - limit + 1
        lines = [*lines[: limit - 1], Text(f"… and {hidden} more lines", "dim")] if limit > 1 else lines[:1]
    return Text("\n").join(lines)


def summary(diff: Differences) -> Text:
    """How many things differ, in one line."""
    same = len(diff.partners) - len({c.before for c in diff.changed} | {m.before for m in diff.moved})
    if diff.equal:
        return Text(f"the graphs are equal ({counted(same, 'node')})", "green")
    counts = [
        f"{count} {what}"
        for count, what in (
            (len(diff.changed), "changed"),
            (len(diff.added), "added"),
            (len(diff.removed), "removed"),
            (len(diff.moved), "moved"),
        )
        if count
    ]
    text = (
        f"nodes: {', '.join(counts)}, {same} the same" if counts else f"{counted(same, 'node')}, all the same"
    )
    if diff.signature:
        text += f"; {len(diff.signature)} of the graph's own {'differs' if len(diff.signature) == 1 else 'differ'}"
    return Text(text, "bold")


def _lines(diff: Differences) -> Iterator[Text]:
    for change in diff.signature:
        yield _line("~", "", change)
    for entry in diff.changed:
        yield from _changed(entry)
    for node in diff.removed:
        yield from _single("-", node, [r for r in diff.rewired if r.removed is node])
    for node in diff.added:
        yield from _single("+", node, [r for r in diff.rewired if r.added is node and r.removed is None])
    yield from _moved(diff)
    if diff.followed:
        values = "1 value's type follows" if diff.followed == 1 else f"{diff.followed} values' types follow"
        yield Text(f"  {values} from these", "dim")


def _line(sign: str, subject: str, change: Change) -> Text:
    line = Text.assemble((f"{sign} ", _STYLES.get(sign, "")), subject)
    if change.what in ("attribute", "weight", "constant"):
        line.append(f"{change.what} ", "dim")
    line.append(change.where)
    line.append(": ")
    if change.distance is not None and change.before == change.after:
        line.append(change.before)
    else:
        line.append(change.before or "(none)", "red").append(" → ").append(change.after or "(none)", "green")
    if change.distance is not None:
        line.append(f"; {change.distance}", "dim")
    return line


def _changed(entry: NodeChange) -> Iterator[Text]:
    subject = node_text(entry.before)
    if entry.after.label != entry.before.label and entry.after.op_type == entry.before.op_type:
        subject += f" (now {_name(entry.after)})"
    if len(entry.changes) == 1:
        yield _line("~", f"{subject}  ", entry.changes[0])
        return
    yield Text.assemble(("~ ", _STYLES["~"]), subject)
    for change in entry.changes:
        yield _line(" ", "   ", change)


def _name(node: Node) -> str:
    return node.label.removeprefix(f"{node.op_type} ")


def _single(sign: str, node: Node, rewired: list[Rewired]) -> Iterator[Text]:
    inputs = ", ".join("_" if value is None else f"%{value.name}" for value in node.inputs)
    yield Text.assemble(
        (f"{sign} ", _STYLES[sign]), (node_text(node), _STYLES[sign]), (f" ({shorten(inputs)})", "dim")
    )
    for change in rewired:
        where = f"{change.user} {change.where}".strip()
        yield Text(f"    {where}: {change.before or '(none)'} → {change.after or '(none)'}", "dim")


def _moved(diff: Differences) -> Iterator[Text]:
    ways = Counter((move.source, move.target) for move in diff.moved)
    for (source, target), count in ways.items():
        nodes = [m.before for m in diff.moved if (m.source, m.target) == (source, target)]
        named = ", ".join(node.label for node in nodes[:_MOST_NAMED])
        more = f" and {count - _MOST_NAMED} more" if count > _MOST_NAMED else ""
        yield Text.assemble(
            ("> ", _STYLES[">"]), f"{named}{more}", (f"  from {source} to {target}", _STYLES[">"])
        )
