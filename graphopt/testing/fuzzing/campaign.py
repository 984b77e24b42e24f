"""Many random graphs through all passes; what is found is shrunk to a small graph."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.graph import Graph
from graphopt.testing.fuzzing.check import COMPILED, Case, Examination, Finding, Tally
from graphopt.testing.fuzzing.graphs import random_graphs
from graphopt.testing.fuzzing.sketch import Motif

SEEDS = 100


@dataclass
class Campaign:
    """What came of a run: counts, and for each way of failing the smallest graph that shows it."""

    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """The counts in a few lines."""
        tally = self.tally
        lines = [
            f"{tally.graphs} graphs, of which {sum(tally.refused.values())} run in no engine, "
            f"{sum(tally.compared.values())} comparisons, {len(tally.fired)} rules applied, {self.seconds:.0f} s"
        ]
        lines += [f"  {count} {how}" for how, count in sorted(tally.compared.items())]
        lines += [f"{len(self.findings)} findings"]
        return "\n".join(lines)


def fuzz(
    cases: Sequence[Case],
    examples: int = 100,
    *,
    seed: int = 0,
    motifs: Sequence[Motif] = (),
    max_steps: int = 10,
    compiled: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Campaign:
    """Checks ``cases`` on random graphs, the same ones for the same arguments.

    Each graph is made and evaluated once for all cases. Then each way in which a case failed is searched
    for again and shrunk.

    Args:
        cases: what to check.
        examples: how many graphs.
        seed: of the graphs.
        motifs: see :func:`~graphopt.testing.random_graphs`.
        compiled: also compile each graph after O2 for this machine, and run it; a second or so for each.
        progress: called with the number of graphs done.
    """
    campaign = Campaign()
    start = time.perf_counter()
    failed: dict[tuple[Case, str], Finding] = {}

    def examine(graph: Graph, number: int) -> None:
        examination = Examination(graph, number, tally=campaign.tally)
        for case in [*cases, Case(COMPILED)] if compiled else cases:
            found = _checked(examination, case)
            if found is not None:
                failed.setdefault((case, found.kind), found)
        if progress is not None:
            progress(campaign.tally.graphs)

    with _quiet():
        _run(examine, examples, seed, motifs, max_steps, shrink=False)
        for (case, kind), found in failed.items():
            campaign.findings.append(_smallest(found, case, kind, examples, seed, motifs, max_steps))
    campaign.seconds = time.perf_counter() - start
    return campaign


def _checked(examination: Examination, case: Case) -> Finding | None:
    return examination.compiled() if case.text == COMPILED else examination.check(case)


class _Found(AssertionError):
    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


def _smallest(
    found: Finding, case: Case, kind: str, examples: int, seed: int, motifs: Sequence[Motif], max_steps: int
) -> Finding:
    smallest = found

    def again(graph: Graph, number: int) -> None:
        nonlocal smallest
        finding = _checked(Examination(graph, number), case)
        if finding is not None and finding.kind == kind:
            if _size(graph) <= _size(smallest.graph):
                smallest = finding
            raise _Found(finding)

    # Not found again, it stands as it is.
    with contextlib.suppress(_Found):
        _run(again, examples, seed, motifs, max_steps, shrink=True)
    return smallest


def _size(graph: Graph) -> int:
    return sum(1 for _ in graph.walk())


def _run(
    examine: Callable[[Graph, int], None],
    examples: int,
    seed: int,
    motifs: Sequence[Motif],
    max_steps: int,
    *,
    shrink: bool,
) -> None:
    import hypothesis
    from hypothesis import strategies as st

    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])]
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    graphs = random_graphs(motifs=motifs, max_steps=max_steps)
    test: Any = hypothesis.given(graphs, st.integers(0, SEEDS - 1))(examine)
    settings(hypothesis.seed(seed)(test))()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Engines and passes warn of the numbers that are meant to be awkward."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        logging.disable(before)
