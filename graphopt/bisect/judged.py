"""The search where the user's predicate says what is good: rewrites by their fuel, then kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.backend.artifact import Artifact
from graphopt.backend.compile import compile_graph
from graphopt.bisect.artifact import require_runnable
from graphopt.bisect.finding import Finding, PredicateFault, PredicateKernelFault
from graphopt.bisect.mixed import HalfScheduled, half_compiled
from graphopt.bisect.predicate import Model, Predicate
from graphopt.errors import InputError
from graphopt.evaluate import Session
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph
from graphopt.ir.transaction import Transaction
from graphopt.pipeline import Context, Pipeline
from graphopt.pipeline.instruments import Instrument, PassRun
from graphopt.pipeline.numeric import Recorder
from graphopt.pipeline.settings import Progress
from graphopt.targets import Target
from graphopt.verify.locate import described, first_bad


@dataclass(frozen=True)
class PredicateSearch:
    """Asks a predicate of more and more of what was done to a model; see :func:`graphopt.bisect.bisect`."""

    predicate: Predicate
    pipeline: Pipeline
    target: Target | None
    inputs: Sequence[Mapping[str, Any]]
    kernel_error: float
    progress: Progress

    def run(self, graph: Graph) -> Finding | None:
        """What the predicate is not content with; None where it is content with all."""
        self.progress(0, 1, "the model as it is")
        if not self._is_good(graph):
            raise InputError(
                f"predicate {self.predicate.text} says that the model is not good as it is, before any pass",
                hint="nothing that graphopt does made it so; look at the predicate, or at its bound",
            )
        optimized, count, _ = self._optimized(graph, None)
        if not self._is_good(optimized):
            return Finding("pass", self._guilty_rewrite(graph, count))
        if self.target is None:
            return None
        require_runnable(self.target)
        artifact = compile_graph(
            optimized, self.target, kernel_error=self.kernel_error, progress=self.progress
        )
        if self._is_good_compiled(artifact):
            return None
        guilty = self._guilty_schedule if self.predicate.runs_files else self._guilty_kernel
        return Finding("kernel", guilty(optimized, self.target, artifact))

    def _is_good(self, graph: Graph) -> bool:
        return self.predicate.is_good(_model_of(graph), _GraphFile(graph))

    def _is_good_compiled(self, artifact: Artifact) -> bool:
        with artifact.load(threads=1) as executable:
            names = [spec.name for spec in executable.outputs]

            def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
                return dict(zip(names, executable(dict(inputs)), strict=True))

            return self.predicate.is_good(run, _ArtifactFile(artifact))

    def _optimized(self, graph: Graph, fuel: int | None) -> tuple[Graph, int, _Last]:
        copy, last = copy_graph(graph), _Last()
        context = Context(target=self.target, inputs=self.inputs)
        report = self.pipeline.run(copy, context=context, fuel=fuel, verify="off", instruments=[last])
        return copy, report.rewrites, last

    def _guilty_rewrite(self, graph: Graph, count: int) -> PredicateFault:
        text = self.predicate.text
        steps = max(count, 1).bit_length() + 2
        tried = 0

        def is_bad(fuel: int) -> bool:
            nonlocal tried
            tried += 1
            self.progress(tried, steps, f"{fuel} of {count} rewrites")
            return not self._is_good(self._optimized(graph, fuel)[0])

        fuel = _first_surely_bad(count, is_bad, text)
        good = self._optimized(graph, fuel - 1)[0]
        _, _, last = self._optimized(graph, fuel)
        if last.transaction is None:
            raise _contradiction(text, f"the passes make {fuel} rewrites in one run and none in the next")
        return PredicateFault(text, last.pass_name, last.pass_index, fuel, described(last.transaction, good))

    def _guilty_kernel(self, graph: Graph, target: Target, artifact: Artifact) -> PredicateKernelFault:
        """Compiles more and more of the graph, and leaves the rest to ONNX Runtime."""
        nodes = graph.nodes
        counted = self._counted(len(nodes), "compiled")

        def is_bad(count: int) -> bool:
            counted(count)
            model = half_compiled(graph, nodes[:count], target, self.kernel_error)
            return not self.predicate.is_good(model, _GraphFile(graph))

        guilty = nodes[first_bad(len(nodes), is_bad) - 1]
        return PredicateKernelFault(
            self.predicate.text, guilty.label, _kernel_of(artifact, guilty.label), "kernel"
        )

    def _guilty_schedule(self, graph: Graph, target: Target, artifact: Artifact) -> PredicateKernelFault:
        """Leaves the schedule to more and more kernels; a file can't be left to ONNX Runtime in part."""
        halves = HalfScheduled.of(graph, target, self.kernel_error)
        nodes = halves.nodes
        counted = self._counted(len(nodes), "scheduled")

        def is_bad(count: int) -> bool:
            counted(count)
            return not self._is_good_compiled(halves.artifact(nodes[:count]))

        if is_bad(0):
            raise InputError(
                f"predicate {self.predicate.text!r} is content with the optimized model, and not with the artifact, nor "
                f"with one in which {len(nodes)} of {len(graph.nodes)} regions are loops without a schedule",
                hint="write it as FILE.py:FUNCTION to find the kernel",
            )
        guilty = nodes[first_bad(len(nodes), is_bad) - 1]
        return PredicateKernelFault(
            self.predicate.text, guilty.label, _kernel_of(artifact, guilty.label), "schedule"
        )

    def _counted(self, total: int, done: str) -> Callable[[int], None]:
        """What tells of each try."""
        tried = 0

        def count(regions: int) -> None:
            nonlocal tried
            tried += 1
            self.progress(tried, total.bit_length() + 1, f"{regions} of {total} regions {done}")

        return count


