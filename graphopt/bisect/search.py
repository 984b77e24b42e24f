"""The search: graph passes first, then kernels, then the schedule of the guilty one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from graphopt.backend.artifact import Artifact
from graphopt.backend.compile import KERNEL_ERROR, compile_graph
from graphopt.bisect.kernels import KernelFault, Making, Reference, kernel_fault, makes_steps
from graphopt.bisect.pieces import detached
from graphopt.bisect.predicate import Model, Predicate
from graphopt.errors import EvaluationError, GraphoptError, InputError, TargetError
from graphopt.evaluate import Session, check_inputs
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.transaction import Transaction
from graphopt.pipeline import Context, Pipeline
from graphopt.pipeline.instruments import Instrument, PassRun
from graphopt.pipeline.numeric import Recorder, checker_of
from graphopt.targets import Target
from graphopt.verify.distance import Distance, compare
from graphopt.verify.fault import NumericFault, Rewrite
from graphopt.verify.locate import described, first_bad
from graphopt.verify.tolerance import Effect

Progress = Callable[[int, int, str], None]
Stage = Literal["pass", "kernel", "assembly"]


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    Attributes:
        stage: ``pass``: a rewrite of a pass; ``kernel``: a kernel of the artifact; ``assembly``: every kernel is
            right, and what calls them is not.
        error: the located fault, with all that is known of it.
    """

    stage: Stage
    error: GraphoptError

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        known = (NumericFault, PredicateFault, KernelFault)
        detail = self.error.as_dict() if isinstance(self.error, known) else {}
        return {"stage": self.stage, "message": self.error.message, **detail}


class PredicateFault(GraphoptError):
    """A rewrite after which the user's predicate is no longer content.

    Attributes:
        pass_name: the pass that made it.
        pass_index: its place in the pipeline.
        fuel: rewrites of the whole pipeline up to it, itself included.
        rewrite: what it did.
    """

    def __init__(self, predicate: str, pass_name: str, pass_index: int, fuel: int, rewrite: Rewrite) -> None:
        self.pass_name, self.pass_index, self.fuel, self.rewrite = pass_name, pass_index, fuel, rewrite
        lines = [
            f'pass "{pass_name}": rewrite {rewrite.index}, rule "{rewrite.rule}"'
            f"{f' at {rewrite.root}' if rewrite.root else ''}, is the first after which {predicate} says that the "
            "model is not good. It made of",
            *(f"    {line}" for line in rewrite.before or ("(nothing)",)),
            "this:",
            *(f"    {line}" for line in rewrite.after or ("(nothing)",)),
        ]
        super().__init__("\n".join(lines), hint=f"graphopt opt --fuel {fuel - 1} stops right before it")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pass": self.pass_name, "pass_index": self.pass_index, "fuel": self.fuel,
            "rewrite": {
                "index": self.rewrite.index, "rule": self.rewrite.rule, "root": self.rewrite.root,
                "before": list(self.rewrite.before), "after": list(self.rewrite.after),
            },
        }  # fmt: skip


def bisect(
    graph: Graph,
    pipeline: str | Pipeline,
    target: Target | None,
    *,
    inputs: Sequence[Mapping[str, Any]] = (),
    predicate: Predicate | None = None,
    kernel_error: float = KERNEL_ERROR,
    progress: Progress = lambda done, total, step: None,
) -> Finding | None:
    """What makes the compiled model wrong; None where nothing does.

    Args:
        graph: as it was read; it does not change.
        pipeline: the passes, or their text.
        target: what to compile for; None: only the passes are looked at.
        inputs: samples; generated when there are none.
        predicate: decides instead of numeric differences.
        kernel_error: as in :func:`graphopt.compile`.
        progress: called with (steps done, steps in all, what comes next).

    Raises:
        InputError: the samples don't fit, the predicate fails, contradicts itself, or is not content with the model
            as it is.
        EvaluationError: ONNX Runtime can't run the model.
        CompileError: it can't be compiled.
        TargetError: this machine can't run code for ``target``.
        PipelineError: the text is wrong.
    """
    parsed = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    search = _Search(parsed, str(pipeline), target, list(inputs), kernel_error, progress)
    return search.by_predicate(graph, predicate) if predicate is not None else search.by_numbers(graph)


