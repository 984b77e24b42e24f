"""Checks the structure of the graph after every pass, looking only at what the pass touched."""

from __future__ import annotations

import time

from graphopt.ir.graph import Graph
from graphopt.ir.semantics import Semantics
from graphopt.ir.verifier import IncrementalVerifier, verify
from graphopt.pipeline.instruments import Instrument, PassRun


class StructureVerifier(Instrument):
    """After each pass the touched part is verified, after the last one the whole graph.

    Raises:
        VerifyError: from the pass that broke an invariant.
    """

    def __init__(self, semantics: Semantics) -> None:
        self.semantics = semantics
        self._verifier: IncrementalVerifier | None = None

    def before(self, run: PassRun) -> None:
        self._verifier = IncrementalVerifier(run.graph, self.semantics)
        run.rewriter.listeners.append(self._verifier)

    def after(self, run: PassRun) -> None:
        assert self._verifier is not None
        start = time.perf_counter()
        self._verifier.check()
        run.row.verify_seconds += time.perf_counter() - start
        self._verifier = None

    def end(self, graph: Graph) -> None:
        verify(graph, self.semantics)