def _kernel_of(artifact: Artifact, region: str) -> str:
    return next((name for name, regions in artifact.variants[0].kernels.items() if region in regions), "")


def _first_surely_bad(count: int, is_bad: Callable[[int], bool], text: str) -> int:
    """:func:`first_bad` rewrite, after the predicate is asked again about it and the one before.

    Raises:
        InputError: it says something else than before.
    """
    if not count:
        raise _contradiction(
            text, "there is no rewrite, and the same model is good once and not the next time"
        )
    found = first_bad(count, is_bad)
    for fuel, expected in ((found - 1, False), (found, True)):
        if is_bad(fuel) != expected:
            first, then = ("not good", "good") if expected else ("good", "not good")
            what = f"{fuel} rewrite{'' if fuel == 1 else 's'}"
            raise _contradiction(text, f"with {what} the model is {first} once and {then} the next time")
    return found


def _contradiction(text: str, detail: str) -> InputError:
    return InputError(
        f"predicate {text} contradicts itself: {detail}",
        hint="it must say the same each time: no random inputs without a seed, no times, no state",
    )


class _Last(Instrument):
    """Remembers the last rewrite of a pipeline, and its pass."""

    def __init__(self) -> None:
        self.transaction: Transaction | None = None
        self.pass_name, self.pass_index = "", 0
        self._recorder = Recorder()

    def before(self, run: PassRun) -> None:
        self._recorder = Recorder()
        run.rewriter.listeners.append(self._recorder)

    def after(self, run: PassRun) -> None:
        if self._recorder.transactions:
            self.transaction = self._recorder.transactions[-1]
            self.pass_name, self.pass_index = run.pass_.name, run.row.index


class _GraphFile:
    suffix = ".onnx"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def save(self, path: Path) -> object:
        from graphopt import onnx_io

        onnx_io.save(self.graph, path)
        return path


class _ArtifactFile:
    suffix = ".gopt"

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def save(self, path: Path) -> object:
        return self.artifact.save(path)


def _model_of(graph: Graph) -> Model:
    session = Session(graph)
    return lambda inputs: session.run(inputs)
