"""``graphopt compile``"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import (
    FiniteRange,
    json_option,
    kernel_error_option,
    model_options,
    pass_limits,
    pipeline_options,
    read_model,
    report_option,
    reproducing,
    say_left_out,
    say_nothing_verified,
    say_unused_samples,
)
from graphopt.cli.output import (
    print_json,
    print_table,
    progress,
    require_own_page,
    require_writable_folder,
    short_target,
    write_text,
)
from graphopt.cli.samples import read_samples
from graphopt.units import counted, human_bytes

if TYPE_CHECKING:
    from graphopt.backend.artifact import Artifact
    from graphopt.ir.graph import Graph
    from graphopt.ir.tensor import Array
    from graphopt.pipeline import Instrument, Report
    from graphopt.pipeline.settings import Verify
    from graphopt.report import Run
    from graphopt.targets import Target
    from graphopt.tune import KernelResult, Tuned, Tuner


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
@kernel_error_option
@click.option(
    "--tune", type=FiniteRange(min=0, min_open=True), default=None, metavar="SECONDS",
    help="Search faster kernels for so long, for each target, by timing them on this machine.",
)  # fmt: skip
@click.option(
    "--tune-cache", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE",
    help="Use what tuning found before; with --tune, go on from there and keep it there. Without it, --tune keeps a "
    "file in the user's cache folder, and a compile without --tune reads none.",
)  # fmt: skip
@pipeline_options
@report_option
@json_option
def command(
    model: Path,
    output: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    targets: tuple[str, ...],
    kernel_error: float | None,
    tune: float | None,
    tune_cache: Path | None,
    pipeline: str,
    verify: Verify,
    data: Path | None,
    max_rewrites: int | None,
    pass_timeout: float | None,
    instruments: tuple[type[Instrument], ...],
    plugins: tuple[Path, ...],
    reproducer: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Compile MODEL ahead of time into the artifact OUTPUT."""
    from graphopt.api import file_sha256
    from graphopt.backend.artifact import check_name
    from graphopt.backend.compile import KERNEL_ERROR, compile_graph
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Context, Pipeline
    from graphopt.report import Build, Recording, Stages, html_page
    from graphopt.targets import Target
    from graphopt.tune import Tuner

    parsed, resolved = Pipeline.parse(pipeline), [Target.parse(target) for target in targets]
    _require_different(targets, resolved)
    check_name(output)
    require_writable_folder(output)
    require_own_page(page, output)
    tuner = Tuner(tune, tune_cache)
    tuner.check(resolved)
    samples = read_samples(data)
    started = time.perf_counter()
    say_unused_samples(parsed, data, verify)
    imported = read_model(model, dims, input_shapes)
    source = file_sha256(model)
    bound = KERNEL_ERROR if kernel_error is None else kernel_error
    artifact: Artifact | None = None
    tuned: list[Tuned] = []
    runs: list[Run] = []
    reports: list[Report] = []
    checked = _samples_to_check(imported, samples) if verify == "numeric" else []
    faults = reproducer or output.with_suffix(".fault")
    for target in resolved:
        graph = imported if target is resolved[-1] else copy_graph(imported)
        recording, stages = Recording(), Stages()
        with stages("optimizing"), progress("optimizing") as step, reproducing(faults):
            report = parsed.run(
                graph, context=Context(target=target, inputs=samples), verify=verify,
                limits=pass_limits(max_rewrites, pass_timeout),
                instruments=[*(kind() for kind in instruments), *([recording] if page else [])], progress=step,
            )  # fmt: skip
        reports.append(report)
        with stages("tuning"), progress("tuning") as step:
            found = tuner.tune(graph, target, kernel_error=bound, progress=step)
        tuned += [found] if found is not None else []
        with stages("compiling"), progress("compiling") as step:
            compiled = compile_graph(
                graph,
                target,
                source_sha256=source,
                kernel_error=bound,
                choices=tuner.choices,
                progress=step,
            )
        if checked:
            with stages("verifying"), progress("verifying") as step, reproducing(faults):
                _check(
                    graph, target, compiled, checked, kernel_error=bound, choices=tuner.choices,
                    pipeline=pipeline, progress=step,
                )  # fmt: skip
        if page is not None:
            runs.append(recording.run(report, Build.of(compiled, stages.seconds)))
        artifact = compiled if artifact is None else artifact.with_variants_of(compiled)
    say_left_out(*reports)
    assert artifact is not None
    artifact.save(output)
    seconds = time.perf_counter() - started
    if page is not None:
        write_text(page, html_page(model.name, runs, artifact=output))
    result = _result(artifact, output, seconds, tuner, tuned)
    if as_json:
        print_json(result)
        return
    _print_result(result, tuner, tuned)
    if page is not None:
        click.echo(f"wrote {page}")


