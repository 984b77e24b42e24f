"""`python -m golden_models list | fetch [NAME...]`."""

from __future__ import annotations

import sys

import click
from rich.console import Console

import golden_models
from golden_models import MODELS, FetchError
from graphopt.cli.output import print_table

_console = Console()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The real models that graphopt is tested and measured on."""


@main.command("list")
def list_models() -> None:
    """Show the models: size, licence, inputs and package.

    Names in the shapes of inputs are free dimensions, as example_inputs takes them. Few of the files call them so;
    graphopt does with --input, as it stands here, or with numbers in their place.
    """
    rows = []
    for model in MODELS.values():
        package = f" ({model.source.package} {model.source.version})" if model.source else ""
        inputs = " ".join(map(str, model.inputs))
        rows.append([model.name, f"{model.size / 1e6:.1f}", model.license, inputs, model.about + package])
    print_table("", ["name", "MB", "licence", "inputs", "what it is"], rows)


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--all", "everything", is_flag=True, help="Also those of hundreds of megabytes.")
def fetch(names: tuple[str, ...], everything: bool) -> None:
    """Fetch the models NAME (all but the heavy ones when none is named) and print their files."""
    if unknown := [name for name in names if name not in MODELS]:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; there are: {', '.join(MODELS)}")
    for name in names or [m.name for m in MODELS.values() if everything or not m.heavy]:
        try:
            file = golden_models.path(name)
        except FetchError as error:
            _console.print(f"[red]{name}[/]: {error}", highlight=False)
            sys.exit(2)
        _console.print(f"{name:18} {file}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(prog_name="python -m golden_models")
