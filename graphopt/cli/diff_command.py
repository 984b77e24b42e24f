"""``graphopt diff``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli.options import json_option
from graphopt.cli.output import print_json, require_writable, write_text

if TYPE_CHECKING:
    from graphopt.diff import Weights
    from graphopt.ir.graph import Graph


def parse_weights(ctx: click.Context, param: click.Parameter, text: str) -> Weights:
    if text in ("exact", "shape"):
        return "exact" if text == "exact" else "shape"
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < float("inf"):
        raise click.BadParameter(f"{text!r} is neither exact, shape, nor a number such as 1e-5")
    return tolerance


@click.command("diff")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--weights", default="exact", callback=parse_weights, metavar="exact|shape|NUMBER",
    help="How the data of float weights counts: to the last bit, not at all, or up to so much of the largest value.",
)  # fmt: skip
@click.option(
    "--ignore-names", is_flag=True, help="Match inputs and outputs by position; their names don't count."
)
@click.option("--metadata", is_flag=True, help="Metadata and documentation count too.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE",
    help="Write a page that draws both graphs with the changes marked; it needs nothing else.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=0), default=60, help="Lines to print at most; 0 prints all.")
@json_option
def command(
    a: Path,
    b: Path,
    weights: Weights,
    ignore_names: bool,
    metadata: bool,
    html: Path | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say what differs between the graphs of A and B: ONNX files, .gir texts or .gopt artifacts.

    Internal names and the order of nodes don't count. Exit code 0: equal, 1: different, 2: can't be compared.
    """
    from graphopt.diff import diff
    from graphopt.diff.page import html_page

    if html is not None:
        require_writable(html)
    found = diff(read_graph(a), read_graph(b), names=not ignore_names, weights=weights, metadata=metadata)
    if html is not None:
        write_text(html, html_page(found, (a.name, b.name)))
    if as_json:
        print_json(found.to_json())
    else:
        from rich.console import Console

        Console(soft_wrap=True, highlight=False).print(found.rich(limit))
        if html is not None:
            click.echo(f"wrote {html}")
    if found:
        sys.stdout.flush()
        click.get_current_context().exit(1)


def read_graph(path: Path) -> Graph:
    """The graph of a model, or the one that an artifact was compiled from.

    Raises:
        ModelError: missing, or not a model.
        TextError: a text that does not parse.
        ArtifactError: a damaged artifact, or one without its graph.
    """
    from graphopt.cli.options import read_model

    if not path.is_dir() or not (path / "manifest.json").is_file():
        return read_model(path, {}, {})
    from graphopt.errors import ArtifactError
    from graphopt.ir.text import load_gir
    from graphopt.runtime.files import map_file
    from graphopt.runtime.manifest import GRAPH_NAME, read

    record = read(path).files.get(GRAPH_NAME)
    if record is None:
        raise ArtifactError(f"{path} holds no {GRAPH_NAME}")
    map_file(path, GRAPH_NAME, record, verify=True)
    return load_gir(path / GRAPH_NAME)
