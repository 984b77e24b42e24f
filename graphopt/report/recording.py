"""What a page is made of, kept while passes run and code is built."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph
from graphopt.pipeline import Instrument, PassRun, Report

if TYPE_CHECKING:
    from graphopt.backend.artifact import Artifact
    from graphopt.runtime.manifest import Variant


@dataclass(frozen=True, slots=True)
class Build:
    """Code for one target.

    Attributes:
        variant: its kernels and memory.
        code_bytes, weight_bytes: what it adds to an artifact.
        seconds: what each stage took, by its name.
    """

    variant: Variant
    code_bytes: int
    weight_bytes: int
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, artifact: Artifact, seconds: Mapping[str, float]) -> Build:
        """The build of an artifact for a single target."""
        (variant,) = artifact.variants
        return cls(variant, artifact.code_bytes, artifact.weight_bytes, seconds)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a pipeline on one graph.

    Attributes:
        before, after: the graph; ``after`` is the one that the passes worked on.
        flops: arithmetic operations of the graph after each pass, by the pass's index, -1 before the first;
            None where sizes depend on data.
        sizes: the numbers that were taken for symbolic dimensions to count them.
        build: the code that was made of it, if any.
    """

    report: Report
    before: Graph
    after: Graph
    flops: Mapping[int, int | None] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    build: Build | None = None


class Recording(Instrument):
    """Keeps the graph before the first pass, and counts arithmetic after each."""

    def __init__(self) -> None:
        self._before: Graph | None = None
        self._after: Graph | None = None
        self._sizes: dict[str, int] = {}
        self._flops: dict[int, int | None] = {}
        self._current: int | None = None

    def begin(self, graph: Graph) -> None:
        from graphopt.ir.builder import copy_graph

        self._before, self._after = copy_graph(graph), graph
        self._sizes = _sizes(graph)
        self._current = self._flops[-1] = self._count(graph)

    def after(self, run: PassRun) -> None:
        if run.row.rewrites:
            self._current = self._count(run.graph)
        self._flops[run.row.index] = self._current

    def run(self, report: Report, build: Build | None = None) -> Run:
        """What was recorded, with the pipeline's own report."""
        assert self._before is not None and self._after is not None, "no pipeline ran with this instrument"
        return Run(report, self._before, self._after, self._flops, self._sizes, build)

    def _count(self, graph: Graph) -> int | None:
        from graphopt.analysis import work

        taken = work(graph, self._sizes)
        return taken.flops if taken is not None else None


class Stages:
    """Times stages of a compilation: ``with stages("tuning"): ...``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _sizes(graph: Graph) -> dict[str, int]:
    """1 for every symbol in the inputs' shapes."""
    from graphopt.ir.dims import symbols
    from graphopt.ir.types import TensorType

    shapes = [value.type.shape or () for value in graph.inputs if isinstance(value.type, TensorType)]
    return {name: 1 for shape in shapes for dim in shape for name in symbols(dim)}