@dataclass
class _Search:
    pipeline: Pipeline
    text: str
    target: Target | None
    inputs: list[Mapping[str, Any]]
    kernel_error: float
    progress: Progress

    def by_numbers(self, graph: Graph) -> Finding | None:
        samples = checker_of(graph, self.inputs).values.samples
        optimized = copy_graph(graph)
        context = Context(target=self.target, inputs=self.inputs)
        try:
            report = self.pipeline.run(optimized, context=context, verify="numeric", progress=self.progress)
        except NumericFault as fault:
            return Finding("pass", fault)
        for text in report.left_out:
            context.logger.warning("not compared: %s", text)
        if self.target is None:
            return None
        artifact = self._compiled(optimized)
        error = compiled_fault(
            optimized, self.target, artifact, samples, kernel_error=self.kernel_error, progress=self.progress,
            every_kernel=True, pipeline=self.text,
        )  # fmt: skip
        return (
            None
            if error is None
            else Finding("kernel" if isinstance(error, KernelFault) else "assembly", error)
        )

    def _compiled(self, graph: Graph) -> Artifact:
        assert self.target is not None
        require_runnable(self.target)
        return compile_graph(graph, self.target, kernel_error=self.kernel_error, progress=self.progress)

    def by_predicate(self, graph: Graph, predicate: Predicate) -> Finding | None:
        def is_good(candidate: Graph) -> bool:
            return predicate.is_good(_model_of(candidate), _GraphFile(candidate))

        self.progress(0, 1, "the model as it is")
        if not is_good(graph):
            raise InputError(
                f"predicate {predicate.text} says that the model is not good as it is, before any pass",
                hint="nothing that graphopt does made it so; look at the predicate, or at its bound",
            )
        optimized, count, _ = self._run(graph, None)
        if not is_good(optimized):
            return Finding("pass", self._guilty_rewrite(graph, predicate.text, is_good, count))
        if self.target is None:
            return None
        artifact = self._compiled(optimized)
        with artifact.load(threads=1) as executable:
            names = [spec.name for spec in executable.outputs]

            def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
                return dict(zip(names, executable(dict(inputs)), strict=True))

            if predicate.is_good(run, _ArtifactFile(artifact)):
                return None
        return self._guilty_kernel(optimized, predicate)

    def _run(self, graph: Graph, fuel: int | None) -> tuple[Graph, int, _Last]:
        copy, last = copy_graph(graph), _Last()
        context = Context(target=self.target, inputs=self.inputs)
        report = self.pipeline.run(copy, context=context, fuel=fuel, verify="off", instruments=[last])
        return copy, report.rewrites, last

    def _guilty_rewrite(
        self, graph: Graph, text: str, is_good: Callable[[Graph], bool], count: int
    ) -> PredicateFault:
        steps = max(count, 1).bit_length() + 2
        tried = 0

        def is_bad(fuel: int) -> bool:
            nonlocal tried
            tried += 1
            self.progress(tried, steps, f"{fuel} of {count} rewrites")
            return not is_good(self._run(graph, fuel)[0])

        fuel = _first_surely_bad(count, is_bad, text)
        good = self._run(graph, fuel - 1)[0]
        _, _, last = self._run(graph, fuel)
        if last.transaction is None:
            raise _contradiction(text, f"the passes make {fuel} rewrites in one run and none in the next")
        return PredicateFault(text, last.pass_name, last.pass_index, fuel, described(last.transaction, good))

    def _guilty_kernel(self, graph: Graph, predicate: Predicate) -> Finding:
        """Compiles more and more of the graph, and leaves the rest to ONNX Runtime."""
        if predicate.runs_files:
            raise InputError(
                f"predicate {predicate.text!r} is content with the optimized model, and not with the artifact; a "
                "command can't be given a model of which a part only is compiled",
                hint="write it as FILE.py:FUNCTION to find the kernel",
            )
        nodes = graph.nodes
        tried = 0

        def is_bad(count: int) -> bool:
            nonlocal tried
            tried += 1
            self.progress(tried, len(nodes).bit_length(), f"{count} of {len(nodes)} regions compiled")
            assert self.target is not None
            model = half_compiled(graph, nodes[:count], self.target, self.kernel_error)
            return not predicate.is_good(model, _GraphFile(graph))

        guilty = nodes[first_bad(len(nodes), is_bad) - 1]
        return Finding("kernel", GraphoptError(
            f"region {guilty.label} is the first that, compiled, makes {predicate.text} say that the model is not good",
            hint="without --predicate, bisect compares the kernel with ONNX Runtime by itself",
        ))  # fmt: skip


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


