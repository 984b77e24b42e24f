"""Many random graphs through all passes; what fails is shrunk to a small graph."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph
from graphopt.ir.printer import print_graph
from graphopt.testing.fuzzing.check import COMPILED, Case, Examination, Finding, Tally
from graphopt.testing.fuzzing.choices import Recorder, Replay, shrink
from graphopt.testing.fuzzing.graphs import make_graph
from graphopt.testing.fuzzing.sketch import Motif
from graphopt.units import counted

_SEEDS = 100
_STRIDE = 1_000_003


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
            f"{tally.graphs} graphs, of which {sum(tally.refused.values())} run in no engine; "
            f"{sum(tally.compared.values())} comparisons; {len(tally.fired)} rules applied; {self.seconds:.0f} s"
        ]
        lines += [f"  {count} {how}" for how, count in sorted(tally.compared.items())]
        lines += [counted(len(self.findings), "finding")]
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

    Each graph is made and evaluated once for all cases. For each way in which a case failed, the first
    graph that shows it is shrunk.

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
    failed: dict[tuple[Case, str], tuple[Finding, list[int]]] = {}
    every = [*cases, Case(COMPILED)] if compiled else cases
    with _quiet():
        for number in range(examples):
            draw = Recorder(seed * _STRIDE + number)
            examination = Examination(
                make_graph(draw, max_steps=max_steps, motifs=motifs), number % _SEEDS, tally=campaign.tally
            )
            for case in every:
                if (found := _checked(examination, case)) is not None:
                    failed.setdefault((case, found.kind), (found, draw.drawn))
            if progress is not None:
                progress(number + 1)

        def remake(drawn: Sequence[int]) -> Graph:
            return make_graph(Replay(drawn), max_steps=max_steps, motifs=motifs)

        campaign.findings = [_smallest(found, drawn, remake) for found, drawn in failed.values()]
    campaign.seconds = time.perf_counter() - start
    return campaign


def _smallest(found: Finding, drawn: list[int], remake: Callable[[Sequence[int]], Graph]) -> Finding:
    """The finding on the smallest graph that shows the same."""
    if found.case.text == COMPILED:
        return found  # Shrinking would compile hundreds of graphs.
    smallest = found
    seen: set[str] = set()

    def fails(candidate: Sequence[int]) -> bool:
        nonlocal smallest
        graph = remake(candidate)
        text = print_graph(graph)
        if _size(graph) > _size(smallest.graph) or text in seen:
            return False
        seen.add(text)
        again = Examination(graph, found.seed).check(found.case)
        if again is None or again.kind != found.kind:
            return False
        smallest = again
        return True

    shrink(drawn, fails)
    return smallest


def _size(graph: Graph) -> int:
    return sum(1 for _ in graph.walk())


def _checked(examination: Examination, case: Case) -> Finding | None:
    return examination.compiled() if case.text == COMPILED else examination.check(case)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Engines and passes warn of the numbers that are meant to be awkward."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        logging.disable(before)
