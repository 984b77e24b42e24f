"""``graphopt passes``"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import json_option, plugin_option
from graphopt.cli.output import print_json, print_table, print_wrapped, spaced

if TYPE_CHECKING:
    from graphopt.pipeline import Pass


@click.command("passes")
@click.argument("name", required=False)
@plugin_option
@json_option
def command(name: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the passes, pipelines and instruments, or say what NAME does, and the options of a pass."""
    if name is None:
        _list(as_json)
    else:
        _show(name, as_json)


def _list(as_json: bool) -> None:
    from graphopt.pipeline import instruments, passes, pipelines

    entries = [describe(pass_type) for pass_type in passes().values()]
    texts = {entry.name: entry.text for entry in pipelines().values()}
    hooks = {name: (inspect.getdoc(kind) or "").partition("\n")[0] for name, kind in instruments().items()}
    if as_json:
        print_json({"passes": entries, "pipelines": texts, "instruments": hooks})
        return
    print_table(
        "", ["pass", "effect", "what it does"], [[e["name"], e["effect"], e["summary"]] for e in entries]
    )
    click.echo()
    print_table("", ["pipeline", "passes"], [[name, spaced(text)] for name, text in texts.items()])
    if hooks:
        click.echo()
        print_table("", ["instrument", "what it does"], [[name, text] for name, text in hooks.items()])


def _show(name: str, as_json: bool) -> None:
    from graphopt.pipeline import instruments
    from graphopt.pipeline.registry import NamedPipeline, find

    entry: dict[str, Any]
    hook = instruments().get(name)
    found = find(name) if hook is None else None
    if hook is not None:
        entry = {"name": name, "help": inspect.getdoc(hook) or "", "module": hook.__module__}
        text = f"{name}  (instrument, from {hook.__module__})\n{entry['help']}"
    elif isinstance(found, NamedPipeline):
        entry = {"name": found.name, "help": found.help, "passes": found.text}
        text = f"{found.name}: {found.help}"
    else:
        assert found is not None
        entry = describe(found)
        text = f"{click.style(name, bold=True)}  ({entry['effect']}, from {entry['module']})\n{entry['help']}"
    if as_json:
        print_json(entry)
        return
    click.echo(text)
    if isinstance(found, NamedPipeline):
        print_wrapped(spaced(found.text))
    if entry.get("options"):
        click.echo()
        rows = [[o["name"], o["type"], o["default"], o["help"]] for o in entry["options"]]
        print_table("", ["option", "type", "default", "meaning"], rows)
    if "assumes" in entry:
        click.echo(f"\nassumes of floats: {', '.join(entry['assumes']) or 'nothing'}")
    if entry.get("rules"):
        click.echo()
        rows = [[rule["name"], ", ".join(rule["assumes"]) or "nothing"] for rule in entry["rules"]]
        print_table("", ["rule", "assumes of floats"], rows)


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