def half_compiled(graph: Graph, nodes: Sequence[Node], target: Target, kernel_error: float) -> Model:
    """A model whose first ``nodes`` are compiled, and whose others ONNX Runtime runs."""
    first = detached(graph, [nodes])
    chosen = set(nodes)
    rest = [node for node in graph.body if node not in chosen]
    second = detached(graph, [rest]) if rest else None
    executable = compile_graph(first.graph, target, kernel_error=kernel_error).load(threads=1)
    session = Session(second.graph) if second is not None else None

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        own = check_inputs(graph.inputs, inputs)
        held = dict(zip(graph.inputs, (own.get(v.name) for v in graph.inputs), strict=True))
        made = executable(own)
        held.update({value: array for (value, _), array in zip(first.results, made, strict=True)})
        if second is not None and session is not None:
            border = {name: held[value] for value, name in second.names.items()}
            names = [value.name for value in second.graph.inputs]
            results = session.run({name: border[name] if name in border else own[name] for name in names})
            found = (results[name] for name in second.graph.output_names)
            held.update({value: array for (value, _), array in zip(second.results, found, strict=True)})
        outputs = zip(graph.output_names, graph.outputs, strict=True)
        return {name: held[value] if value in held else _constant(value) for name, value in outputs}

    return run


def _constant(value: Value) -> Any:
    assert value.const is not None
    return value.const.numpy()


def require_runnable(target: Target) -> None:
    """Makes sure that this machine runs code for ``target``.

    Raises:
        TargetError: it does not.
    """
    from graphopt.targets.host import host_machine, missing_features

    if target.kind != "llvm" or target.triple.partition("-")[0] != host_machine():
        raise TargetError(f"this machine can't run code for {target}, so its numbers can't be compared")
    missing = missing_features(target.required_features)
    if missing:
        raise TargetError(f"this CPU lacks {', '.join(missing)}, which code for {target} needs")


def compiled_fault(
    graph: Graph,
    target: Target,
    artifact: Artifact,
    samples: Sequence[Mapping[str, Any]],
    *,
    kernel_error: float = KERNEL_ERROR,
    choices: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    every_kernel: bool = False,
    pipeline: str = "O2",
    progress: Progress = lambda done, total, step: None,
) -> GraphoptError | None:
    """What is wrong with an artifact, by the numbers of ONNX Runtime for the graph that it was made of.

    The artifact's outputs are compared; when they differ, or with ``every_kernel`` in any case, each kernel
    by itself.

    Returns:
        A :class:`~graphopt.bisect.kernels.KernelFault`, another error where no kernel alone is wrong, or None.

    Raises:
        EvaluationError: ONNX Runtime can't run the graph.
    """
    progress(0, 1, "the artifact")
    reference = Reference(graph, samples)
    wrong = _wrong_output(graph, artifact, reference)
    if wrong is None and not every_kernel:
        return None
    kernels = artifact.variants[0].kernels
    making = Making(target, kernel_error, choices)
    fault = kernel_fault(graph, making, reference, kernels=kernels, pipeline=pipeline, progress=progress)
    if fault is not None or wrong is None:
        return fault
    name, distance = wrong
    if any(makes_steps(node) for node in graph.walk()) and np.isfinite(distance.measured):
        return None  # A step of a rounding, made of the smallest difference before it.
    return GraphoptError(
        f'output "{name}" of the artifact differs by {distance.measured:.3g} of its largest value from ONNX Runtime '
        f"({distance.detail}), though each kernel by itself is right; allowed: {distance.tolerance.reason}",
        hint="the fault is in how kernels are called, or the model amplifies small errors: try real inputs, --inputs",
    )


def _wrong_output(graph: Graph, artifact: Artifact, reference: Reference) -> tuple[str, Distance] | None:
    with artifact.load(threads=1) as executable:
        for sample, inputs in enumerate(reference.samples):
            try:
                outputs = executable(dict(inputs))
            except InputError as error:
                raise EvaluationError(f"the artifact refuses sample {sample + 1}: {error.message}") from error
            for name, value, actual in zip(graph.output_names, graph.outputs, outputs, strict=True):
                expected = reference.of(value, sample)
                distance = compare(actual, expected, Effect.APPROXIMATE, reference.whole_path(value))
                if distance.is_fault:
                    return name, distance
    return None
