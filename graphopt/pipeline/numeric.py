"""Numeric verification of passes, as an instrument: see :mod:`graphopt.verify` for how values are compared."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import EvaluationError, InputError, PassError, VerifyError
from graphopt.ir.dims import SymDim, evaluate, symbols
from graphopt.ir.graph import Graph, Node, Region
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import OutOfFuel, Transaction
from graphopt.pipeline.base import Context
from graphopt.pipeline.deadline import Overdue, deadline
from graphopt.pipeline.instruments import Instrument, PassRun
from graphopt.pipeline.settings import Limits
from graphopt.rewrite import RuleStats

if TYPE_CHECKING:
    from graphopt.verify.check import Checker, Mismatch, Outcome

SAMPLES = 2
"""The most samples that are run."""
GENERATED: tuple[dict[str, Any], ...] = (
    {"distinct": True},
    {"size": 8},
    {"size": 64},
    {"size": 512},
)
"""How inputs are generated; the first on which the model runs are used."""
SMALL: Mapping[str, Any] = {"size": 5, "spatial": 32}
"""Sizes of the second sample, if the model runs at them: others than those of the first, and a batch of 1."""
DEAR = 10_000_000_000
"""A model with more operations in a run, of those that data doesn't change, is run on one generated sample only."""

_MOST_TRIPS = 1_000_000
"""A constant count of more trips is no bound: exporters write the largest number for none."""
_PATIENCE = 5.0
"""Times that a replay may take longer than the pass did, with a second more."""

log = logging.getLogger("graphopt")


class Recorder:
    """Keeps the transactions of a pass (rewriter listener)."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []

    def committed(self, transaction: Transaction) -> None:
        self.transactions.append(transaction)


class NumericVerifier(Instrument):
    """Compares values after each pass with those before it, on the context's inputs or generated ones.

    What depends on operators that no engine can load, or that draw random numbers, is left out and noted in
    the report, as unverified where it is all there is; a graph that only does not run on the inputs is refused.
    When a pass is found to be wrong, its rewrites are undone: the graph stays as it was before it.

    Args:
        limits: hold also for each time that a wrong pass is run again to find the rewrite.

    Raises:
        InputError: the graph does not run on a sample that the user gave, or on no generated one.
        NumericFault: a pass changed numbers; names the rewrite and the first value that differs.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._checker: Checker | None = None
        self._recorder = Recorder()
        self._reason = ""
        self._metadata: dict[str, str] = {}

    def before(self, run: PassRun) -> None:
        if self._checker is None and not self._reason:
            start = time.perf_counter()
            self._begin(run.graph, run.context)
            run.row.verify_seconds += time.perf_counter() - start
        if self._checker is not None:
            self._recorder = Recorder()
            self._metadata = dict(run.graph.metadata)
            run.rewriter.listeners.append(self._recorder)

    def after(self, run: PassRun) -> None:
        run.row.unverified = self._reason
        if self._checker is None:
            return
        run.row.left_out = list(self._checker.left_out)
        if not self._recorder.transactions:
            return
        start = time.perf_counter()
        checker, effect = self._checker, run.pass_.effect
        try:
            outcome = checker.compare(
                run.graph, checker.ids, checker.outputs, self._recorder.transactions, effect
            )
        except EvaluationError as error:
            raise self._fault(run, f"{_can_not_run()}: {error.message}", ()) from error
        _measured(run, outcome)
        if outcome.mismatches:
            raise self._fault(run, str(outcome.mismatches[0]), tuple(outcome.mismatches))
        checker.accept(outcome, effect)
        run.row.left_out = list(checker.left_out)
        run.row.verify_seconds += time.perf_counter() - start

    def end(self, graph: Graph) -> None:
        if self._checker is None:
            return
        for name, distance in self._checker.drift(graph).items():
            if distance.is_fault:
                # No pass is to blame: rounding to integers, say, makes steps of the smallest differences.
                log.warning(
                    'each rewrite is within its tolerance; together they changed output "%s" by %.3g of its largest '
                    "value (%s; for so long a way %.3g would be expected)",
                    name, distance.measured, distance.detail, distance.tolerance.allowed,
                )  # fmt: skip
        self._checker.values.close()

    def _begin(self, graph: Graph, context: Context) -> None:
        try:
            self._checker = checker_of(graph, context.inputs, context.seed)
        except EvaluationError as error:
            self._reason = error.message

    def _fault(self, run: PassRun, reason: str, mismatches: tuple[Mismatch, ...]) -> VerifyError:
        """Undoes the pass and says which of its rewrites was wrong."""
        from graphopt.verify.fault import NumericFault
        from graphopt.verify.locate import locate

        assert self._checker is not None
        transactions = self._recorder.transactions
        for transaction in reversed(transactions):
            for undo in reversed(transaction.undo):
                undo()
        run.graph.metadata.clear()
        run.graph.metadata.update(self._metadata)

        plain = NumericFault(reason, mismatches=mismatches)
        try:
            fault = locate(
                run.graph, _replay(run, self._limits, plain), self._checker, run.pass_.effect,
                count=len(transactions), mismatches=mismatches, reason=reason, pipeline=str(run.pass_),
                options=_options(run),
            )  # fmt: skip
        except Exception:
            log.debug("the fault could not be located", exc_info=True)
            fault = plain  # known for sure, whatever went wrong on the way to say more of it
        fault.pass_name, fault.pass_index = run.pass_.name, run.row.index
        return fault


