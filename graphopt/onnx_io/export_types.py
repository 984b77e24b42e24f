"""Types of the graph to the ONNX protos that a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.ir.dims import SymDim
from graphopt.ir.types import Type
from graphopt.ops.type_proto import type_proto

if TYPE_CHECKING:
    import onnx


def written_type(type: Type) -> onnx.TypeProto | None:
    """The proto of ``type``, plain symbols by their bare names; None when its element type is unknown."""
    return type_proto(type, _dim_text)


def _dim_text(dim: SymDim) -> str:
    """The ``dim_param`` that reads back as ``dim``."""
    return dim.symbol or str(dim)
