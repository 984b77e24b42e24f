"""``graphopt bench``"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from graphopt.cli.options import json_option, model_options, plugin_option, read_arrays, read_model
from graphopt.cli.output import counted, print_json, print_table, progress


@click.command("bench")
@model_options
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    metavar="NAME.gopt",
    help="The artifact of MODEL; compiled for this machine when not given.",
)
@click.option("-p", "--pipeline", help="Passes, when it is compiled here.  [default: O2]")
@click.option(
    "-i",
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Inputs; generated where missing.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of each engine.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    help="How many times each engine is measured, for 0.3 s.",
)
@plugin_option
@json_option
def command(
    model: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    artifact: Path | None,
    pipeline: str | None,
    data: Path | None,
    threads: int,
    rounds: int,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Time MODEL compiled by graphopt beside the same model in ONNX Runtime.

    Each engine has a process of its own and is alone while it is timed, in alternating rounds.
    The ratio is the median over rounds of graphopt's time by ONNX Runtime's: below 1 is faster.
    """
    from graphopt import api
    from graphopt.bench import compare
    from graphopt.evaluate import check_inputs, example_inputs
    from graphopt.runtime.executable import refuse_model

    if artifact is not None:
        if pipeline is not None:
            raise click.UsageError("--pipeline is for compiling here; --artifact is compiled already")
        refuse_model(artifact)
    graph = read_model(model, dims, input_shapes)
    inputs = {**example_inputs(graph, dims=dict(dims)), **(read_arrays(data) if data else {})}
    check_inputs(graph.inputs, inputs)
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
        onnx_file = model
        if model.suffix == ".gir":
            onnx_file = Path(folder) / "model.onnx"
            api.save(graph, onnx_file)
        if artifact is None:
            artifact = Path(folder) / "model.gopt"
            with progress("compiling"):
                api.compile(api.optimize(graph, pipeline or "O2", target="native"), "native").save(artifact)
        with progress("measuring") as step:
            comparison = compare(
                {"graphopt": artifact, "onnxruntime": onnx_file},
                inputs, threads=threads, rounds=rounds, progress=step,
            )  # fmt: skip
    if as_json:
        print_json(comparison.as_dict())
        return
    rows = [
        [r.engine, f"{r.median:.3f}", f"{r.spread:.0%}", f"{r.load_seconds * 1e3:.0f}"]
        for r in comparison.results
    ]
    print_table(f"{model.name}, {counted(threads, 'thread')}", ["engine", "ms", "spread", "load ms"], rows)
    click.echo(
        f"ratio {comparison.ratio:.2f}, largest difference {comparison.max_error:.1e} of the largest output"
    )
