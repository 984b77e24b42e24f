"""What tests of graphs and passes assert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.transaction import EventKind, Transaction
from graphopt.testing.snippets import GraphLike, graph_of

if TYPE_CHECKING:
    from graphopt.pipeline import Pass, Pipeline, Report

PassLike = Union[str, "Pass", "Pipeline"]
"""A pass, a pipeline, or the text of one."""

_SHOWN = 40
"""Lines of a difference that a failure prints."""


def assert_graphs_equal(
    actual: GraphLike,
    expected: GraphLike,
    *,
    weights: Literal["exact", "shape"] | float = "exact",
    names: bool = True,
) -> None:
    """Asserts that two graphs compute the same by the same nodes, in whatever order.

    Args:
        weights: how constants compare: by every bit, by type only, or floats within a distance relative
            to the largest.
        names: whether names of the graphs' inputs and outputs count; those in between never do.

    Raises:
        AssertionError: shows what differs, and nothing else.
    """
    from graphopt.diff import diff

    found = diff(graph_of(expected), graph_of(actual), names=names, weights=weights)
    if not found.equal:
        raise AssertionError(f"the graphs differ (- expected, + actual):\n{found.text(_SHOWN)}")


def assert_same_outputs(
    a: GraphLike,
    b: GraphLike,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    tolerance: float = 0.0,
) -> None:
    """Asserts that two graphs give the same numbers in ONNX Runtime, its optimizations off.

    Args:
        inputs: one sample or several, arrays by input name; by default some are made, awkward numbers
            among them when ``tolerance`` is 0.
        tolerance: how far floats may be apart, relative to the largest of an output; 0: bit by bit, signs
            of zeros and places of NaN included.

    Raises:
        AssertionError: names the output, the first element that differs, and by how much.
        InputError: the inputs don't fit.
        EvaluationError: a graph can't be run.
    """
    from graphopt.evaluate import Session

    first, second = graph_of(a), graph_of(b)
    with Session(first) as session:
        engine = session.engine
        samples = _samples(first, inputs, wild=tolerance == 0)
        wanted = [session.run(sample) for sample in samples]
    with Session(second, engine) as session:  # type: ignore[arg-type]
        given = [session.run(sample) for sample in samples]
    for number, (old, new) in enumerate(zip(wanted, given, strict=True)):
        if list(old) != list(new):
            raise AssertionError(f"the outputs are {', '.join(old)} and {', '.join(new)}")
        for name in old:
            if wrong := _apart(old[name], new[name], tolerance):
                raise AssertionError(f'sample {number}, output "{name}": {wrong}')


def _samples(graph: Graph, inputs: Any, *, wild: bool) -> list[Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return [inputs]
    if inputs is not None:
        return list(inputs)
    from graphopt.testing.fuzzing.values import sample_inputs

    return [
        sample_inputs(graph, 0),
        sample_inputs(graph, 1),
        *([sample_inputs(graph, 2, wild=True)] if wild else []),
    ]


def _apart(old: Any, new: Any, tolerance: float) -> str:
    from graphopt.testing.fuzzing.compare import beyond, differs
    from graphopt.verify.distance import below_gap

    if tolerance == 0 or isinstance(old, list) or old is None:
        return differs(old, new)
    magnitude = np.abs(np.nan_to_num(np.asarray(old, np.float64), posinf=0, neginf=0))
    bound = np.full(np.shape(old), tolerance * magnitude.max(initial=0.0))
    below = below_gap(np.asarray(old))
    if below is not None:
        bound[below] = tolerance * magnitude[below].max()
    return beyond(old, new, bound)


def rewrite_and_compare(
    passes: PassLike,
    before: GraphLike,
    after: GraphLike | None = None,
    *,
    inserted: int | Mapping[str, int] | None = None,
    removed: int | Mapping[str, int] | None = None,
    replaced: int | None = None,
    tolerance: float | None = None,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> Graph:
    """Runs a pass, asserts what it did, and that the numbers stayed as they were.

    Args:
        passes: a pass, a pipeline, or the text of one.
        before: stays as it is.
        after: what must come out; see :func:`assert_graphs_equal`.
        inserted: how many nodes are new: all together, or by operator.
        removed: how many nodes are gone.
        replaced: how many values others took the place of.
        tolerance: see :func:`assert_same_outputs`; by default 0 for passes that are exact, 1e-5 for approximate
            ones, and no comparison for lossy ones.
        inputs: see :func:`assert_same_outputs`.

    Returns:
        The graph that came out.

    Raises:
        AssertionError: something is not as it was said.
    """
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Pipeline

    source = graph_of(before)
    copy = copy_graph(source)
    if isinstance(passes, str):
        passes = Pipeline.parse(passes)
    pipeline = passes if isinstance(passes, Pipeline) else Pipeline((passes,))
    counts = _Counts()
    report = pipeline.run(copy, instruments=[counts.instrument()])
    for what, wanted, found in (
        ("inserted", inserted, counts.inserted),
        ("removed", removed, counts.removed),
    ):
        _assert_count(what, wanted, found, report)
    if replaced is not None and replaced != counts.replaced:
        raise AssertionError(f"{counts.replaced} values replaced, not {replaced}{_told(report)}")
    if after is not None:
        assert_graphs_equal(copy, after)
    tolerance = _tolerance(pipeline) if tolerance is None else tolerance
    if tolerance is not None:
        assert_same_outputs(source, copy, inputs, tolerance)
    return copy


def _assert_count(
    what: str, wanted: int | Mapping[str, int] | None, found: Counter[str], report: Report
) -> None:
    if wanted is None:
        return
    given: Any = found.total() if isinstance(wanted, int) else dict(sorted(found.items()))
    if given != (wanted if isinstance(wanted, int) else dict(sorted(wanted.items()))):
        named = ", ".join(f"{count} {op}" for op, count in sorted(found.items())) or "none"
        raise AssertionError(f"{what}: {named}, not {wanted}{_told(report)}")


def _told(report: Report) -> str:
    """The rules that were applied, and those that refused, with their reasons."""
    lines = [""]
    for row in report.rows:
        for name, count in row.rules.rules.items():
            reasons = "; ".join(str(first) for _, first in count.refusals.values())
            if count.hits or reasons:
                lines.append(
                    f"  {name}: applied {count.hits} times" + (f", refused: {reasons}" if reasons else "")
                )
    return "\n".join(lines)


def _tolerance(pipeline: Pipeline) -> float | None:
    from graphopt.pipeline import Effect

    effects = {pass_.effect for pass_ in pipeline.passes}
    if Effect.LOSSY in effects:
        return None
    return 1e-5 if Effect.APPROXIMATE in effects else 0.0


class _Counts:
    """What happened, told by the rewriter's events; a node that was made and unmade again does not count."""

    def __init__(self) -> None:
        self.inserted: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.replaced = 0
        self._made: set[Any] = set()

    def instrument(self) -> Any:
        from graphopt.pipeline.instruments import Instrument, PassRun

        counts = self

        class Count(Instrument):
            def before(self, run: PassRun) -> None:
                run.rewriter.listeners.append(counts)

        return Count()

    def committed(self, transaction: Transaction) -> None:
        """Counts the events (rewriter listener)."""
        for event in transaction.events:
            if event.kind is EventKind.REPLACED:
                self.replaced += 1
            if event.node is None:
                continue
            if event.kind is EventKind.INSERTED:
                self._made.add(event.node)
                self.inserted[event.node.op] += 1
            elif event.kind is EventKind.ERASED:
                if event.node in self._made:
                    self.inserted -= Counter([event.node.op])
                else:
                    self.removed[event.node.op] += 1
