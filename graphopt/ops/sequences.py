"""Sequences and optionals."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, TypeAttr
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type, UnknownType
from graphopt.ops.access import ANY, axis, dtype_attr, fail, fresh, integer, tensor, value_of
from graphopt.ops.content import static_content
from graphopt.ops.control import join
from graphopt.ops.registry import Kind, declare


def _element(node: Node, index: int) -> Type:
    """Element type of input ``index``, a sequence."""
    type = value_of(node, index).type
    if isinstance(type, UnknownType):
        return type
    if not isinstance(type, SequenceType):
        raise fail(node, index, "a sequence")
    return type.elem


@declare(Kind.CONTROL, "SequenceEmpty")
def empty(node: Node) -> list[Type]:
    """A sequence of tensors, f32 by default."""
    return [SequenceType(TensorType(dtype_attr(node, "dtype", DType.F32), None))]


@declare(Kind.CONTROL, "SequenceConstruct")
def construct(node: Node) -> list[Type]:
    """A sequence of what the inputs have in common."""
    elem: Type = value_of(node, 0).type
    for i in range(1, len(node.inputs)):
        elem = join(node, 0, elem, value_of(node, i).type)
    return [SequenceType(elem)]


@declare(Kind.CONTROL, "SequenceInsert")
def insert(node: Node) -> list[Type]:
    """A sequence of what its elements and the new one have in common."""
    elem, new = _element(node, 0), value_of(node, 1).type
    return [SequenceType(join(node, 0, elem, new))]


@declare(Kind.CONTROL, "SequenceErase")
def erase(node: Node) -> list[Type]:
    """The input's type."""
    return [SequenceType(_element(node, 0))]


@declare(Kind.CONTROL, "SequenceAt")
def at(node: Node) -> list[Type]:
    """The elements' type; their symbolic sizes may differ from one element to the next."""
    elem = _element(node, 0)
    if not isinstance(elem, TensorType) or elem.shape is None:
        return [elem]
    dims = enumerate(elem.shape)
    return [TensorType(elem.dtype, tuple(d if isinstance(d, int) else fresh(node, 0, i) for i, d in dims))]


@declare(Kind.CONTROL, "SequenceLength")
def length(node: Node) -> list[Type]:
    """An i64 scalar."""
    _element(node, 0)
    return [TensorType(DType.I64, ())]


@declare(Kind.CONTROL, "SplitToSequence")
def split_to_sequence(node: Node) -> list[Type]:
    """A sequence of pieces along ``axis``: of one size, of the sizes given, or single slices."""
    x = tensor(node, 0)
    if x.shape is None:
        return [SequenceType(TensorType(x.dtype, None))]
    place = axis(node, integer(node, "axis", 0), len(x.shape))
    size: Dim = fresh(node, 0, place)
    if node.input(1) is None:
        if not integer(node, "keepdims", 1):
            return [SequenceType(TensorType(x.dtype, (*x.shape[:place], *x.shape[place + 1 :])))]
        size = 1
    else:
        sizes = static_content(value_of(node, 1))
        whole = x.shape[place]
        if (
            sizes
            and tensor(node, 1).shape == ()
            and isinstance(whole, int)
            and sizes[0]
            and whole % sizes[0] == 0
        ) or (sizes and tensor(node, 1).shape != () and len(set(sizes)) == 1):
            size = sizes[0]
    return [SequenceType(TensorType(x.dtype, (*x.shape[:place], size, *x.shape[place + 1 :])))]


@declare(Kind.CONTROL, "ConcatFromSequence")
def concat_from_sequence(node: Node) -> list[Type]:
    """The elements along ``axis``, a new one with ``new_axis``; their number is data."""
    elem = _element(node, 0)
    if not isinstance(elem, TensorType) or elem.shape is None:
        return [TensorType(elem.dtype, None) if isinstance(elem, TensorType) else ANY]
    new = integer(node, "new_axis", 0)
    place = axis(node, integer(node, "axis", 0), len(elem.shape) + new)
    rest = [*elem.shape[:place], None, *(elem.shape[place:] if new else elem.shape[place + 1 :])]
    dims = tuple(dim if isinstance(dim, int) else fresh(node, 0, i) for i, dim in enumerate(rest))
    return [TensorType(elem.dtype, dims)]


@declare(Kind.CONTROL, "Optional")
def optional_rule(node: Node) -> list[Type]:
    """An optional of the input's type, or of ``type`` when it is empty."""
    value = node.input(0)
    if value is not None:
        return [OptionalType(value.type)]
    declared = node.attrs.get("type")
    return [OptionalType(declared.type if isinstance(declared, TypeAttr) else UnknownType())]


@declare(Kind.CONTROL, "OptionalGetElement")
def get_element(node: Node) -> list[Type]:
    """What the optional holds; other values pass."""
    type = value_of(node, 0).type
    return [type.elem if isinstance(type, OptionalType) else type]


@declare(Kind.CONTROL, "OptionalHasElement")
def has_element(node: Node) -> list[Type]:
    """A bool scalar."""
    return [TensorType(DType.BOOL, ())]
