"""The ``graphopt`` command: finds a sub-command's module only when it is asked for, so that start-up is light."""

from __future__ import annotations

import importlib
import sys

import click

from graphopt import __version__
from graphopt.errors import GraphoptError

_COMMANDS = {
    "inspect": "What a model or an artifact holds.",
    "opt": "Optimize a model by passes; write ONNX or text.",
    "compile": "Compile a model ahead of time into an artifact.",
    "run": "Run an artifact.",
    "bench": "Time an artifact beside ONNX Runtime.",
    "passes": "List passes and pipelines, and their options.",
}


class _LazyGroup(click.Group):
    """A group whose commands live in ``graphopt.cli.<name>_command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"graphopt.cli.{cmd_name}_command").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, 1)
            ctx.fail(f"no such command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="graphopt")
def app() -> None:
    """Optimize ONNX graphs by verified passes and compile them ahead of time.

    A typical session:

    \b
      graphopt inspect model.onnx
      graphopt compile model.onnx -o model.gopt
      graphopt run model.gopt --random
      graphopt bench model.onnx
    """


def main() -> None:
    """Entry point of the command: a user's error is one paragraph on stderr and exit code 2."""
    try:
        app.main(prog_name="graphopt", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except GraphoptError as error:
        click.secho("error: ", fg="red", nl=False, err=True)
        click.echo(error.message, err=True)
        if error.hint:
            click.secho("hint: ", fg="yellow", nl=False, err=True)
            click.echo(error.hint, err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(2)
