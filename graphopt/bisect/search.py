"""The search: graph passes first, then kernels, then the schedule of the guilty one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.backend.compile import KERNEL_ERROR
from graphopt.bisect.artifact import assembly_fault, require_runnable
from graphopt.bisect.finding import Finding
from graphopt.bisect.judged import PredicateSearch
from graphopt.bisect.kernels import Making, Reference, kernel_fault
from graphopt.bisect.predicate import Predicate
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph
from graphopt.pipeline import Context, Pipeline
from graphopt.pipeline.numeric import checker_of
from graphopt.pipeline.settings import Progress
from graphopt.targets import Target
from graphopt.verify.fault import NumericFault


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
    if predicate is not None:
        return PredicateSearch(predicate, parsed, target, inputs, kernel_error, progress).run(graph)
    return _by_numbers(graph, parsed, str(pipeline), target, inputs, kernel_error, progress)


def _by_numbers(
    graph: Graph,
    pipeline: Pipeline,
    text: str,
    target: Target | None,
    inputs: Sequence[Mapping[str, Any]],
    kernel_error: float,
    progress: Progress,
) -> Finding | None:
    samples = checker_of(graph, inputs).values.samples
    optimized = copy_graph(graph)
    context = Context(target=target, inputs=inputs)
    try:
        report = pipeline.run(optimized, context=context, verify="numeric", progress=progress)
    except NumericFault as fault:
        return Finding("pass", fault)
    for left_out in report.left_out:
        context.logger.warning("not compared: %s", left_out)
    if target is None:
        return None
    require_runnable(target)
    making, reference = Making(target, kernel_error), Reference(optimized, samples)
    # The kernels by themselves first: where one is wrong, what is made of them need not be compiled.
    found = kernel_fault(optimized, making, reference, pipeline=text, progress=progress)
    if found is not None:
        return Finding("kernel", found)
    error = assembly_fault(optimized, making, reference, progress)
    return Finding("assembly", error) if error is not None else None