def _replay(
    run: PassRun, limits: Limits, fault: VerifyError
) -> Callable[[Graph, int | None], list[Transaction]]:
    """Runs a pass again, on any graph; PassError where it does not come to its end.

    A part of a graph is what the author of a pass may never have thought of, so a replay gets little longer than
    the pass had, and there is no other after one that is overdue.
    """
    longest = min(limits.pass_timeout or float("inf"), _PATIENCE * (1.0 + run.row.seconds))
    abandon = limits.abandon
    overdue = False

    def replay(graph: Graph, fuel: int | None) -> list[Transaction]:
        nonlocal overdue
        if overdue:
            raise PassError("another replay took too long")
        recorder = Recorder()
        rewriter = Rewriter(
            graph, run.rewriter.semantics, fuel=fuel, max_rewrites=limits.max_rewrites, listeners=[recorder]
        )
        try:
            with deadline(longest, None if abandon is None else lambda place: abandon(fault)):
                run.pass_.run(rewriter, replace(run.context, stats=RuleStats(), notes={}))
        except OutOfFuel:
            pass
        except (Exception, SystemExit, Overdue) as error:
            overdue = isinstance(error, Overdue)
            rewriter.roll_back()
            raise PassError(f"{type(error).__name__}: {error}") from error
        return recorder.transactions

    return replay


def checker_of(graph: Graph, inputs: Sequence[Mapping[str, Any]], seed: int = 0) -> Checker:
    """What compares a graph's values from now on, on the first of ``inputs`` or on generated ones.

    Raises:
        InputError: the graph does not run on a sample that was given, or on none that was generated.
        EvaluationError: no engine can load it, or there is nothing in it that can be compared.
    """
    from graphopt.evaluate import check_inputs, example_inputs
    from graphopt.verify.check import Checker, Incomparable

    last: EvaluationError | None = None
    # Sizes of their own tell symbols apart; some models ask that two be equal, or one be large.
    for fitting, options in [(False, {})] if inputs else itertools.product((True, False), GENERATED):
        try:
            if inputs:
                given = [check_inputs(graph.inputs, sample) for sample in inputs[:SAMPLES]]
                return Checker(graph, [_with_defaults(graph, sample) for sample in given])
            plain = example_inputs(graph, seed, **options)
            if _fits_types(graph, plain) == fitting:
                return _on_generated(graph, seed, plain, options)
        except Incomparable:
            raise
        except EvaluationError as error:
            last = error
    assert last is not None
    _blame_inputs(graph, list(inputs)[:SAMPLES], last)
    raise last


def _on_generated(graph: Graph, seed: int, sample: dict[str, Any], options: Mapping[str, Any]) -> Checker:
    """On a plain sample and, where it has more to show and a run takes neither long nor for ever, on a wilder one."""
    from graphopt.verify.check import Checker

    plain = _with_defaults(graph, sample)
    if not _has_more_to_show(graph):
        return Checker(graph, [plain])
    flops = _flops(graph, plain)
    why = f"a run takes {flops:.1e} operations" if flops > DEAR else ""
    if any(map(_is_unbounded, graph.walk())):
        why = "a loop that no count bounds might not end on it"
    if why:
        checker = Checker(graph, [plain])
        checker.left_out.append(f"a second, wilder sample: {why}")
        return checker
    checker = Checker(graph, [plain], _wilder(graph, seed + 1, options))
    varies = any(map(checker.expressions.varies, checker.values.found))
    if varies and len(checker.values.samples) == 1:
        checker.left_out.append("a second, wilder sample: the model does not run on it")
    return checker


def _has_more_to_show(graph: Graph) -> bool:
    """Whether a wilder sample goes other ways than a plain one: there are integers, masks or defaults among the
    inputs, or control flow. What computes on floats alone takes the same way with all of them."""
    floats = all(value.tensor.dtype is not None and value.tensor.dtype.is_float for value in graph.inputs)
    return (
        not floats or any(v.const is not None for v in graph.inputs) or any(n.regions for n in graph.walk())
    )


