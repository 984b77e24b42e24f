"""``graphopt opt``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import (
    json_option,
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
    require_writable,
    write_text,
)
from graphopt.cli.samples import read_samples
from graphopt.units import human_bytes

if TYPE_CHECKING:
    from graphopt.pipeline import Instrument, Report
    from graphopt.pipeline.settings import Verify


@click.command("opt")
@model_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Where the result goes: .onnx, or .gir for text.",
)  # fmt: skip
@pipeline_options
@click.option(
    "--target", help="What fusion may assume of the machine, e.g. native or aarch64.  [default: nothing]"
)
@click.option(
    "--keep-regions", is_flag=True, help="Write fused regions as functions of the model, not inlined."
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder for the graph after each pass.",
)
@click.option(
    "--fuel", type=click.IntRange(min=0), help="Stop after so many rewrites in all, to find a faulty one."
)
@report_option
@json_option
def command(
    model: Path,
    output: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    pipeline: str,
    verify: Verify,
    data: Path | None,
    max_rewrites: int | None,
    pass_timeout: float | None,
    instruments: tuple[type[Instrument], ...],
    plugins: tuple[Path, ...],
    reproducer: Path | None,
    target: str | None,
    keep_regions: bool,
    dump: Path | None,
    fuel: int | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Optimize MODEL by a pipeline of passes and write it to OUTPUT."""
    from graphopt import api, onnx_io
    from graphopt.pipeline import Context, Pipeline
    from graphopt.report import Recording, html_page
    from graphopt.targets import Target

    api.check_suffix(output)
    if keep_regions and output.suffix == ".gir":
        raise click.UsageError("--keep-regions is for .onnx; .gir text always has the regions")
    require_writable(output)
    require_own_page(page, output)
    recording = Recording() if page is not None else None
    parsed = Pipeline.parse(pipeline)
    context = Context(target=Target.parse(target) if target else None, inputs=read_samples(data))
    say_unused_samples(parsed, data, verify)
    graph = read_model(model, dims, input_shapes)
    with progress("optimizing") as step, reproducing(reproducer or output.with_suffix(".fault")):
        report = parsed.run(
            graph, context=context, verify=verify, fuel=fuel, limits=pass_limits(max_rewrites, pass_timeout),
            dump_dir=dump, progress=step,
            instruments=[*(kind() for kind in instruments), *([recording] if recording else [])],
        )  # fmt: skip
    if output.suffix == ".gir":
        api.save(graph, output)
    else:
        onnx_io.save(graph, output, inline=not keep_regions)
    if page is not None and recording is not None:
        write_text(page, html_page(model.name, [recording.run(report)]))
    print_report(report, as_json)
    if not as_json:
        click.echo(f"wrote {output}")
        if page is not None:
            click.echo(f"wrote {page}")


def print_report(report: Report, as_json: bool) -> None:
    """The report of a pipeline as a table or as JSON."""
    document: dict[str, Any] = report.as_dict()
    if report.unverified:
        say_nothing_verified(report.unverified)
    say_left_out(report)
    if as_json:
        print_json(document)
        return
    rows = [
        [
            row["spec"],
            f"{row['nodes_before']} → {row['nodes_after']}",
            human_bytes(row["constant_bytes_after"]),
            str(row["rewrites"]),
            f"{row['seconds'] * 1e3:.0f} ms",
            _distance(row),
        ]
        for row in document["passes"]
    ]
    print_table("", ["pass", "nodes", "constants", "rewrites", "time", "distance"], rows)


def _distance(row: dict[str, Any]) -> str:
    """The largest distance of an output to the graph before the pass, where it was measured."""
    if row["unverified"]:
        return "not verified"
    return f"{max(row['distance'].values()):.1e}" if row["distance"] else ""
