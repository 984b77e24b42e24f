"""``graphopt bench``"""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.options import (
    F,
    inputs_option,
    json_option,
    kernel_error_option,
    plugin_option,
    read_model,
    shape_options,
)
from graphopt.cli.output import print_json, print_table, progress, require_writable, show_error, write_text
from graphopt.cli.samples import random_inputs, read_sample
from graphopt.errors import GraphoptError, ModelError
from graphopt.units import counted

if TYPE_CHECKING:
    from graphopt.bench import Comparison, EngineResult, Report
    from graphopt.ir.tensor import Array


@dataclass(frozen=True)
class Case:
    """A model to measure.

    Attributes:
        name: how reports call it.
        model: the ONNX file that the other engines load; None for an artifact alone.
        artifact: what graphopt loads.
        inputs: arrays by input name.
        fixed: whether the shapes of the inputs are fixed, for every engine.
        compile_seconds: how long compiling the artifact took.
    """

    name: str
    model: Path | None
    artifact: Path
    inputs: Mapping[str, Array]
    fixed: bool
    compile_seconds: float | None = None


@dataclass(frozen=True)
class Settings:
    """How cases are measured and reported."""

    engines: tuple[str, ...]
    threads: tuple[int, ...]
    rounds: int
    seconds: float
    as_json: bool
    html: Path | None


def _parse_threads(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1024 for part in parts):
        raise click.BadParameter(f"{text!r} is not one number of threads or several, such as 1,2")
    return tuple(dict.fromkeys(map(int, parts)))