def _wilder(graph: Graph, seed: int, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Samples to try in turn: small ones or of the sizes that ``options`` give, with defaults replaced or kept."""
    from graphopt.evaluate import example_inputs

    has_defaults = any(value.const is not None for value in graph.inputs)
    for sizes in (SMALL, options):
        for defaults in (True, False) if has_defaults else (False,):
            made = example_inputs(graph, seed, **sizes, content="varied", defaults=defaults)
            if sizes is options or _fits_types(graph, made):
                yield _with_defaults(graph, made)


def _fits_types(graph: Graph, sample: Mapping[str, Any]) -> bool:
    """Whether no size that the symbols of the types give is below 1: engines run some such models, where a window is
    larger than what it slides over, and artifacts refuse them."""
    sizes = _sizes(graph, sample)
    values = (value for node in graph.walk() for value in node.outputs)
    dims = {dim for value in values for dim in value.tensor.shape or () if isinstance(dim, SymDim)}
    return all(evaluate(dim, sizes) > 0 for dim in dims if sizes.keys() >= set(symbols(dim)))


def _is_unbounded(node: Node) -> bool:
    """Whether a node is a loop that runs until its condition says so."""
    if node.op != "Loop" or node.domain:
        return False
    count = node.inputs[0]
    return count is None or (count.const is not None and bool(np.any(count.const.numpy() > _MOST_TRIPS)))


def _sizes(graph: Graph, sample: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of symbols on a sample."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        given = np.shape(sample[value.name]) if value.name in sample else ()  # Others have defaults.
        for dim, size in zip(value.tensor.shape or (), given, strict=False):
            if isinstance(dim, SymDim) and dim.symbol is not None:
                sizes[dim.symbol] = size
    return sizes


def _flops(graph: Graph, sample: Mapping[str, Any]) -> int:
    """Arithmetic operations of one run; without those of which data decides how many they are."""
    from graphopt.analysis.cost import work

    sizes = _sizes(graph, sample)
    found = work(graph, sizes)
    return found.flops if found is not None else _known_flops(graph.body, sizes)


def _known_flops(region: Region, sizes: Mapping[str, int]) -> int:
    """Operations of the nodes for which they are known, each taken to run once."""
    from graphopt.analysis.cost import flops

    inner = [part for node in region for part in node.regions.values() if not part.is_isolated]
    return sum(flops(node, sizes) or 0 for node in region) + sum(_known_flops(part, sizes) for part in inner)


def _can_not_run() -> str:
    from graphopt.verify.locate import CAN_NOT_RUN

    return CAN_NOT_RUN


def _measured(run: PassRun, outcome: Outcome) -> None:
    """Notes the distances of what the pass claims and of the outputs."""
    row = run.row
    row.distance = dict.fromkeys(run.graph.output_names, 0.0) | outcome.distances
    row.tolerance = {name: allowed.reason for name, allowed in outcome.tolerances.items()}


def _with_defaults(graph: Graph, sample: dict[str, Any]) -> dict[str, Any]:
    defaults = {value.name: value.const.numpy() for value in graph.inputs if value.const is not None}
    return {**defaults, **sample}


def _blame_inputs(graph: Graph, samples: list[Mapping[str, Any]], last: EvaluationError) -> None:
    """Says that the model fails on what it was run on, and on which sample.

    Raises:
        InputError: it does, and ONNX Runtime can load the model.
    """
    from graphopt.evaluate import Session

    try:
        session = Session(graph, "ort")
    except EvaluationError:
        return
    with session:
        for number, sample in enumerate(samples, 1):
            try:
                session.run(sample)
            except EvaluationError as error:
                raise InputError(
                    f"the model fails on sample {number}: {error.message}",
                    hint="give inputs on which the model runs as it is, before any pass",
                ) from error
    if not samples:
        raise InputError(
            f"numbers can't be verified, the model fails on all inputs that were generated: {last.message}",
            hint="give inputs on which it runs: --inputs, inputs=",
        ) from last


def _options(run: PassRun) -> tuple[str, ...]:
    """What the command line needs to run the pass again."""
    found: list[str] = []
    target = run.context.target
    if target is not None:
        found += ["--target", "native" if target == type(target).parse("native") else target.text]
    module = sys.modules.get(type(run.pass_).__module__)
    file = getattr(module, "__file__", None)
    if module is not None and module.__name__.startswith("graphopt_plugin_") and file:
        found += ["--plugin", file]
    return tuple(found)
