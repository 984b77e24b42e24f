"""Graphs in files: ``model.gir`` and, for the data of large constants, ``model.gir.npz`` beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from graphopt.errors import ModelError, TextError
from graphopt.ir.files import replacing
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.sidecar import Sidecar


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a ``.gir`` file lies."""
    return path.with_name(path.name + ".npz")


def save_gir(graph: Graph, path: str | Path, *, data: bool = True) -> None:
    """Writes a graph as text; a reader sees the old file or the whole new one, never a part.

    Args:
        data: write the sidecar too (when there are large constants).

    Raises:
        ModelError: a file can't be written.
    """
    path = Path(path)
    sidecar = Sidecar() if data else None
    text = print_graph(graph, sidecar=sidecar)
    try:
        with contextlib.ExitStack() as files:  # both are complete before the first takes its place
            files.enter_context(replacing(path)).write_text(text, encoding="utf-8", newline="\n")
            if sidecar is not None and sidecar.tensors:
                sidecar.save(files.enter_context(replacing(sidecar_path(path))))
    except OSError as error:
        raise ModelError(f"{path} can't be written: {error.strerror}") from error


def load_gir(path: str | Path) -> Graph:
    """Reads a graph that :func:`save_gir` wrote; constants are read from the sidecar at first use.

    Raises:
        TextError: there is no such file, or it is no ``.gir`` text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise TextError(f"{path} can't be read: {error}") from error
    beside = sidecar_path(path)
    try:
        return parse_graph(text, sidecar=Sidecar(beside if beside.exists() else None))
    except TextError as error:
        error.message = f"{path}, {error.message}"
        raise
