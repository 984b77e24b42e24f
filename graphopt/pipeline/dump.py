"""Writes the graph after each pass: ``000_input.gir``, ``001_fold-constants.gir``, ...

Dumps are for reading and comparing. They hold no data of large constants, so that dumps of a model of a
gigabyte stay small; what needs the data refuses them by the name of the constant.
"""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.text import save_gir
from graphopt.pipeline.instruments import Instrument, PassRun


class Dump(Instrument):
    """Numbered texts in a folder; the data of large constants is left out (they show their hashes)
    unless ``data``, then each text has its sidecar."""

    def __init__(self, folder: Path, *, data: bool = False) -> None:
        self.folder = folder
        self.data = data

    def begin(self, graph: Graph) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{self.folder} can't be made: {error.strerror}") from error
        self._write(graph, 0, "input")

    def after(self, run: PassRun) -> None:
        self._write(run.graph, run.row.index + 1, run.pass_.name)

    def _write(self, graph: Graph, number: int, name: str) -> None:
        save_gir(graph, self.folder / f"{number:03}_{name}.gir", data=self.data)
