"""Constant data to ONNX protos and to onnx_ir."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.external import ExternalData

if TYPE_CHECKING:
    import onnx_ir

_CHUNK = 4 << 20


def fill_tensor(proto: onnx.TensorProto, data: Tensor, name: str) -> None:
    """Writes ``data`` into ``proto``."""
    _fill_header(proto, data, name)
    if data.dtype is DType.STR:
        proto.string_data.extend(i if isinstance(i, bytes) else str(i).encode() for i in data.numpy().flat)
    else:
        proto.raw_data = b"".join(stored_chunks(data))


def fill_external(proto: onnx.TensorProto, data: Tensor, name: str, location: str, offset: int) -> None:
    """Writes into ``proto`` where the data lies."""
    _fill_header(proto, data, name)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", data.nbytes)):
        proto.external_data.add(key=key, value=str(value))


def _fill_header(proto: onnx.TensorProto, data: Tensor, name: str) -> None:
    proto.name, proto.data_type = name, data.dtype.value
    proto.dims.extend(data.shape)


def stored_chunks(data: Tensor) -> Iterator[bytes | memoryview]:
    """The bytes of a constant as ONNX stores them, in pieces of at most 4 MiB.

    Data in a file is read piece by piece, so that it never fills the memory.
    """
    if isinstance(data.source, ExternalData):
        yield from data.source.chunks()
        return
    array = data.numpy()
    flat = pack(array, data.dtype) if data.dtype.bits < 8 else np.ascontiguousarray(array).reshape(-1)
    whole = memoryview(flat.view(np.uint8).data) if flat.size else memoryview(b"")
    for start in range(0, len(whole), _CHUNK):
        yield whole[start : start + _CHUNK]


def pack(array: Array, dtype: DType) -> Array:
    """Elements of 2 or 4 bits into bytes, the first in the lowest bits (ONNX spec, TensorProto)."""
    if dtype.is_integer:
        codes = array.reshape(-1).astype(np.int8).view(np.uint8)
    else:
        codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    per_byte = 8 // dtype.bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes & np.uint8((1 << dtype.bits) - 1)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(dtype.bits)
    packed: Array = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return packed


def to_ir_tensor(data: Tensor, name: str) -> Any:
    """An onnx_ir tensor on the same data; what lies in a file stays there."""
    import onnx_ir

    if isinstance(data.source, ExternalData):
        return _external_ir_tensor(data.source, name)
    if isinstance(data.source, onnx_ir.TensorProtocol):
        return data.source
    if data.dtype is DType.STR:
        items = [item if isinstance(item, bytes) else str(item).encode() for item in data.numpy().flat]
        return onnx_ir.StringTensor(items, shape=onnx_ir.Shape(data.shape), name=name)
    return onnx_ir.Tensor(data.numpy(), dtype=onnx_ir.DataType(data.dtype.value), name=name)


def _external_ir_tensor(data: ExternalData, name: str) -> onnx_ir.ExternalTensor:
    import onnx_ir

    return onnx_ir.ExternalTensor(
        data.file.path.name,
        data.offset,
        data.length,
        onnx_ir.DataType(data.dtype.value),
        shape=onnx_ir.Shape(data.shape),
        name=name,
        base_dir=data.file.path.parent,
    )
