"""Model files: written beside their final place and renamed, large constants in a data file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.exporter import Exporter
from graphopt.onnx_io.external import ExternalData

EXTERNAL_LIMIT = 1_900_000_000
"""Bytes of constants from which they go into a data file: protobuf ends at 2 GiB."""
SMALLEST_EXTERNAL = 1024
"""Constants of fewer bytes stay in the model file."""
_ALIGNMENT = 4096
_CHUNK = 4 << 20


def model_proto(graph: Graph, *, inline: bool) -> onnx.ModelProto:
    """The graph with all its data in one proto.

    Raises:
        ModelError: it does not fit into protobuf's 2 GiB.
    """
    exporter = Exporter(graph, inline=inline)
    model = exporter.run()
    _check_size(exporter.constants)
    _bring_in(exporter.constants)
    return onnx_ir.serde.serialize_model(model)


def write_model(graph: Graph, path: Path, *, inline: bool, external: bool | None) -> None:
    """Writes ``graph`` to ``path``, all of it or nothing.

    With ``external`` the constants of 1 KiB and more go to a file beside it, named
    ``<path>.data``, in pieces that never fill the memory. None decides by size, and by whether
    the constants came from such a file.

    Raises:
        ModelError: the file can't be written, or is too large for protobuf.
    """
    exporter = Exporter(graph, inline=inline)
    model = exporter.run()
    constants = exporter.constants
    if external is None:
        size = sum(data.nbytes for _, data in constants)
        external = size > EXTERNAL_LIMIT or any(
            isinstance(data.source, ExternalData) for _, data in constants
        )
    data_path = path.with_name(path.name + ".data")
    temporary = {
        target: target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in (data_path, path)
    }
    written: list[Path] = []
    try:
        if external:
            written.append(data_path)
            with temporary[data_path].open("wb") as file:
                _write_data(constants, file, data_path)
        else:
            _check_size(constants)
            _bring_in(constants)
        written.append(path)
        temporary[path].write_bytes(_serialized(model))
        for target in written:
            os.replace(temporary[target], target)
    except OSError as error:
        raise ModelError(f"{path} can't be written: {error.strerror}") from error
    finally:
        for target in written:
            temporary[target].unlink(missing_ok=True)


def _serialized(model: onnx_ir.Model) -> bytes:
    try:
        return onnx_ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    except ValueError as error:
        raise ModelError(
            "the model is larger than protobuf's 2 GiB", hint="save it with its constants in a data file"
        ) from error


def _check_size(constants: list[tuple[onnx_ir.Value, Tensor]]) -> None:
    size = sum(data.nbytes for _, data in constants)
    if size > EXTERNAL_LIMIT:
        raise ModelError(
            f"the constants have {size} bytes, more than fit into one protobuf",
            hint="save the model with its constants in a data file",
        )


def _bring_in(constants: list[tuple[onnx_ir.Value, Tensor]]) -> None:
    for value, data in constants:
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            value.const_value = onnx_ir.Tensor(
                np.asarray(data.numpy()), dtype=onnx_ir.DataType(data.dtype.value), name=value.name
            )


def _write_data(constants: list[tuple[onnx_ir.Value, Tensor]], file: BinaryIO, path: Path) -> None:
    offset = 0
    for value, data in constants:
        if data.dtype is DType.STR or data.nbytes < SMALLEST_EXTERNAL:
            _bring_in([(value, data)])
            continue
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        file.seek(offset)
        length = 0
        for piece in stored_chunks(data, value.const_value):
            file.write(piece)
            length += len(piece)
        value.const_value = onnx_ir.ExternalTensor(
            path.name,
            offset,
            length,
            onnx_ir.DataType(data.dtype.value),
            shape=onnx_ir.Shape(data.shape),
            name=value.name or "",
        )
        offset += length


def stored_chunks(data: Tensor, tensor: Any) -> Iterator[bytes | memoryview]:
    """The bytes of a constant as ONNX stores them, in pieces of at most 4 MiB."""
    if isinstance(data.source, ExternalData):
        yield from data.source.chunks()
        return
    if data.dtype.bits < 8:
        whole = memoryview(tensor.tobytes())
    else:
        whole = memoryview(np.ascontiguousarray(data.numpy()).reshape(-1).view(np.uint8))
    for start in range(0, len(whole), _CHUNK):
        yield whole[start : start + _CHUNK]
