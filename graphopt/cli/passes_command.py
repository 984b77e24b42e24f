"""``graphopt passes``"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import json_option, plugin_option
from graphopt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from graphopt.pipeline import Pass


@click.command("passes")
@click.argument("name", required=False)
@plugin_option
@json_option
def command(name: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the passes and pipelines, or say what pass NAME does and its options."""
    from graphopt.pipeline import passes, pipelines
    from graphopt.pipeline.registry import NamedPipeline, find

    if name is not None:
        found = find(name)
        if isinstance(found, NamedPipeline):
            if as_json:
                print_json({"name": found.name, "help": found.help, "passes": found.text})
            else:
                click.echo(f"{found.name}: {found.help}\n{found.text}")
            return
        entry = describe(found)
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
        click.echo(f"\nassumes of floats: {', '.join(entry['assumes']) or 'nothing'}")
        if entry["rules"]:
            click.echo()
            rows = [[rule["name"], ", ".join(rule["assumes"]) or "nothing"] for rule in entry["rules"]]
            print_table("", ["rule", "assumes of floats"], rows)
        return
    entries = [describe(pass_type) for pass_type in passes().values()]
    texts = {entry.name: entry.text for entry in pipelines().values()}
    if as_json:
        print_json({"passes": entries, "pipelines": texts})
        return
    print_table(
        "", ["pass", "effect", "what it does"], [[e["name"], e["effect"], e["summary"]] for e in entries]
    )
    click.echo()
    print_table("", ["pipeline", "passes"], [[name, text] for name, text in texts.items()])


def describe(pass_type: type[Pass]) -> dict[str, Any]:
    """What ``graphopt passes --json`` prints of a pass."""
    from graphopt.pipeline import PatternPass
    from graphopt.pipeline.options import format_value, options_of

    text = inspect.getdoc(pass_type) or ""
    pass_ = pass_type()
    rules = pass_.checked_rules() if isinstance(pass_, PatternPass) else ()
    options = [
        {
            "name": o.name,
            "type": o.type_text,
            "default": format_value(o.default),
            "min": o.low,
            "max": o.high,
            "help": o.help,
        }
        for o in options_of(pass_type)
    ]
    return {
        "name": pass_type.name,
        "effect": pass_type.effect.value,
        "module": pass_type.__module__,
        "summary": text.partition("\n")[0],
        "help": text,
        "options": options,
        "assumes": [each.value for each in pass_.assumed()],
        "rules": [{"name": rule.name, "assumes": [each.value for each in rule.assumes]} for rule in rules],
    }
