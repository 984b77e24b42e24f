"""Whether a whole artifact gives the numbers of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from graphopt.backend.artifact import Artifact
from graphopt.backend.compile import KERNEL_ERROR
from graphopt.bisect.kernels import Making, Reference, kernel_fault, makes_steps
from graphopt.errors import EvaluationError, GraphoptError, InputError, TargetError
from graphopt.ir.graph import Graph
from graphopt.pipeline.settings import Progress
from graphopt.targets import Target
from graphopt.verify.distance import Distance, compare
from graphopt.verify.tolerance import Effect


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
    pipeline: str = "O2",
    progress: Progress = lambda done, total, step: None,
) -> GraphoptError | None:
    """What is wrong with an artifact, by the numbers of ONNX Runtime for the graph that it was made of.

    The artifact's outputs are compared, and each kernel by itself only when they differ.

    Returns:
        A :class:`~graphopt.bisect.kernels.KernelFault`, another error where no kernel alone is wrong, or None.

    Raises:
        EvaluationError: ONNX Runtime can't run the graph.
    """
    progress(0, 1, "the artifact")
    reference = Reference(graph, samples)
    wrong = _wrong_output(graph, artifact, reference)
    if wrong is None:
        return None
    making = Making(target, kernel_error, choices)
    found = kernel_fault(graph, making, reference, pipeline=pipeline, progress=progress)
    return found or _unexplained(graph, wrong, making, reference, progress)


def assembly_fault(
    graph: Graph, making: Making, reference: Reference, progress: Progress
) -> GraphoptError | None:
    """What is wrong with the outputs of a whole artifact if each kernel by itself is right; None where nothing is.

    Raises:
        EvaluationError: ONNX Runtime can't run the graph, or the artifact refuses a sample.
    """
    wrong = _wrong_output(graph, making.compile(graph, progress), reference)
    return _unexplained(graph, wrong, making, reference, progress) if wrong is not None else None


def _unexplained(
    graph: Graph, wrong: tuple[str, Distance], making: Making, reference: Reference, progress: Progress
) -> GraphoptError | None:
    """The error of an output that differs though each kernel by itself is right."""
    name, distance = wrong
    apart = replace(making, memory_plan=False).compile(graph, progress)
    planned = _wrong_output(graph, apart, reference) is None
    if not planned and any(makes_steps(node) for node in graph.walk()) and np.isfinite(distance.measured):
        return None  # A step of a rounding, made of the smallest difference before it.
    reason = ". The memory plan is to blame: with memory of its own for every value it is right"
    hint = "the fault is in how kernels are called, or the model amplifies small errors: try real inputs, --inputs"
    return GraphoptError(
        f'output "{name}" of the artifact differs by {distance.measured:.3g} of its largest value from ONNX Runtime '
        f"({distance.detail}), though each kernel by itself is right; allowed: {distance.tolerance.reason}"
        f"{reason if planned else ''}",
        hint=None if planned else hint,
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
