"""Says which pass took longest."""

from __future__ import annotations

import sys

import graphopt as go
from graphopt.ir.graph import Graph
from graphopt.pipeline import PassRow, PassRun


@go.register_instrument("slowest")
class Slowest(go.Instrument):
    """Name the pass that took longest, on stderr."""

    def begin(self, graph: Graph) -> None:
        """Starts a list."""
        self.rows: list[PassRow] = []

    def after(self, run: PassRun) -> None:
        """Notes the pass."""
        self.rows.append(run.row)

    def end(self, graph: Graph) -> None:
        """Says which it was."""
        row = max(self.rows, key=lambda row: row.seconds)
        print(f"slowest: {row.spec}", file=sys.stderr)
