"""Reading and writing models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir.collector import paused_collector
from graphopt.ir.graph import Graph
from graphopt.onnx_io.external import ExternalFiles

if TYPE_CHECKING:
    import onnx
    import onnx_ir


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Graph:
    """Reads an ONNX model into a graph of the canonical opset, every value typed.

    Args:
        model: a path, the bytes of a model file, or a proto (it does not change).
        dims: numbers for named dimensions of the inputs, e.g. ``{"batch": 1}``.
        input_shapes: shapes of inputs, e.g. ``{"x": (1, 3, "h", "w")}``.
        folder: where external data lies; the folder of the file by default.

    Raises:
        ModelError: the model can't be read, is not valid ONNX, or can't be represented.
    """
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    base = Path(folder) if folder is not None else path.parent if path is not None else None
    with paused_collector():
        proto = _parse(model)
        return _import(proto, ExternalFiles(base), dims or {}, input_shapes or {})


def _import(
    proto: onnx.ModelProto,
    files: ExternalFiles,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, Sequence[int | str]],
) -> Graph:
    from graphopt.onnx_io.importer import Importer
    from graphopt.onnx_io.shapes import fixed_inputs
    from graphopt.ops import SEMANTICS

    reader, types = fixed_inputs(proto, dims, input_shapes)
    return Importer(proto, files, reader, SEMANTICS).run(types)


def _parse(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if isinstance(model, onnx.ModelProto):
        return _checked(model, "the model")
    where = "the model" if isinstance(model, bytes) else os.fspath(model)
    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise ModelError(f"{where} can't be read: {error.strerror}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError) as error:
        raise ModelError(
            f"{where} is not an ONNX model", hint="the file is truncated, damaged or of another kind"
        ) from error
    return _checked(proto, where)


def _checked(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if not proto.HasField("graph"):
        raise ModelError(
            f"{where} is not an ONNX model: it has no graph", hint="the file is empty or of another kind"
        )
    if proto.training_info:
        raise ModelError(
            f"{where} holds training information, which can't be represented", hint="export for inference"
        )
    return proto


def save(
    graph: Graph, path: str | os.PathLike[str], *, inline: bool = True, external: bool | None = None
) -> None:
    """Writes ``graph`` as an ONNX model, all of it or nothing.

    Args:
        graph: what to write.
        path: where; a data file is named ``<path>.data``.
        inline: write the bodies of fused nodes in their place; otherwise as functions of the model.
        external: whether constants of 1 KiB and more go into a data file; by default when they
            are larger than 1.9 GB in all, or came from one.

    Raises:
        ModelError: the file can't be written, or is too large for protobuf.
    """
    from graphopt.onnx_io.write import write_model

    with paused_collector():
        write_model(graph, Path(path), inline=inline, external=external)


def to_proto(graph: Graph, *, inline: bool = True) -> onnx.ModelProto:
    """The model as one proto, all data inside.

    Raises:
        ModelError: it is too large for protobuf.
    """
    from graphopt.onnx_io.write import model_proto

    with paused_collector():
        return model_proto(graph, inline=inline)


def to_onnx_ir(graph: Graph, *, inline: bool = True) -> onnx_ir.Model:
    """The model for onnx_ir; data that lies on disk stays there."""
    from graphopt.onnx_io.to_ir import to_ir_model

    with paused_collector():
        return to_ir_model(graph, inline=inline)


def from_onnx_ir(model: onnx_ir.Model) -> Graph:
    """A graph of an onnx_ir model, as :func:`load` makes it; constants share their data.

    Raises:
        ModelError: as :func:`load`.
    """
    from graphopt.onnx_io.from_ir import to_shallow_proto

    with paused_collector():
        proto, files = to_shallow_proto(model)
        return _import(proto, files, {}, {})
