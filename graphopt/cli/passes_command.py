"""``graphopt passes``"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import json_option, load_plugins
from graphopt.cli.output import print_json, print_table


@click.command("passes")
@click.argument("name", required=False)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), is_eager=True,
    callback=load_plugins, help="A Python file with passes of your own. Runs code. Repeatable.",
)  # fmt: skip
@json_option
def command(name: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the passes and pipelines, or say what pass NAME does and its options."""
    from graphopt.pipeline import describe_pass, pass_names, pipeline_names, pipeline_text

    if name is not None:
        entry = describe_pass(name)
        if as_json:
            print_json(entry)
            return
        click.secho(entry["name"], bold=True, nl=False)
        click.echo(f"  ({entry['effect']}, from {entry['module']})")
        click.echo(entry["help"])
        if entry["options"]:
            click.echo()
            rows = [[o["name"], o["type"], o["default"], o["help"]] for o in entry["options"]]
            print_table("", ["option", "type", "default", "meaning"], rows)
        return
    entries = [describe_pass(name) for name in pass_names()]
    pipelines = {name: pipeline_text(name) for name in pipeline_names()}
    if as_json:
        print_json({"passes": entries, "pipelines": pipelines})
        return
    print_table(
        "", ["pass", "effect", "what it does"], [[e["name"], e["effect"], e["summary"]] for e in entries]
    )
    click.echo()
    print_table("", ["pipeline", "passes"], [[name, text] for name, text in pipelines.items()])
