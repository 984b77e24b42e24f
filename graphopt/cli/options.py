"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from graphopt.cli.output import end_process
from graphopt.errors import GraphoptError, ModelError

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.pipeline import Instrument, Limits, Pipeline, Report

F = TypeVar("F", bound=Callable[..., Any])


def parse_dims(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        if not separator or not name or not number.isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER, such as batch=1")
        if name in dims:
            raise click.BadParameter(f"{name} is given twice")
        dims[name] = int(number)
    return dims


def parse_shapes(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int | str, ...]]:
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, separator, shape = text.rpartition(":")
        if not separator or not name:
            raise click.BadParameter(f"{text!r} is not NAME:SHAPE, such as x:1x3x224x224")
        parts = shape.split("x") if shape else []
        if not all(part.isdecimal() or part.isidentifier() for part in parts):
            raise click.BadParameter(f"{shape!r} is not a shape such as 1x3x224x224 or batchx3x224x224")
        if name in shapes:
            raise click.BadParameter(f"{name} is given twice")
        shapes[name] = tuple(int(part) if part.isdecimal() else part for part in parts)
    return shapes


def load_plugins(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if paths:
        from graphopt.pipeline import load_plugin

        for path in paths:
            load_plugin(path)
    return paths


def find_instruments(
    ctx: click.Context, param: click.Parameter, names: tuple[str, ...]
) -> tuple[type[Instrument], ...]:
    if not names:
        return ()
    from graphopt.pipeline.registry import find_instrument

    return tuple(find_instrument(name) for name in names)


def shape_options(function: F) -> F:
    """``--dim --input``: the shapes that a model is read with."""
    function = click.option(
        "--input", "input_shapes", multiple=True, metavar="NAME:SHAPE", callback=parse_shapes,
        help="Fix the shape of an input, e.g. x:1x3x224x224. Repeatable.",
    )(function)  # fmt: skip
    return _dim_option("Fix a symbolic dimension, e.g. batch=1.")(function)


def model_options(function: F) -> F:
    """``MODEL --dim --input``: which model is read, and with which shapes."""
    return click.argument("model", type=click.Path(path_type=Path))(shape_options(function))


def random_dim_option(function: F) -> F:
    """``--dim``: the sizes of random inputs."""
    return _dim_option("Size of a symbolic dimension of random inputs, else 1.")(function)


def _dim_option(help: str) -> Callable[[F], F]:
    return click.option(
        "--dim", "dims", multiple=True, metavar="NAME=N", callback=parse_dims, help=f"{help} Repeatable."
    )


def plugin_option(function: F) -> F:
    """``--plugin``: passes of one's own."""
    return click.option(
        "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), is_eager=True,
        callback=load_plugins, metavar="FILE.py",
        help="A Python file with passes or instruments of your own. Runs code. Repeatable.",
    )(function)  # fmt: skip


def inputs_option(help: str) -> Callable[[F], F]:
    """``--inputs``: one sample of the model's inputs, or several."""
    return click.option(
        "-i", "--inputs", "data", type=click.Path(path_type=Path), metavar="FILE.npz", help=help
    )


samples_option = inputs_option(
    "Inputs by name for calibration and numeric verification, or a folder of such files; else generated."
)


def reproducer_option(default: str) -> Callable[[F], F]:
    """``--reproducer``: where a small faulty model goes."""
    return click.option(
        "--reproducer", type=click.Path(path_type=Path), metavar="FOLDER", show_default=default,
        help="Where a small model goes that shows a fault which numeric verification found.",
    )  # fmt: skip


def report_option(function: F) -> F:
    """``--report``: a page that says what was done."""
    return click.option(
        "--report", "page", type=click.Path(path_type=Path), metavar="PAGE.html",
        help="Write a page that says what each pass did and draws the graph before and after; it needs nothing else.",
    )(function)  # fmt: skip


def pipeline_options(function: F) -> F:
    """``--pipeline --verify --inputs --plugin`` and so on: what is done to the graph and how it is checked."""
    function = plugin_option(function)
    for option in (
        click.option(
            "--instrument", "instruments", multiple=True, metavar="NAME", callback=find_instruments,
            help="Call an instrument around every pass; see `graphopt passes`. Repeatable.",
        ),
        click.option(
            "--pass-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
            help="Stop a pass that takes longer.  [default: no limit]",
        ),
        click.option(
            "--max-rewrites", type=click.IntRange(min=1), metavar="N",
            help="Stop a pass that makes more rewrites.  [default: 10000 and 8 per value of the model]",
        ),
        reproducer_option("OUTPUT's name, .fault"),
        samples_option,
        click.option(
            "--verify", type=click.Choice(["off", "structure", "numeric"]), default="structure",
            help="Check the graph after each pass; numeric also compares values with those before it in ONNX Runtime.",
        ),
        click.option(
            "-p", "--pipeline", default="O2",
            help='Passes, see `graphopt passes`, such as "O1,prune-magnitude{sparsity=0.5}".',
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def pass_limits(max_rewrites: int | None, pass_timeout: float | None) -> Limits:
    """What ``--max-rewrites`` and ``--pass-timeout`` say; a pass that can't be interrupted ends the process."""
    from graphopt.pipeline import Limits

    return Limits(max_rewrites, pass_timeout, end_process)


def json_option(function: F) -> F:
    """``--json``: one JSON document on stdout instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


class FiniteRange(click.FloatRange):
    """A range of numbers without infinity and without what is none, which compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


kernel_error_option = click.option(
    "--kernel-error", type=FiniteRange(min=0), default=None, show_default="5e-5", metavar="BOUND",
    help="What fast kernels (Winograd, floats in parts on AMX) may add to the error of a convolution or product, "
    "relative to its largest output; 0: none of them, 1e-4: floats in two parts on AMX too.",
)  # fmt: skip


def read_model(model: Path, dims: Mapping[str, int], shapes: Mapping[str, tuple[int | str, ...]]) -> Graph:
    """The graph of a model file.

    Raises:
        ModelError: missing, not a model (an artifact, say), or not representable.
    """
    from graphopt import api

    if not model.exists():
        raise ModelError(f"{model}: there is no such file")
    return api.load(model, dims=dims, input_shapes=shapes)


@contextlib.contextmanager
def reproducing(folder: Path) -> Iterator[None]:
    """Writes what reproduces a numeric fault into ``folder``, and tells so in the error."""
    try:
        yield
    except GraphoptError as error:
        from graphopt import NumericFault

        reproducer = getattr(error, "reproducer", None)
        if reproducer is None and isinstance(error, NumericFault):
            error.hint = "no part of the model shows it by itself; does the pass do the same each time?"
        elif reproducer is not None:
            try:
                error.hint = f"see it again, on a part of the model: {reproducer.save(folder)}"
            except GraphoptError as failure:
                error.hint = failure.message
        raise


def say_nothing_verified(reason: str) -> None:
    """Warns, on stderr, that numeric verification was asked for and could not be done."""
    click.echo(f"warning: --verify numeric compared nothing: {reason}", err=True)


def say_left_out(*reports: Report) -> None:
    """Notes, on stderr, what numeric verification did not compare; each once."""
    for text in dict.fromkeys(text for report in reports for text in report.left_out):
        click.echo(f"note: not compared: {text}", err=True)


def say_unused_samples(parsed: Pipeline, data: Path | None, verify: str) -> None:
    """One line on stderr where ``--inputs`` is given for nothing."""
    calibrates = any(pass_.name == "quantize-static" for pass_ in parsed.passes)
    builtin = all(type(pass_).__module__.startswith("graphopt_passes") for pass_ in parsed.passes)
    if data is not None and builtin and not calibrates and verify != "numeric":
        click.echo(f"note: {data} is not used: no pass calibrates, and --verify is not numeric", err=True)
