"""Runs a pipeline: one pass after the other, with instruments around them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from graphopt.errors import FAULT_HINT, GraphoptError, InputError, PassError, raised_at
from graphopt.ir.analyses import Analyses
from graphopt.ir.graph import Graph
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.semantics import Semantics
from graphopt.ir.transaction import OutOfFuel
from graphopt.pipeline.base import Context, Pass
from graphopt.pipeline.deadline import Overdue, deadline
from graphopt.pipeline.dump import Dump
from graphopt.pipeline.instruments import Instrument, PassRun, Timing
from graphopt.pipeline.numeric import NumericVerifier
from graphopt.pipeline.report import PassRow, Report
from graphopt.pipeline.settings import Limits, Progress, Verify
from graphopt.pipeline.structure import StructureVerifier
from graphopt.rewrite import RuleStats

PIPELINE_KEY = "graphopt.pipeline"
T = TypeVar("T")


class Runner:
    """One run of the passes of a pipeline, whose text is ``text``, on one graph; see :meth:`Pipeline.run`."""

    def __init__(
        self,
        passes: Sequence[Pass],
        text: str,
        graph: Graph,
        context: Context,
        *,
        verify: Verify,
        limits: Limits,
        dump_dir: Path | None,
        instruments: Sequence[Instrument],
        semantics: Semantics | None,
    ) -> None:
        if semantics is None:
            from graphopt.ops import SEMANTICS

            semantics = SEMANTICS
        self.passes = passes
        self.text = text
        self.verify = verify
        self.graph = graph
        self.context = context
        self.semantics = semantics
        self.limits = limits
        self.analyses = Analyses(graph)
        # Before a pass they hear in this order, after it in reverse: the clock is next to the pass.
        self.instruments: list[Instrument] = [*instruments]
        if verify == "numeric":
            self.instruments.append(NumericVerifier(limits))
        if dump_dir is not None:
            self.instruments.append(Dump(dump_dir))
        if verify != "off":
            self.instruments.append(StructureVerifier(semantics))
        self.instruments.append(Timing())

    def run(self, fuel: int | None, progress: Progress | None) -> Report:
        """Runs all passes."""
        report = Report(self.text, self.verify)
        start = time.perf_counter()
        self._check_samples()
        for instrument in self.instruments:
            _call(instrument, instrument.begin, self.graph)
        for index, pass_ in enumerate(self.passes):
            if progress is not None:
                progress(index, len(self.passes), pass_.name)
            left = None if fuel is None else fuel - report.rewrites
            report.rows.append(self._one(index, pass_, left))
        for instrument in self.instruments:
            _call(instrument, instrument.end, self.graph)
        report.seconds = time.perf_counter() - start
        return report

    def _check_samples(self) -> None:
        """Refuses samples that don't fit, whichever pass would have looked at them first."""
        if not self.context.inputs:
            return
        from graphopt.evaluate import check_inputs

        for number, sample in enumerate(self.context.inputs, 1):
            try:
                arrays = check_inputs(self.graph.inputs, sample)
                if arrays and not any(np.size(array) for array in arrays.values()):
                    raise InputError(
                        "its inputs have no elements", hint="a batch of 0 calibrates and verifies nothing"
                    )
            except GraphoptError as error:
                error.message = f"sample {number}: {error.message}"
                raise

    def _one(self, index: int, pass_: Pass, fuel: int | None) -> PassRow:
        row = PassRow(index, str(pass_), pass_.effect.value)
        if not all(_call(item, item.should_run, pass_, self.graph) for item in self.instruments):
            row.skipped = True
            return row
        self.context.stats, self.context.notes = row.rules, row.notes = RuleStats(), {}
        rewriter = Rewriter(
            self.graph, self.semantics, fuel=fuel, max_rewrites=self.limits.max_rewrites, analyses=self.analyses
        )  # fmt: skip
        run = PassRun(pass_, self.graph, rewriter, self.context, row)
        try:
            for instrument in self.instruments:
                _call(instrument, instrument.before, run)
            self._apply(run)
            _record(self.graph, row.spec)
            for instrument in reversed(self.instruments):
                _call(instrument, instrument.after, run)
        except GraphoptError as error:
            _named(error, pass_)
            raise
        return row

    def _apply(self, run: PassRun) -> None:
        try:
            with deadline(self.limits.pass_timeout, self._abandon(run)):
                run.pass_.run(run.rewriter, run.context)
        except OutOfFuel:
            run.row.out_of_fuel = True
        except Overdue as error:
            run.rewriter.roll_back()
            raise self._overdue(run, raised_at(error, _file(run.pass_))) from error
        except GraphoptError as error:
            if 'rule "' not in error.message:
                error.message = _place(run.rewriter) + error.message
            raise
        except (Exception, SystemExit) as error:  # SystemExit: a pass must not end the process.
            at = raised_at(error, _file(run.pass_))
            raise PassError(
                f"{_place(run.rewriter)}{type(error).__name__}: {error} ({at})", hint=FAULT_HINT
            ) from error

    def _overdue(self, run: PassRun, place: str) -> PassError:
        return PassError(
            f"{_place(run.rewriter)}stopped after {self.limits.pass_timeout:g} s, at {place}",
            hint="a loop without an end, or more to do than --pass-timeout (pass_timeout=) allows",
        )

    def _abandon(self, run: PassRun) -> Callable[[str], None] | None:
        """What to do with a pass that can't be interrupted, given the place where it is."""
        abandon = self.limits.abandon
        if abandon is None:
            return None
        return lambda place: abandon(_named(self._overdue(run, place), run.pass_))


def _call(instrument: Instrument, hook: Callable[..., T], *arguments: object) -> T:
    """Calls a hook of an instrument; a fault in it is one of the instrument.

    Raises:
        PassError: the hook raised something that is not a GraphoptError.
    """
    try:
        return hook(*arguments)
    except GraphoptError:
        raise
    except (Exception, SystemExit) as error:
        kind = type(instrument)
        at = raised_at(error, inspect.getsourcefile(kind) or "")
        raise PassError(
            f"instrument {kind.__name__}: {type(error).__name__}: {error} ({at})",
            hint="this is a fault of the instrument; GRAPHOPT_DEBUG=1 shows the traceback",
        ) from error


def _named(error: GraphoptError, pass_: Pass) -> GraphoptError:
    error.message = f'pass "{pass_.name}": {error.message}'
    return error


def _file(pass_: Pass) -> str:
    return inspect.getsourcefile(type(pass_)) or ""


def _record(graph: Graph, spec: str) -> None:
    """Writes into the model's metadata that it went through a pass, after those of earlier runs."""
    earlier = graph.metadata.get(PIPELINE_KEY)
    graph.metadata[PIPELINE_KEY] = f"{earlier},{spec}" if earlier else spec


def _place(rewriter: Rewriter) -> str:
    failed = rewriter.failed
    if failed is None:
        return ""
    at = f" at {failed.root.label}" if failed.root is not None else ""
    return f'rule "{failed.rule}" failed{at}: '
