"""What a model declares of a value against what its operator says."""

from __future__ import annotations

from collections.abc import Container

from graphopt.ir import dims
from graphopt.ir.dims import Dim, Shape
from graphopt.ir.types import (
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
)


def settle(
    declared: Type, inferred: Type, known: Container[str], anonymous: Container[str]
) -> tuple[Type, str]:
    """The type of a value, and how the two contradict each other ("" when they don't).

    Inference wins: files of which only the inputs were edited declare stale shapes inside. The
    declaration fills what inference leaves open: a type, a rank, or a dimension that depends on
    data, i.e. has symbols not in ``known``, those of the graph's inputs.
    """
    if declared == inferred or isinstance(declared, UnknownType):
        return inferred, ""
    match declared, inferred:
        case _, UnknownType():
            return declared, ""
        case TensorType(), TensorType():
            return _settle_tensor(declared, inferred, known, anonymous)
        case SequenceType(), SequenceType():
            elem, conflict = settle(declared.elem, inferred.elem, known, anonymous)
            return SequenceType(elem), conflict
        case OptionalType(), OptionalType():
            elem, conflict = settle(declared.elem, inferred.elem, known, anonymous)
            return OptionalType(elem), conflict
        case _, OptionalType(elem=elem) if type(declared) is type(elem):
            # A Loop may carry an optional in and give its content out; the file says which.
            return settle(declared, elem, known, anonymous)
    return inferred, "kind" if type(declared) is not type(inferred) else ""


def _settle_tensor(
    declared: TensorType, inferred: TensorType, known: Container[str], anonymous: Container[str]
) -> tuple[Type, str]:
    conflict = ""
    if None not in (declared.dtype, inferred.dtype) and declared.dtype is not inferred.dtype:
        conflict = "element type"
    dtype = inferred.dtype or declared.dtype
    shape: Shape | None = inferred.shape
    if shape is None:
        shape = declared.shape
    elif declared.shape is not None and declared.shape != shape:
        if len(shape) != len(declared.shape):
            conflict = conflict or "rank"
        else:
            pairs = list(zip(declared.shape, shape, strict=True))
            if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
                conflict = conflict or "shape"
            shape = tuple(_settle_dim(a, b, known, anonymous) for a, b in pairs)
    return TensorType(dtype, shape, inferred.quant, inferred.layout), conflict


def _settle_dim(declared: Dim, inferred: Dim, known: Container[str], anonymous: Container[str]) -> Dim:
    if isinstance(inferred, int) or all(name in known for name in dims.symbols(inferred)):
        return inferred
    if isinstance(declared, int) or not any(name in anonymous for name in dims.symbols(declared)):
        return declared
    return inferred
