"""`make bench`: eleven golden models in graphopt and in other engines, with inputs that suit them.

`python -m golden_models.bench [MODEL...]` takes the options of `graphopt bench`; shapes are fixed, for
every engine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from golden_models import MODELS, FetchError, example_inputs, path
from graphopt.cli.bench_command import Settings, measure, prepare, settings_options
from graphopt.cli.options import kernel_error_option
from graphopt.errors import GraphoptError

# Each with the sizes of its free dimensions.
MEASURED: dict[str, dict[str, int]] = {
    "ppocr-rec": {"batch": 1, "width": 320},
    "minilm-int8": {"batch": 1, "sequence": 128},
    "ddddocr": {"width": 160},
    "magika": {"batch": 1},
    "ppocr-cls": {"batch": 1, "width": 192},
    "light-squeezenet": {},
    "light-resnet50": {},
    "light-shufflenet": {},
    "light-densenet121": {},
    "light-inception_v2": {},
    "light-vgg19": {},
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("names", nargs=-1, metavar="[MODEL...]")
@click.option("-p", "--pipeline", default="O2", help="Passes.")
@kernel_error_option
@settings_options
def main(
    names: tuple[str, ...],
    pipeline: str,
    kernel_error: float | None,
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    seconds: float,
    html: Path | None,
    as_json: bool,
) -> None:
    """Time golden models (all eleven when none is named) compiled by graphopt beside other engines."""
    if unknown := [name for name in names if name not in MODELS]:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
            cases = []
            for name in names or MEASURED:
                folder = Path(scratch) / name
                folder.mkdir()
                inputs = example_inputs(name, **MEASURED.get(name, {}))
                shapes = {key: tuple(array.shape) for key, array in inputs.items()}
                cases.append(
                    prepare(
                        path(name), {}, shapes, inputs, folder, pipeline, name=name, kernel_error=kernel_error
                    )
                )
            measure(cases, Settings(engines, threads, rounds, seconds, as_json, html))
    except (FetchError, GraphoptError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m golden_models.bench")
