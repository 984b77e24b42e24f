"""How commands speak: tables and progress on a terminal, JSON for scripts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from graphopt.errors import GraphoptError


def show_error(error: GraphoptError) -> None:
    """One paragraph on stderr, and a hint; the traceback before it when GRAPHOPT_DEBUG is set."""
    if os.environ.get("GRAPHOPT_DEBUG"):
        traceback.print_exception(error)
    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(error.message, err=True)
    if error.hint:
        click.secho("hint: ", fg="yellow", nl=False, err=True)
        click.echo(error.hint, err=True)


def end_process(error: GraphoptError) -> NoReturn:
    """Shows an error and ends the process at once, with exit code 2, whatever its threads are doing."""
    show_error(error)
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar has hidden the cursor
    sys.stderr.flush()
    os._exit(2)


def require_writable(path: Path) -> None:
    """Refuses an output before the work for it is done, not after.

    Raises:
        GraphoptError: its folder is missing or can't be written to, or something that is not a plain file is there.
    """
    from graphopt.ir.files import destination

    try:
        require_writable_folder(path, destination(path).parent)
    except OSError as error:
        raise GraphoptError(f"{path} can't be written: {error.strerror}", hint="name a file") from error


def require_own_page(page: Path | None, output: Path) -> None:
    """As :func:`require_writable`, for a page that is written beside ``output``.

    Raises:
        GraphoptError: it can't be written, or is the output too, or inside it.
    """
    if page is None:
        return
    require_writable(page)
    if output.absolute() in (page.absolute(), *page.absolute().parents):
        raise GraphoptError(
            f"{page} can't be written: {output} goes there", hint="name another file for the page"
        )


def require_writable_folder(path: Path, folder: Path | None = None) -> None:
    """Refuses an output whose ``folder``, by default its parent, is no folder that can be written to.

    Raises:
        GraphoptError: it is missing, or takes no files.
    """
    folder = folder or path.absolute().parent
    if not folder.is_dir():
        raise GraphoptError(f"{path} can't be written: there is no folder {folder}", hint="make it first")
    try:
        # Permissions don't tell: root has them all, and /proc takes a file from nobody.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise GraphoptError(
            f"{path} can't be written: the folder {folder} takes no files ({error.strerror})"
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file to write, which takes its place at ``path`` when the block ends well and goes when not.

    Raises:
        GraphoptError: it can't be written.
    """
    from graphopt.ir.files import replacing

    try:
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise GraphoptError(f"{path} can't be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        GraphoptError: it can't be written.
    """
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def print_json(document: Any) -> None:
    """One JSON document on stdout; infinities and what is not a number become null, as JSON has neither."""
    plain = _finite(document)
    escaped = not (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(json.dumps(plain, indent=2, ensure_ascii=escaped, allow_nan=False, default=str))


def _finite(item: Any) -> Any:
    match item:
        case dict():
            return {key: _finite(value) for key, value in item.items()}
        case list() | tuple():
            return [_finite(value) for value in item]
        case float() if not math.isfinite(item):
            return None
    return item


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout; columns after the first are right-aligned when they hold numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = index > 0 and all(
            row[index].lstrip("-")[:1].isdigit() or row[index] in ("", "-") for row in rows
        )
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(soft_wrap=False).print(table)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr when it is a terminal; the yielded function takes done, total, step."""
    if not sys.stderr.isatty():
        yield lambda done, total, step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, step: bar.update(
            task, description=f"{title}: {step}", completed=done, total=total
        )