def _require_different(targets: Sequence[str], resolved: Sequence[Target]) -> None:
    if len(set(resolved)) < len(resolved):
        twice = next(
            text for text, target in zip(targets, resolved, strict=True) if resolved.count(target) > 1
        )
        raise click.UsageError(f"the target {twice} is given twice")


def _result(
    artifact: Artifact, output: Path, seconds: float, tuner: Tuner, tuned: Sequence[Tuned]
) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "artifact": str(output),
        "targets": [variant.target for variant in artifact.variants],
        "kernels": sum(len(variant.kernels) for variant in artifact.variants),
        "bytes": sum(file.stat().st_size for file in output.rglob("*") if file.is_file()),
        "seconds": seconds,
        "tune_cache": None if tuner.path is None else str(tuner.path),
        "tuned": [found.as_dict() for found in tuned],
    }


def _print_result(result: Mapping[str, Any], tuner: Tuner, tuned: Sequence[Tuned]) -> None:
    for found in tuned:
        _print_tuned(found)
    if tuner.stale:
        click.echo(
            f"note: {counted(tuner.stale, 'kernel')} of another version of graphopt in {tuner.path} not used",
            err=True,
        )
    if tuned:
        click.echo(f"kept in {tuner.path}, for --tune-cache")
    targets = " and ".join(map(short_target, result["targets"]))
    click.echo(
        f"wrote {result['artifact']}: {counted(result['kernels'], 'kernel')} for {targets}, "
        f"{human_bytes(result['bytes'])}, {result['seconds']:.1f} s"
    )


def _samples_to_check(graph: Graph, samples: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Any]]:
    """Inputs on which the model runs, the user's or generated ones; none, with a word on stderr, where it can't."""
    from graphopt.errors import EvaluationError
    from graphopt.pipeline.numeric import checker_of

    try:
        return list(checker_of(graph, samples).values.samples)
    except EvaluationError as error:
        say_nothing_verified(error.message)
        return []


def _check(
    graph: Graph, target: Target, artifact: Artifact, samples: Sequence[Mapping[str, Any]], **options: Any
) -> None:
    """Compares an artifact with ONNX Runtime, where this machine can run it; ``options``: as ``compiled_fault``.

    Raises:
        KernelFault: a kernel is wrong.
        GraphoptError: the outputs are, and no kernel by itself.
    """
    from graphopt.bisect import compiled_fault, require_runnable
    from graphopt.errors import TargetError

    try:
        require_runnable(target)
    except TargetError as error:
        click.echo(f"not verified: {error.message}", err=True)
        return
    fault = compiled_fault(graph, target, artifact, samples, **options)
    if fault is not None:
        raise fault


def _print_tuned(found: Tuned) -> None:
    faster = sorted(
        (kernel for kernel in found.kernels if kernel.saved > 0), key=lambda kernel: -kernel.saved
    )
    if faster:
        print_table(
            "",
            ["kernel", "calls", "µs", "tuned µs", "gain", "chosen"],
            [_row(kernel) for kernel in faster],
            shorten=(0,),
        )
    notes = [
        f"{found.known} known before" if found.known else "",
        f"{found.symbolic} left as they are, their sizes are not fixed (--dim, --input)"
        if found.symbolic
        else "",
        f"{found.unfinished} not searched to the end" if found.unfinished else "",
    ]
    told = "".join(f"; {note}" for note in notes if note)
    if not found.kernels:
        click.echo(f"{short_target(found.target)}: no kernel to tune{told}")
        return
    before = sum(len(kernel.nodes) * kernel.analytic_seconds for kernel in found.kernels)
    saved = sum(kernel.saved for kernel in found.kernels)
    click.echo(
        f"{short_target(found.target)}: {len(faster)} of {counted(len(found.kernels), 'kernel')} made faster in "
        f"{found.seconds:.1f} s, all together {before * 1e6:.1f} µs to {(before - saved) * 1e6:.1f} µs{told}"
    )


def _row(kernel: KernelResult) -> list[str]:
    return [
        kernel.kernel,
        str(len(kernel.nodes)),
        f"{kernel.analytic_seconds * 1e6:.1f}",
        f"{kernel.tuned_seconds * 1e6:.1f}",
        f"{1 - kernel.tuned_seconds / kernel.analytic_seconds:.1%}",
        ", ".join(f"{knob} {kernel.analytic[knob]} to {option}" for knob, option in kernel.choices.items()),
    ]
