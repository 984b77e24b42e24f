"""The ``graphopt`` command: finds a sub-command's module only when it is asked for, so that start-up is light."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys

import click

from graphopt import __version__
from graphopt.cli.output import show_error
from graphopt.cli.signals import STOPPING, raise_when_stopped
from graphopt.errors import GraphoptError

_COMMANDS = {
    "inspect": "What a model or an artifact holds.",
    "opt": "Optimize a model by passes; write ONNX or text.",
    "diff": "Say what differs between two graphs.",
    "compile": "Compile a model ahead of time into an artifact.",
    "run": "Run an artifact.",
    "bench": "Time models beside ONNX Runtime and other engines.",
    "profile": "Say where the time of an artifact goes.",
    "bisect": "Find the rewrite or the kernel that makes numbers wrong.",
    "passes": "List passes, pipelines and instruments, and their options.",
    "new-pass": "Write a pass of your own, with its test.",
}


_INTERRUPTED = 128 + signal.SIGINT
_NO_READER = 128 + signal.SIGPIPE


class _LazyGroup(click.Group):
    """A group whose commands live in ``graphopt.cli.<name>_command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"graphopt.cli.{cmd_name.replace('-', '_')}_command").command
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


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="graphopt")
def app() -> None:
    """Optimize ONNX graphs by verified passes and compile them ahead of time.

    A typical session:

    \b
      graphopt inspect model.onnx
      graphopt compile model.onnx -o model.gopt
      graphopt run model.gopt --random
      graphopt bench model.onnx

    Exit codes: 0 done, 1 different (diff) or at fault (bisect), 2 can't be done or said (the message says why),
    130 interrupted, 141 nobody reads stdout any more, 143 terminated. With GRAPHOPT_DEBUG=1 in the environment,
    errors come with their traceback.
    """


def main() -> None:
    """Entry point of the command: a user's error is one paragraph on stderr and exit code 2."""
    came = raise_when_stopped()
    try:
        code = _run()
    except BaseException:
        # The compiler turns an interrupt inside of it into errors of its own.
        if not came:
            raise
    if came:
        click.echo(STOPPING[came[0]], err=True)
        code = 128 + came[0]
    sys.exit(code)


def _run() -> int:
    try:
        if sys.stdout is None:  # Python's word for a closed descriptor.
            raise GraphoptError("stdout is closed", hint="send it to a file or to /dev/null")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(
                errors="replace"
            )  # an encoding that lacks a character is no reason to fail
        # What a command ends with by Exit comes back as its result.
        code = app.main(prog_name="graphopt", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        # So click and rich end where the reader of stdout has gone away; but 1 means "different" here.
        if stop.code != 1:
            raise
        return _unwritable(BrokenPipeError())
    except click.exceptions.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return 2
    except GraphoptError as error:
        show_error(error)
        return 2
    except OSError as error:
        return _unwritable(error)


def _unwritable(error: OSError) -> int:
    """Ends quietly when the reader of stdout has gone away, with a word when it can't be written."""
    # What is still buffered goes nowhere, so that the interpreter does not trip over it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return _NO_READER
    show_error(GraphoptError(f"{error.filename or 'the output'}: {error.strerror or error}"))
    return 2
