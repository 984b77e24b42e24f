"""Two graphs side by side, with marks on what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt.ir.graph import Node
from graphopt.page.drawing import Drawing
from graphopt.page.html import asset, page

Mark = Literal["changed", "added", "removed", "moved"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of changes.

    Attributes:
        mark: its colour.
        title: what it is about, such as an operator.
        about: which one, such as the node's name.
        lines: what is different: what, before, after; empty texts are left out.
        left, right: the boxes that it is about, -1 for none.
    """

    mark: Mark
    title: str
    about: str = ""
    lines: Sequence[tuple[str, str, str]] = ()
    left: int = -1
    right: int = -1

    def to_json(self) -> dict[str, Any]:
        return {
            "mark": self.mark, "title": self.title, "about": self.about, "lines": list(self.lines), "left": self.left, "right": self.right,
        }  # fmt: skip


@dataclass(slots=True)
class Pair:
    """A page with two graphs.

    Attributes:
        title: the page's title; ``names`` stand over the graphs; ``summary`` says in a line what differs.
        partners: boxes of the left drawing and their partners in the right one.
        entries: the list of changes.
        marks: colours of boxes that no entry names, for each side.
    """

    title: str
    names: tuple[str, str]
    drawings: tuple[Drawing, Drawing]
    summary: str = ""
    partners: Mapping[int, int] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    marks: tuple[Mapping[int, Mark], Mapping[int, Mark]] = field(default_factory=lambda: ({}, {}))

    @staticmethod
    def partners_of(drawings: tuple[Drawing, Drawing], nodes: Mapping[Node, Node]) -> dict[int, int]:
        """Pairs of boxes from pairs of nodes."""
        left, right = drawings
        return {left.of_node[a]: right.of_node[b] for a, b in nodes.items()}

    def html(self) -> str:
        """The page."""
        data = {
            "title": self.title,
            "summary": self.summary,
            "names": self.names,
            "sides": [drawing.to_json() for drawing in self.drawings],
            "partners": [[a, b] for a, b in self.partners.items()],
            "entries": [entry.to_json() for entry in self.entries],
            "marks": [list(map(list, marks.items())) for marks in self.marks],
        }
        scripts = [asset("view.js"), asset("pair.js")]
        return page(
            self.title, asset("pair.html"), style=asset("pair.css"), scripts=scripts, data={"pair": data}
        )