def _parse_engines(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        from graphopt.bench.engines import DEFAULT

        return DEFAULT
    from graphopt.bench import engines

    known = [name for name, engine in engines().items() if engine.reads == "onnx"]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no engine {name!r}; there are {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def settings_options(function: F) -> F:
    """``--engine --threads --rounds --seconds --html --json``, as the parameters of :class:`Settings`."""
    function = json_option(function)
    for option in (
        click.option(
            "--html", type=click.Path(path_type=Path), metavar="PAGE.html",
            help="Write tables and plots as a page of their own.",
        ),
        click.option(
            "--seconds", type=click.FloatRange(min=0, min_open=True), default=0.3, help="Length of one measurement."
        ),
        click.option(
            "--rounds", type=click.IntRange(min=1), default=7, help="How many times each engine is measured."
        ),
        click.option(
            "--threads", default="1", callback=_parse_threads, metavar="N,...",
            help="Threads of each engine; several numbers are measured one after the other.",
        ),
        click.option(
            "--engine", "engines", multiple=True, callback=_parse_engines, metavar="NAME",
            help="Beside graphopt: onnxruntime, openvino, tvm (unscheduled, about 100 times slower). Repeatable."
            "  [default: onnxruntime, openvino]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("bench")
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL_OR_ARTIFACT..."
)
@shape_options
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    metavar="NAME.gopt",
    help="The artifact of the one MODEL; compiled for this machine when not given.",
)
@click.option("-p", "--pipeline", help="Passes, when it is compiled here.  [default: O2]")
@inputs_option("Inputs; generated where missing.")
@kernel_error_option
@settings_options
@plugin_option
def command(
    models: tuple[Path, ...],
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    artifact: Path | None,
    pipeline: str | None,
    data: Path | None,
    kernel_error: float | None,
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    seconds: float,
    html: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Time models compiled by graphopt beside other engines.

    Each engine has a process of its own and is alone while it is timed, in alternating rounds.
    The ratio is an engine's time by that of the fastest other engine, the median over rounds:
    below 1 it is the fastest. The error is the distance from ONNX Runtime with its optimizations off.

    Shapes fixed by --dim or --input are fixed for every engine. An artifact by itself is timed alone.
    """
    if artifact is not None:
        if pipeline is not None or kernel_error is not None:
            what = "--pipeline" if pipeline is not None else "--kernel-error"
            raise click.UsageError(f"{what} is for compiling here; --artifact is compiled already")
        if len(models) > 1:
            raise click.UsageError("--artifact goes with one MODEL")
    if html is not None:
        require_writable(html)
    for model in models:
        if not model.exists():
            raise ModelError(f"{model}: there is no such file")
    arrays = read_sample(data) if data else {}
    settings = Settings(engines, threads, rounds, seconds, as_json, html)
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        cases: list[Case] = []
        failed: list[GraphoptError] = []
        for index, model in enumerate(models):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            with _collecting(failed, str(model)):
                if (model / "manifest.json").is_file() and artifact is None:
                    cases.append(_artifact_case(model, dims, arrays))
                else:
                    cases.append(
                        prepare(
                            model, dims, input_shapes, arrays, folder, pipeline, artifact, kernel_error=kernel_error
                        )
                    )  # fmt: skip
        measure(cases, settings, failed)


@contextlib.contextmanager
def _collecting(failed: list[GraphoptError], name: str) -> Iterator[None]:
    """Keeps what is wrong with one model for the report, so that the others are measured all the same."""
    try:
        yield
    except GraphoptError as error:
        if Path(name).name not in error.message:
            error.message = f"{name}: {error.message}"
        failed.append(error)


def prepare(
    model: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    data: Mapping[str, Array],
    folder: Path,
    pipeline: str | None = None,
    artifact: Path | None = None,
    *,
    name: str | None = None,
    kernel_error: float | None = None,
) -> Case:
    """A case of a model, which is compiled into ``folder`` unless its artifact is given.

    Raises:
        InputError: ``data`` doesn't fit the model's inputs.
        GraphoptError: it can't be read or compiled.
    """
    from graphopt import api
    from graphopt.evaluate import check_inputs, example_inputs
    from graphopt.runtime.executable import refuse_model

    if artifact is not None:
        refuse_model(artifact)
    started = time.perf_counter()
    graph = read_model(model, dims, input_shapes)
    inputs = {**example_inputs(graph, dims=dict(dims)), **data}
    check_inputs(graph.inputs, inputs)
    onnx_file, seconds = model, None
    if model.suffix == ".gir":
        onnx_file = folder / "model.onnx"
        api.save(graph, onnx_file)
    if artifact is None:
        artifact = folder / "model.gopt"
        with progress(f"compiling {name or model.name}"):
            graph = api.optimize(graph, pipeline or "O2", target="native")
            api.compile(graph, "native", source=model, kernel_error=kernel_error).save(artifact)
        seconds = time.perf_counter() - started
    fixed = bool(dims or input_shapes) or all(
        isinstance(dim, int) for value in graph.inputs for dim in value.tensor.shape or ()
    )
    return Case(name or model.name, onnx_file, artifact, inputs, fixed, seconds)


def _artifact_case(artifact: Path, dims: Mapping[str, int], data: Mapping[str, Array]) -> Case:
    from graphopt.runtime.manifest import read

    inputs = random_inputs(read(artifact).inputs, 0, dims, data)
    return Case(artifact.name, None, artifact, inputs, fixed=False)


def measure(cases: Sequence[Case], settings: Settings, failed: Sequence[GraphoptError] = ()) -> None:
    """Measures all cases with all numbers of threads, and prints and writes the report.

    Args:
        failed: what is wrong with models that are no cases; more is found where graphopt can't run one.

    Raises:
        GraphoptError: nothing could be measured.
    """
    from graphopt.bench import Report, compare, html_page

    comparisons: list[Comparison] = []
    failed = list(failed)
    for case in cases:
        others = settings.engines if case.model is not None else ()
        files = {"graphopt": case.artifact, **{name: case.model for name in others if case.model}}
        for threads in settings.threads:
            before = len(failed)
            with (
                _collecting(failed, case.name),
                progress(f"{case.name}, {counted(threads, 'thread')}") as step,
            ):
                compared = compare(
                    files, case.inputs, name=case.name, threads=threads, rounds=settings.rounds,
                    seconds=settings.seconds, reference=case.model, fixed=case.fixed, progress=step,
                )  # fmt: skip
            if len(failed) > before:
                continue
            compared.results[0].compile_seconds = case.compile_seconds
            comparisons.append(compared)
            if len(cases) * len(settings.threads) > 1:
                click.echo(f"measured {case.name} with {counted(threads, 'thread')}", err=True)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if not comparisons:
        for error in failed[:-1]:
            show_error(error)
        raise failed[-1]
    report = Report(
        comparisons, command, settings.rounds, settings.seconds, failed=[str(error) for error in failed]
    )
    if settings.html is not None:
        write_text(settings.html, html_page(report))
    if settings.as_json:
        print_json(report.as_dict())
        return
    _print(report)


_COLUMNS = ("engine", "ms", "spread", "ratio", "error", "load", "compile", "memory", "disk")


def _print(report: Report) -> None:
    for threads in report.threads:
        rows, notes = [], []
        for comparison in report.of_threads(threads):
            rows.append([comparison.model, *[""] * (len(_COLUMNS) - 1)])
            for result in comparison.results:
                if result.note:
                    notes.append(f"{comparison.model}: {result.title}: {result.note}")
                    continue
                if result.lower_precision:
                    notes.append(
                        f"{comparison.model}: {result.title} answers in lower precision; not compared"
                    )
                rows.append(_cells(comparison, result))
        print_table(
            f"{counted(threads, 'thread')}; load in ms, compile in s, memory and disk in MB",
            list(_COLUMNS),
            rows,
        )
        for note in notes:
            click.echo(note)
        mean = report.mean_ratio("graphopt", threads)
        if mean is not None:
            several = ", geometric mean" if len(report.of_threads(threads)) > 1 else ""
            click.echo(f"graphopt by the fastest other engine: {mean:.2f}{several}")
        click.echo()
    for text in report.failed:
        click.echo(f"not measured: {text}")


def _cells(comparison: Comparison, result: EngineResult) -> list[str]:
    ratio = comparison.ratio(result.engine)
    return [
        f"  {result.title}",
        _digits(result.median),
        f"{result.spread:.0%}",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if result.max_error is None else f"{result.max_error:.0e}",
        f"{result.load_seconds * 1e3:.0f}",
        "" if result.compile_seconds is None else f"{result.compile_seconds:.1f}",
        f"{result.peak_bytes / 1e6:.1f}",
        f"{result.disk_bytes / 1e6:.1f}",
    ]


def _digits(number: float) -> str:
    """Three or four digits that count."""
    return f"{number:.3f}" if number < 10 else f"{number:.2f}" if number < 100 else f"{number:.1f}"
