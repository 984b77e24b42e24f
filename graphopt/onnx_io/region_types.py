"""Types of what Loop, Scan and SequenceMap hand to their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.types import (
    DType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
)


def region_input_types(node: Node, count: int) -> list[Type]:
    """Types of the ``count`` inputs of the body of ``node``, as far as its operator says."""
    types: list[Type] = []
    operands = [UnknownType() if value is None else value.type for value in node.inputs]
    if not node.domain and node.op == "Loop":
        types = [TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), *operands[2:]]
    elif not node.domain and node.op == "Scan":
        scanned = node.attrs.get("num_scan_inputs")
        states = max(len(operands) - scanned, 0) if isinstance(scanned, int) else len(operands)
        axes = node.attrs.get("scan_input_axes")
        for index, type in enumerate(operands[states:]):
            axis = axes[index] if isinstance(axes, tuple) and index < len(axes) else 0
            operands[states + index] = _without_axis(type, axis)
        types = operands
    elif not node.domain and node.op == "SequenceMap":
        types = [type.elem if isinstance(type, SequenceType) else type for type in operands]
    types = types[:count]
    return types + [UnknownType()] * (count - len(types))


def _without_axis(type: Type, axis: object) -> Type:
    if not isinstance(type, TensorType) or type.shape is None or not isinstance(axis, int):
        return TensorType(type.dtype, None) if isinstance(type, TensorType) else UnknownType()
    if not -len(type.shape) <= axis < len(type.shape):
        return TensorType(type.dtype, None)
    shape = list(type.shape)
    del shape[axis]
    return TensorType(type.dtype, tuple(shape))


def generalise(
    node: Node, body: Region, own: set[Dim], fresh: Callable[[str], Dim], declared: Mapping[Value, Type]
) -> bool:
    """Gives loop-carried inputs of ``body`` a type that holds in every iteration; whether any changed.

    The first guess is the type of the initial value. A dimension that an iteration changes
    becomes the symbol that is declared for it, else a fresh one, and a rank that changes
    becomes unknown. ``own`` keeps these symbols, so that each dimension changes once.
    """
    if node.domain or node.op not in ("Loop", "Scan"):
        return False
    first_input, first_output = (2, 1) if node.op == "Loop" else (0, 0)
    scanned = node.attrs.get("num_scan_inputs", 0)
    carried = (
        len(body.inputs) - first_input - (scanned if node.op == "Scan" and isinstance(scanned, int) else 0)
    )
    changed = False
    pairs = zip(body.inputs[first_input:][: max(carried, 0)], body.outputs[first_output:], strict=False)
    for value, result in pairs:
        named = _declared_dims(declared.get(value))

        def name(axis: int, value: Value = value, named: Sequence[Dim] = named) -> Dim:
            dim = named[axis] if axis < len(named) else 0
            dim = fresh(f"{value.name}_d{axis}") if isinstance(dim, int) or dim in own else dim
            own.add(dim)
            return dim

        joined = _join(value.type, result.type, own, name)
        if joined != value.type:
            value.type, changed = joined, True
    return changed


def _declared_dims(declared: Type | None) -> Sequence[Dim]:
    return declared.shape or () if isinstance(declared, TensorType) else ()


def _join(start: Type, later: Type, own: set[Dim], name: Callable[[int], Dim]) -> Type:
    if start == later:
        return start
    match start, later:
        case TensorType(), TensorType():
            if start.shape is None or later.shape is None or len(start.shape) != len(later.shape):
                return TensorType(start.dtype, None)
            pairs = enumerate(zip(start.shape, later.shape, strict=True))
            shape = tuple(a if a == b or a in own else name(axis) for axis, (a, b) in pairs)
            return TensorType(start.dtype, shape)
        case SequenceType(), SequenceType():
            return SequenceType(_join(start.elem, later.elem, own, name))
        case OptionalType(), OptionalType():
            return OptionalType(_join(start.elem, later.elem, own, name))
    return start
