"""What a diff found, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.diff.changes import Differences
from graphopt.diff.document import document

if TYPE_CHECKING:
    from rich.text import Text

DEFAULT_LIMIT = 60
"""Lines of a diff's text, if nothing else is said."""


@dataclass(frozen=True, slots=True)
class GraphDiff(Differences):
    """The differences of two graphs; true where there are any."""

    def text(self, limit: int = DEFAULT_LIMIT) -> str:
        """The differences for people: a summary, then a line for each thing, at most ``limit`` lines."""
        return self.rich(limit).plain

    def rich(self, limit: int = DEFAULT_LIMIT) -> Text:
        """:meth:`text` in colours, for a rich console."""
        from graphopt.diff.text import render

        return render(self, limit)

    def to_json(self) -> dict[str, Any]:
        """The differences for programs; ``docs/diff.md`` documents the keys."""
        return document(self)
