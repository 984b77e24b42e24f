"""A graph made ready to run, on one of two engines."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from graphopt.errors import EvaluationError, ModelError
from graphopt.evaluate.engines import OrtEngine, ReferenceEngine
from graphopt.evaluate.inputs import check_inputs
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType

log = logging.getLogger(__name__)

Engine = Literal["auto", "ort", "reference"]
_MAX_BYTES = 1 << 30
"""Constants of more bytes go to ONNX Runtime by way of a file, which it maps."""


class Session:
    """A graph ready to run.

    ONNX Runtime runs it as it stands, without optimizations, so that what a pass made is what
    is measured. Use as a context manager or call :meth:`close` to remove temporary files early.

    Args:
        graph: what to run; changing it later changes nothing here.
        engine: ``ort``, ``reference``, or ``auto``: the reference where ONNX Runtime can't load
            the graph.
        threads: how many threads ONNX Runtime uses.

    Raises:
        EvaluationError: the engine can't load the graph.
    """

    def __init__(self, graph: Graph, engine: Engine = "auto", *, threads: int = 1) -> None:
        self._inputs = list(graph.inputs)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.output_names = list(graph.output_names)
        if engine not in ("auto", "ort", "reference"):
            raise EvaluationError(f'there is no engine "{engine}"', hint="use auto, ort or reference")
        try:
            self._engine: OrtEngine | ReferenceEngine = self._load(graph, engine, threads)
        except EvaluationError:
            self.close()
            raise

    def _load(self, graph: Graph, engine: Engine, threads: int) -> OrtEngine | ReferenceEngine:
        if engine == "auto" and not _all_native(graph):
            engine = "reference"
        model = self._written(graph)
        if engine == "reference":
            return ReferenceEngine(model)
        try:
            return OrtEngine(model, threads)
        except EvaluationError as error:
            if engine == "ort":
                raise
            log.info("the reference evaluator is used: %s", error.message)
        return ReferenceEngine(model)

    def _written(self, graph: Graph) -> bytes | Path:
        from graphopt.onnx_io import save, to_proto

        size = sum(value.const.nbytes for value in graph.constants.values() if value.const is not None)
        try:
            if size <= _MAX_BYTES:
                return bytes(to_proto(graph).SerializeToString())
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
            path = Path(self._folder.name) / "model.onnx"
            save(graph, path, external=True)
            return path
        except ModelError as error:
            raise EvaluationError(f"the graph can't be written: {error.message}") from error

    @property
    def engine(self) -> str:
        """The engine in use: ``ort`` or ``reference``."""
        return "ort" if isinstance(self._engine, OrtEngine) else "reference"

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name: arrays, lists for sequences, None for empty optionals.

        Raises:
            InputError: an input is missing, unknown, or of a wrong element type or shape.
            EvaluationError: the engine failed; the message names the node where it is known.
        """
        feeds = check_inputs(self._inputs, inputs)
        return dict(zip(self.output_names, self._engine.run(self.output_names, feeds), strict=True))

    def close(self) -> None:
        """Removes temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _all_native(graph: Graph) -> bool:
    """Whether all inputs and outputs have element types that NumPy itself knows, as ONNX Runtime needs."""
    types = [value.type for value in (*graph.inputs, *graph.outputs)]
    dtypes = [type.dtype for type in types if isinstance(type, TensorType) and type.dtype is not None]
    return all(dtype.numpy.kind in "fiubcO" and dtype.numpy.isbuiltin for dtype in dtypes)


def run(graph: Graph, inputs: Mapping[str, Any], engine: Engine = "auto") -> dict[str, Any]:
    """Runs a graph once; see :class:`Session`."""
    with Session(graph, engine) as session:
        return session.run(inputs)
