"""Model files: written beside their final place and renamed, large constants in a data file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

import onnx

from graphopt.errors import ModelError
from graphopt.ir.files import destination
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.export_tensors import fill_external, fill_tensor, stored_chunks
from graphopt.onnx_io.exporter import Exporter
from graphopt.onnx_io.external import ExternalData

EXTERNAL_LIMIT = 1_900_000_000
"""Bytes of constants from which they go into a data file: protobuf ends at 2 GiB."""
SMALLEST_EXTERNAL = 1024
"""Constants of fewer bytes stay in the model file."""
_ALIGNMENT = 4096


def model_proto(graph: Graph, *, inline: bool) -> onnx.ModelProto:
    """The graph with all its data in one proto.

    Raises:
        ModelError: it does not fit into protobuf's 2 GiB.
    """
    exporter = Exporter(graph, inline=inline)
    model = exporter.run()
    _add_data(model, exporter.constants)
    return model


def write_model(graph: Graph, path: Path, *, inline: bool, external: bool | None) -> None:
    """Writes ``graph`` to ``path``, all of it or nothing.

    With ``external`` the constants of 1 KiB and more go to a file beside it, named
    ``<path>.data``, in pieces that never fill the memory. None decides by size, and by whether
    the constants came from such a file.

    Raises:
        ModelError: the file can't be written, or is too large for protobuf.
    """
    if path.is_dir():
        raise ModelError(f"{path} can't be written: it is a folder", hint="name a file")
    exporter = Exporter(graph, inline=inline)
    model = exporter.run()
    constants = exporter.constants
    if external is None:
        size = sum(data.nbytes for _, data in constants)
        external = size > EXTERNAL_LIMIT or any(
            isinstance(data.source, ExternalData) for _, data in constants
        )
    try:
        path = destination(path)
    except OSError as error:
        raise ModelError(f"{path} can't be written: {error.strerror}", hint="name a file") from error
    data_path = path.with_name(path.name + ".data")
    temporary = {
        target: target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in (data_path, path)
    }
    written: list[Path] = []
    try:
        if external and any(_is_external(data) for _, data in constants):
            written.append(data_path)
            with temporary[data_path].open("wb") as file:
                _write_data(model, constants, file, data_path.name)
        else:
            _add_data(model, constants)
        written.append(path)
        temporary[path].write_bytes(serialized(model))
        for target in written:
            os.replace(temporary[target], target)
    except OSError as error:
        raise ModelError(f"{path} can't be written: {error.strerror}") from error
    finally:
        for target in written:
            with contextlib.suppress(OSError):
                temporary[target].unlink()


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model file.

    Raises:
        ModelError: there are more than protobuf can hold.
    """
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except ValueError as error:
        raise ModelError(
            "the model is larger than protobuf's 2 GiB", hint="save it with its constants in a data file"
        ) from error


def _add_data(model: onnx.ModelProto, constants: list[tuple[str, Tensor]]) -> None:
    size = sum(data.nbytes for _, data in constants)
    if size > EXTERNAL_LIMIT:
        raise ModelError(
            f"the constants have {size} bytes, more than fit into one protobuf",
            hint="save the model with its constants in a data file",
        )
    for name, data in constants:
        fill_tensor(model.graph.initializer.add(), data, name)


def _is_external(data: Tensor) -> bool:
    return data.dtype is not DType.STR and data.nbytes >= SMALLEST_EXTERNAL


def _write_data(
    model: onnx.ModelProto, constants: list[tuple[str, Tensor]], file: BinaryIO, location: str
) -> None:
    offset = 0
    for name, data in constants:
        proto = model.graph.initializer.add()
        if not _is_external(data):
            fill_tensor(proto, data, name)
            continue
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        file.seek(offset)
        for piece in stored_chunks(data):
            file.write(piece)
        fill_external(proto, data, name, location, offset)
        offset += data.nbytes
