"""How commands speak: tables and progress on a terminal, JSON for scripts."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click


def print_json(document: Any) -> None:
    """One JSON document on stdout; infinities and what is not a number become null, as JSON has neither."""
    plain = _finite(document)
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def _finite(item: Any) -> Any:
    match item:
        case dict():
            return {key: _finite(value) for key, value in item.items()}
        case list() | tuple():
            return [_finite(value) for value in item]
        case float() if not math.isfinite(item):
            return None
    return item


def counted(count: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def human_bytes(count: int) -> str:
    """``1536`` as ``1.5 KiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


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
