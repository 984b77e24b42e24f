"""Runs a pipeline: one pass after the other, with instruments around them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import GraphoptError, PassError
from graphopt.ir.graph import Graph
from graphopt.ir.rewriter import OutOfFuel, Rewriter
from graphopt.ir.semantics import Semantics
from graphopt.pipeline.base import Context, Pass
from graphopt.pipeline.instruments import Instrument, PassRun, Timing
from graphopt.pipeline.report import PassRow, Report
from graphopt.rewrite import RuleStats

if TYPE_CHECKING:
    from graphopt.pipeline.pipeline import Pipeline, Progress, Verify


class Runner:
    """One run of one pipeline on one graph; see :meth:`Pipeline.run` for the arguments."""

    def __init__(
        self,
        pipeline: Pipeline,
        graph: Graph,
        context: Context,
        *,
        verify: Verify,
        dump_dir: Path | None,
        instruments: Sequence[Instrument],
        semantics: Semantics | None,
    ) -> None:
        if semantics is None:
            from graphopt.ops import SEMANTICS

            semantics = SEMANTICS
        self.pipeline = pipeline
        self.graph = graph
        self.context = context
        self.semantics = semantics
        self.instruments: list[Instrument] = [Timing(), *instruments]

    def run(self, fuel: int | None, progress: Progress | None) -> Report:
        """Runs all passes."""
        report = Report(str(self.pipeline))
        start = time.perf_counter()
        for instrument in self.instruments:
            instrument.begin(self.graph)
        for index, pass_ in enumerate(self.pipeline.passes):
            if progress is not None:
                progress(index, len(self.pipeline.passes), pass_.name)
            left = None if fuel is None else fuel - report.rewrites
            report.rows.append(self._one(index, pass_, left))
        for instrument in self.instruments:
            instrument.end(self.graph)
        report.seconds = time.perf_counter() - start
        return report

    def _one(self, index: int, pass_: Pass, fuel: int | None) -> PassRow:
        row = PassRow(index, str(pass_), pass_.effect.value)
        if not all(instrument.should_run(pass_, self.graph) for instrument in self.instruments):
            row.skipped = True
            return row
        self.context.stats, self.context.notes = row.rules, row.notes = RuleStats(), {}
        rewriter = Rewriter(self.graph, self.semantics, fuel=fuel)
        run = PassRun(pass_, self.graph, rewriter, self.context, row)
        for instrument in self.instruments:
            instrument.before(run)
        try:
            pass_.run(rewriter, self.context)
        except OutOfFuel:
            row.out_of_fuel = True
        except GraphoptError as error:
            error.message = f'pass "{pass_.name}": {error.message}'
            raise
        except Exception as error:
            raise PassError(
                f'pass "{pass_.name}"{_place(rewriter)} failed: {type(error).__name__}: {error}',
                hint="this is a fault of the pass, not of the model",
            ) from error
        for instrument in self.instruments:
            instrument.after(run)
        return row


def _place(rewriter: Rewriter) -> str:
    failed = rewriter.failed
    if failed is None:
        return ""
    at = f" at {failed.root.label}" if failed.root is not None else ""
    return f', rule "{failed.rule}"{at},'
