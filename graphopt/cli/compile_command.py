"""``graphopt compile``"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import (
    json_option,
    model_options,
    pipeline_options,
    read_model,
    read_samples,
    reproducing,
    say_unused_samples,
)
from graphopt.cli.output import counted, human_bytes, print_json, progress

if TYPE_CHECKING:
    from graphopt.backend.artifact import Artifact
    from graphopt.ir.graph import Graph
    from graphopt.ir.tensor import Array
    from graphopt.pipeline.pipeline import Verify
    from graphopt.targets import Target


@click.command("compile")
@model_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="NAME.gopt",
    help="The artifact, a directory.",
)
@click.option(
    "-t", "--target", "targets", multiple=True, default=("native",), show_default="native",
    help="native, x86-64-v3, x86-64-v4, an LLVM CPU name, aarch64[:cpu], or cuda:sm_80 and the like. Give it more "
    "than once for code for several, of which a machine runs the best that it can.",
)  # fmt: skip
@click.option(
    "--winograd-error", type=click.FloatRange(min=0), default=None, show_default="5e-5", metavar="BOUND",
    help="What fast convolution (Winograd) may add to a convolution's error, relative to its largest output; 0: off.",
)  # fmt: skip
@pipeline_options
@json_option
def command(
    model: Path,
    output: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    targets: tuple[str, ...],
    winograd_error: float | None,
    pipeline: str,
    verify: Verify,
    data: Path | None,
    plugins: tuple[Path, ...],
    reproducer: Path | None,
    as_json: bool,
) -> None:
    """Compile MODEL ahead of time into the artifact OUTPUT."""
    from graphopt.api import file_sha256
    from graphopt.backend.compile import WINOGRAD_ERROR, compile_graph
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Context, Pipeline
    from graphopt.targets import Target

    parsed, resolved = Pipeline.parse(pipeline), [Target.parse(target) for target in targets]
    samples = read_samples(data)
    started = time.perf_counter()
    say_unused_samples(parsed, data, verify)
    imported = read_model(model, dims, input_shapes)
    source = file_sha256(model)
    artifact: Artifact | None = None
    checked = _samples_to_check(imported, samples) if verify == "numeric" else []
    for target in resolved:
        graph = imported if target is resolved[-1] else copy_graph(imported)
        with progress("optimizing") as step, reproducing(reproducer or output.with_suffix(".fault")):
            parsed.run(graph, context=Context(target=target, inputs=samples), verify=verify, progress=step)
        with progress("compiling") as step:
            compiled = compile_graph(
                graph,
                target,
                source_sha256=source,
                winograd_error=WINOGRAD_ERROR if winograd_error is None else winograd_error,
                progress=step,
            )
        if checked:
            with progress("verifying") as step, reproducing(reproducer or output.with_suffix(".fault")):
                _check(graph, target, compiled, checked, winograd_error, pipeline, step)
        artifact = compiled if artifact is None else artifact.with_variants_of(compiled)
    assert artifact is not None
    artifact.save(output)
    seconds = time.perf_counter() - started
    kernels = sum(len(variant.kernels) for variant in artifact.variants)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    if as_json:
        print_json(
            {
                "artifact": str(output),
                "targets": [variant.target for variant in artifact.variants],
                "kernels": kernels,
                "bytes": size,
                "seconds": seconds,
            }
        )
        return
    names = " and ".join(variant.target for variant in artifact.variants)
    click.echo(
        f"wrote {output}: {counted(kernels, 'kernel')} for {names}, {human_bytes(size)}, {seconds:.1f} s"
    )


def _samples_to_check(graph: Graph, samples: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Any]]:
    """Inputs on which the model runs, the user's or generated ones; none, with a word on stderr, where it can't."""
    from graphopt.errors import EvaluationError
    from graphopt.pipeline.numeric import checker_of

    try:
        return list(checker_of(graph, samples).values.samples)
    except EvaluationError as error:
        click.echo(f"not verified: {error.message}", err=True)
        return []


def _check(
    graph: Graph,
    target: Target,
    artifact: Artifact,
    samples: Sequence[Mapping[str, Any]],
    winograd_error: float | None,
    pipeline: str,
    step: Callable[[int, int, str], None],
) -> None:
    """Compares an artifact with ONNX Runtime, where this machine can run it.

    Raises:
        KernelFault: a kernel is wrong.
        GraphoptError: the outputs are, and no kernel by itself.
    """
    from graphopt.backend.compile import WINOGRAD_ERROR
    from graphopt.bisect.search import compiled_fault, require_runnable
    from graphopt.errors import TargetError

    try:
        require_runnable(target)
    except TargetError as error:
        click.echo(f"not verified: {error.message}", err=True)
        return
    bound = WINOGRAD_ERROR if winograd_error is None else winograd_error
    fault = compiled_fault(
        graph, target, artifact, samples, winograd_error=bound, pipeline=pipeline, progress=step
    )
    if fault is not None:
        raise fault
