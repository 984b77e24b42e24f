"""onnx_ir models into protos whose constants are only referred to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.external import ExternalFiles

_LOCATION = "graphopt:"


class HeldTensors(ExternalFiles):
    """Stands for data files where the data is held by onnx_ir tensors."""

    def __init__(self) -> None:
        super().__init__(None)
        self.tensors: list[Any] = []

    def tensor(self, location: str, dtype: DType, shape: tuple[int, ...]) -> Tensor | None:
        """The tensor that a proto made here refers to."""
        if not location.startswith(_LOCATION):
            return None
        held = self.tensors[int(location.removeprefix(_LOCATION))]
        return Tensor(dtype, shape, held.numpy, source=held)


def to_shallow_proto(model: onnx_ir.Model) -> tuple[onnx.ModelProto, HeldTensors]:
    """The proto of ``model`` without the data of its initializers, and what holds them.

    Raises:
        ModelError: onnx_ir can't write the model.
    """
    held = HeldTensors()
    values = [v for graph in _graphs(model) for v in graph.initializers.values() if v.const_value is not None]
    originals = [value.const_value for value in values]
    try:
        for value, tensor in zip(values, originals, strict=True):
            assert tensor is not None
            if tensor.dtype is onnx_ir.DataType.STRING:
                continue
            held.tensors.append(tensor)
            value.const_value = onnx_ir.ExternalTensor(
                f"{_LOCATION}{len(held.tensors) - 1}",
                None,
                None,
                tensor.dtype,
                shape=onnx_ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
            )
        return onnx_ir.serde.serialize_model(model), held
    except (onnx_ir.serde.SerdeError, TypeError, ValueError) as error:
        raise ModelError(f"the onnx_ir model can't be written: {error}") from error
    finally:
        for value, tensor in zip(values, originals, strict=True):
            value.const_value = tensor


def _graphs(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    yield model.graph
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type is onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
                yield attribute.as_graph()
