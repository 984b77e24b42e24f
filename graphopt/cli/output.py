"""How commands speak: tables and progress on a terminal, JSON for scripts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from graphopt.errors import GraphoptError
from graphopt.units import counted


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


_GAP = 2
_SHORTEST = 12


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, shorten: Collection[int] = ()
) -> None:
    """A table on stdout; columns after the first are right-aligned when they hold numbers.

    Where a terminal is too narrow, cells are wrapped between words, and names in the columns ``shorten`` lose
    their middle; a word is never broken. Where stdout is no terminal, every row is one line.
    """
    from rich.cells import cell_len as cell_width
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.is_terminal:
        rows = _shortened(columns, rows, shorten, console.width)
    cells = list(zip(columns, *rows, strict=True))
    words = [
        max((cell_width(word) for cell in column for word in cell.split()), default=0) for column in cells
    ]
    whole = _width([max(map(cell_width, column)) for column in cells])
    width = max(console.width, _width(words)) if console.is_terminal else whole

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for index, (column, least) in enumerate(zip(cells, words, strict=True)):
        numeric = index > 0 and all(
            cell.lstrip("-")[:1].isdigit() or cell in ("", "-") for cell in column[1:]
        )
        table.add_column(
            column[0],
            justify="right" if numeric else "left",
            min_width=least,
            no_wrap=not any(" " in cell for cell in column[1:]),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=max(width, 1))
    if title:
        console.print(Text(title, style="italic"), soft_wrap=True)
    console.print(table, crop=False)


def print_wrapped(text: str) -> None:
    """A text on stdout, on a terminal wrapped between words."""
    print_table("", [""], [[text]])


def spaced(pipeline: str) -> str:
    """The text of a pipeline with spaces where lines may be broken; it still parses."""
    return re.sub(r',\s*(?=(?:[^"]*"[^"]*")*[^"]*$)', ", ", pipeline)


def split_target(text: str) -> tuple[str, list[str]]:
    """The text of a target as its name and what it has besides: CPU features, cache sizes."""
    name, *besides = re.split(r"[+{,]", text.rstrip("}"))
    return name, besides


def short_target(text: str) -> str:
    """A target in a sentence: the text that says all of it may fill two lines."""
    name, besides = split_target(text)
    features = sum("=" not in each for each in besides)
    return f"{name} with {counted(features, 'more feature')}" if features else name


def _width(columns: Sequence[int]) -> int:
    return sum(columns) + _GAP * (len(columns) - 1)


def _shortened(
    columns: Sequence[str], rows: Sequence[Sequence[str]], shorten: Collection[int], most: int
) -> list[list[str]]:
    """The rows with as much cut out of the columns ``shorten`` as it takes to fit into ``most`` cells."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    while _width(widths) > most and any(widths[index] > _SHORTEST for index in shorten):
        widths[max(shorten, key=lambda index: widths[index])] -= 1
    return [
        [
            _without_middle(cell, width) if index in shorten else cell
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


def _without_middle(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


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
