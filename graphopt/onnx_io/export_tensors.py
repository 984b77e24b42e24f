"""Constant data to onnx_ir, without a copy."""

from __future__ import annotations

from typing import Any

import onnx_ir

from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.external import ExternalData


def to_ir_tensor(data: Tensor, name: str) -> Any:
    """An onnx_ir tensor on the same data; what lies on disk stays there."""
    if isinstance(data.source, ExternalData):
        return external_ir_tensor(data.source, name)
    if isinstance(data.source, onnx_ir.TensorProtocol):
        return data.source
    if data.dtype is DType.STR:
        items = [item if isinstance(item, bytes) else str(item).encode() for item in data.numpy().flat]
        return onnx_ir.StringTensor(items, shape=onnx_ir.Shape(data.shape), name=name)
    return onnx_ir.Tensor(data.numpy(), dtype=onnx_ir.DataType(data.dtype.value), name=name)


def external_ir_tensor(data: ExternalData, name: str) -> onnx_ir.ExternalTensor:
    """An onnx_ir tensor on data in a file."""
    return onnx_ir.ExternalTensor(
        data.file.path.name,
        data.offset,
        data.length,
        onnx_ir.DataType(data.dtype.value),
        shape=onnx_ir.Shape(data.shape),
        name=name,
        base_dir=data.file.path.parent,
    )
