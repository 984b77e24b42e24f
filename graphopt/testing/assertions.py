"""What tests of graphs and passes assert."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

from graphopt.errors import ArgumentError, require
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
        weights: how constants compare: by every bit, floats by type only, or floats within a distance
            relative to the largest.
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
        tolerance: how far floats may be apart, relative to the largest of an output (where huge elements lie
            beyond a gap, that of the others is for the others); 0: bit by bit, signs of zeros and places of NaN
            included.

    Raises:
        AssertionError: names the output, the first element that differs, and by how much.
        InputError: the inputs don't fit.
        EvaluationError: a graph can't be run.
        ArgumentError: there is nothing to compare, no sample or no elements; or a tolerance that is none.
    """
    if isinstance(tolerance, bool) or not 0 <= tolerance < math.inf:
        raise ArgumentError(f"tolerance must be a number from 0 up, not {tolerance!r}")
    first = graph_of(a)
    samples = _samples(first, inputs, wild=tolerance == 0)
    _assert_outputs(first, graph_of(b), samples, lambda old, new: _apart(old, new, tolerance))


def _assert_outputs(
    a: Graph, b: Graph, samples: list[Mapping[str, Any]], apart: Callable[[Any, Any], str]
) -> None:
    """Asserts of each output that ``apart`` finds nothing to say of how it was and is."""
    from graphopt.evaluate import Session

    with Session(a) as session:
        engine = session.engine
        wanted = [session.run(sample) for sample in samples]
    with Session(b, engine) as session:  # type: ignore[arg-type]
        given = [session.run(sample) for sample in samples]
    for number, (sample, old, new) in enumerate(zip(samples, wanted, given, strict=True)):
        if list(old) != list(new):
            raise AssertionError(f"the outputs are {', '.join(old)} and {', '.join(new)}")
        if any(_is_empty(x) for x in sample.values()) and all(map(_is_empty, old.values())):
            raise ArgumentError(f"nothing is compared: no output has elements on sample {number}")
        for name in old:
            if wrong := apart(old[name], new[name]):
                raise AssertionError(f'sample {number}, output "{name}": {wrong}')


def _is_empty(value: Any) -> bool:
    return (
        all(map(_is_empty, value)) if isinstance(value, list) else value is not None and np.size(value) == 0
    )


def _samples(graph: Graph, inputs: Any, *, wild: bool) -> list[Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return [inputs]
    if inputs is not None:
        samples = list(inputs)
        if not samples:
            raise ArgumentError("inputs must hold a sample at least", hint="leave it out to have some made")
        return samples
    from graphopt.testing.fuzzing.values import sample_inputs

    return [
        sample_inputs(graph, 0),
        sample_inputs(graph, 1),
        *([sample_inputs(graph, 2, wild=True)] if wild else []),
    ]


def _apart(old: Any, new: Any, tolerance: float) -> str:
    from graphopt.testing.fuzzing.compare import beyond, differs
    from graphopt.verify.distance import scales

    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return next((w for a, b in zip(old, new, strict=True) if (w := _apart(a, b, tolerance))), "")
    if tolerance == 0 or isinstance(old, list) or old is None or np.asarray(old).dtype.kind in "OSUb":
        return differs(old, new)
    return beyond(old, new, tolerance * scales(np.asarray(old)))


def _unlike(old: Any, new: Any) -> str:
    """How a result is of another type or shape, or NaN where it was a number; "" if it is not."""
    from graphopt.testing.fuzzing.compare import types_differ

    if wrong := types_differ({"": old}, {"": new}):
        return wrong.removeprefix('output "": ')
    if isinstance(old, list):
        if len(old) != len(new):
            return f"had {len(old)} elements and has {len(new)}"
        return next((w for a, b in zip(old, new, strict=True) if (w := _unlike(a, b))), "")
    was, now = np.asarray(old), np.asarray(new)
    if old is None or was.dtype.kind in "OSUbiu":
        return ""
    wide = np.complex128 if was.dtype.kind == "c" else np.float64
    count = int((np.isnan(now.astype(wide)) & ~np.isnan(was.astype(wide))).sum())
    return f"{count} of {now.size} elements became NaN" if count else ""


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
            ones; of what lossy ones give only types, shapes and that no number became NaN.
        inputs: see :func:`assert_same_outputs`.

    Returns:
        The graph that came out.

    Raises:
        AssertionError: something is not as it was said.
        ArgumentError: see :func:`assert_same_outputs`.
    """
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Pass, Pipeline

    require(
        "passes", passes, (str, Pass, Pipeline), hint="Pipeline((first, second)) makes one of several passes"
    )
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
    else:
        _assert_outputs(source, copy, _samples(source, inputs, wild=False), _unlike)
    return copy


def _assert_count(
    what: str, wanted: int | Mapping[str, int] | None, found: Counter[str], report: Report
) -> None:
    if wanted is None:
        return
    if found.total() != wanted if isinstance(wanted, int) else +found != +Counter(wanted):
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
