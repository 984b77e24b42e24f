"""Instruments hear of every pass before and after it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline.base import Context, Pass
from graphopt.pipeline.report import PassRow


@dataclass(slots=True)
class PassRun:
    """One pass at work; instruments write what they find into ``row``."""

    pass_: Pass
    graph: Graph
    rewriter: Rewriter
    context: Context
    row: PassRow


class Instrument:
    """Hears of a run of a pipeline; this one does nothing, subclasses override what they need.

    Before a pass instruments hear in their order, after it in reverse. An instrument may look at the
    graph and ask for analyses, but changes nothing. When a pass fails, ``after`` and ``end`` are not called.
    """

    def should_run(self, pass_: Pass, graph: Graph) -> bool:
        """Whether the pass may run; one False of any instrument skips it."""
        return True

    def begin(self, graph: Graph) -> None:
        """Before the first pass."""

    def before(self, run: PassRun) -> None:
        """Before a pass that will run."""

    def after(self, run: PassRun) -> None:
        """After a pass that did not fail."""

    def end(self, graph: Graph) -> None:
        """After the last pass, when none failed."""


class Timing(Instrument):
    """Seconds, and the size of the graph before and after."""

    def __init__(self) -> None:
        self._start = 0.0
        self._size: tuple[int, int] | None = None

    def before(self, run: PassRun) -> None:
        # What the last pass left is what this one gets.
        run.row.nodes_before, run.row.constant_bytes_before = self._size or _size(run.graph)
        self._start = time.perf_counter()

    def after(self, run: PassRun) -> None:
        run.row.seconds = time.perf_counter() - self._start
        run.row.rewrites = run.rewriter.count
        self._size = _size(run.graph) if run.row.rewrites or self._size is None else self._size
        run.row.nodes_after, run.row.constant_bytes_after = self._size


def _size(graph: Graph) -> tuple[int, int]:
    constants = (value.const for value in graph.constants.values())
    return sum(1 for _ in graph.walk()), sum(tensor.nbytes for tensor in constants if tensor is not None)
