"""``graphopt bisect``"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.options import (
    json_option,
    kernel_error_option,
    model_options,
    plugin_option,
    read_model,
    reproducer_option,
    reproducing,
    samples_option,
)
from graphopt.cli.output import print_json, progress
from graphopt.cli.samples import read_samples

if TYPE_CHECKING:
    from graphopt.bisect import Finding

FOUND = 1


@click.command("bisect")
@model_options
@click.argument("pipeline", default="O2")
@click.option(
    "-t", "--target", default="native",
    help="What to compile for; this machine must run it. none: only the passes are looked at.",
)  # fmt: skip
@click.option(
    "--predicate", metavar="FILE.py:FUNCTION|COMMAND",
    help="What says whether a model is good, instead of numeric differences. The function gets the model, which it "
    "calls with a dict of arrays by input name, and returns True or False. The command gets a file, "
    ".onnx or .gopt ({} in it, else its last argument), and says so by exit code 0 or another. Runs code.",
)  # fmt: skip
@kernel_error_option
@samples_option
@reproducer_option("MODEL's name, .fault")
@plugin_option
@json_option
def command(
    model: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    pipeline: str,
    target: str,
    predicate: str | None,
    kernel_error: float | None,
    data: Path | None,
    reproducer: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Find what makes MODEL, compiled through PIPELINE, give other numbers than ONNX Runtime.

    First the passes, down to the single rewrite; then each kernel against ONNX Runtime on the same inputs; then
    the guilty kernel against plainer forms of itself, which tells its schedule from its lowering.

    Exit codes: 0 nothing is wrong, 1 something is and was found, 2 it can't be said.
    """
    from graphopt.backend.compile import KERNEL_ERROR
    from graphopt.bisect import bisect
    from graphopt.bisect.predicate import predicate_of
    from graphopt.pipeline import Pipeline
    from graphopt.targets import Target

    Pipeline.parse(pipeline)  # a wrong text is told before anything is read
    resolved = None if target == "none" else Target.parse(target)
    decides = predicate_of(predicate) if predicate is not None else None
    samples = read_samples(data)
    graph = read_model(model, dims, input_shapes)
    with progress("searching") as step:
        found = bisect(
            graph, pipeline, resolved, inputs=samples, predicate=decides,
            kernel_error=KERNEL_ERROR if kernel_error is None else kernel_error, progress=step,
        )  # fmt: skip
    if found is not None:
        # Its hint is set when the reproducer is written.
        with contextlib.suppress(type(found.error)), reproducing(reproducer or Path(f"{model.stem}.fault")):
            raise found.error
    _say(found, decides.text if decides else "", resolved is not None, as_json)
    if found is not None:
        sys.stdout.flush()
        raise click.exceptions.Exit(FOUND)


def _say(found: Finding | None, predicate: str, compiled: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {"found": found is not None, **({"hint": found.error.hint, **found.as_dict()} if found else {})}
        )
        return
    if found is None:
        what = "the passes and all kernels are right" if compiled else "the passes are right"
        click.echo(f"nothing found: {f'{predicate} is content' if predicate else what}")
        return
    title = {"pass": "a rewrite", "kernel": "a kernel", "assembly": "the artifact"}[found.stage]
    click.secho(f"found in {title}", bold=True)
    click.echo(found.error.message)
    if found.error.hint:
        click.echo(f"\n{found.error.hint}")
