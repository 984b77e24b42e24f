"""What may stand together in one region: the properties of operators that fusion decides by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Use, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import Kind, info, is_pure
from graphopt.targets import Target

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Movement that only renames indices: as a node of its own it costs nothing, the data stays in place."""

_INDEXED = {
    "Concat": None, "DepthToSpace": (0,), "Expand": (0,), "Flatten": (0,), "Gather": (0, 1), "Identity": (0,),
    "Pad": (0,), "Reshape": (0,), "Slice": (0,), "SpaceToDepth": (0,), "Split": (0,), "Squeeze": (0,),
    "Tile": (0,), "Transpose": (0,), "Unsqueeze": (0,),
}  # fmt: skip
"""Movement whose every output element is one input element at an index known from the output's,
with the inputs that hold the data (None: all); the others say where the data goes."""

_REREADING = frozenset({"Expand", "Gather", "Tile"})
"""Movement that may read an element of its data more than once."""

_COSTLY = frozenset(
    {
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Div", "Elu", "Erf", "Exp",
        "Gelu", "Log", "Mish", "Mod", "Pow", "Reciprocal", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus",
        "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
    }
)  # fmt: skip
"""Elementwise operators too slow to be done again for every time that their value is read."""


def is_elementwise(node: Node) -> bool:
    """Whether each output element depends on one element of each input (by broadcasting)."""
    found = info(node)
    return found is not None and found.kind is Kind.ELEMENTWISE


def is_indexed(node: Node) -> bool:
    """Whether ``node`` moves data by an index map that a reader can follow."""
    return not node.domain and node.op in _INDEXED


def is_view(node: Node) -> bool:
    return not node.domain and node.op in VIEWS


def is_heavy(node: Node) -> bool:
    """Whether ``node`` needs a loop nest of its own: products, convolutions, pools, reductions."""
    found = info(node)
    return found is not None and found.kind in (Kind.HEAVY, Kind.REDUCTION)


def is_cheap(node: Node) -> bool:
    """Whether it does not matter if an element is computed several times."""
    return is_indexed(node) or (is_elementwise(node) and node.op not in _COSTLY)


def can_be_inside(node: Node) -> bool:
    """Whether ``node`` can be part of a region at all."""
    if node.regions or not used_outputs(node) or not is_pure(node):
        return False
    if not (is_elementwise(node) or is_indexed(node) or is_heavy(node)):
        return False
    values = [*node.inputs, *(v for v in node.outputs if v.num_uses)]
    return all(_is_plain(v) for v in values if v is not None)


def _is_plain(value: Value) -> bool:
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype is None:
        return False
    return kind.dtype is DType.BOOL or (kind.dtype.bits >= 8 and kind.dtype not in (DType.C64, DType.C128))


def used_outputs(node: Node) -> list[Value]:
    return [value for value in node.outputs if value.num_uses]


def reads_data(use: Use) -> bool:
    """Whether ``use`` is of data, not of a shape, axes or other parameters of movement."""
    assert isinstance(use.user, Node)
    if not is_indexed(use.user):
        return True
    positions = _INDEXED[use.user.op]
    return positions is None or use.index in positions


def rereads(use: Use, value: Value) -> bool:
    """Whether the user reads elements of ``value`` more than once for its first output."""
    user = use.user
    assert isinstance(user, Node)
    if is_elementwise(user):
        return _without_leading_ones(value) != _without_leading_ones(user.outputs[0])
    return user.op in _REREADING


def is_narrow_weight(use: Use, value: Value) -> bool:
    """Whether ``value`` is the second matrix of a product, widened from a constant one of 8-bit integers."""
    node, user = value.producer, use.user
    if not isinstance(user, Node) or user.op_type != "MatMul" or use.index != 1:
        return False
    source = node.inputs[0] if node is not None and node.op_type == "Cast" else None
    return (
        source is not None
        and source.is_constant
        and source.tensor.dtype is DType.I8
        and source.tensor.rank == 2
    )


def joins_in_place(node: Node, target: Target | None) -> bool:
    """Whether ``node`` is a Concat whose pieces can be computed where they belong, side by side in its result.

    For that they have to be computed, by kernels that write nothing else to return, and to begin at whole
    vectors; then the Concat costs nothing as a node of its own.
    """
    if node.op_type != "Concat" or target is None or target.kind != "llvm":
        return False
    pieces = [value for value in node.inputs if value is not None]
    if len(set(pieces)) < len(pieces) or any(v.producer is None or v.is_output for v in pieces):
        return False
    shape = node.output.tensor.shape or ()
    axis = cast(int, node.attrs.get("axis", 0)) % max(len(shape), 1)
    dtype = node.output.tensor.dtype
    if dtype is None or any(dim != 1 for dim in shape[:axis]):
        return False
    begin = 0
    for piece in pieces:
        extent = piece.tensor.shape
        if extent is None or not all(isinstance(dim, int) for dim in extent):
            return False
        if begin * dtype.bits % target.vector_bits:
            return False
        begin += math.prod(cast("tuple[int, ...]", extent))
    return True


def same_shape(a: Value, b: Value) -> bool:
    return a.tensor.shape is not None and a.tensor.shape == b.tensor.shape


def _without_leading_ones(value: Value) -> Sequence[Dim]:
    shape = value.tensor.shape or ()
    start = next((i for i, dim in enumerate(shape) if dim != 1), len(shape))
    return shape[start:]
