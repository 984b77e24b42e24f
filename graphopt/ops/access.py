"""How type rules look at a node: its inputs' types, its attributes, and how they complain."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim, Shape, sym
from graphopt.ir.graph import Node, RefAttr, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, QuantScheme, TensorType, UnknownType

ANY = TensorType(None, None)
"""A tensor of which nothing is known."""

MAX_RANK = 64
"""Shapes that are said to have more dimensions count as unknown: they come from damaged models."""


def fail(node: Node, index: int, expected: str) -> TypeInferenceError:
    """The error that input ``index`` of ``node`` is not what is ``expected``."""
    value = node.input(index)
    what = "is absent" if value is None else f"(%{value.name}: {value.type})"
    return TypeInferenceError(
        f"{node.label}: input {index} {what}, expected {expected}",
        hint="the model contradicts itself here; check what produces this input",
    )


def bad_attr(node: Node, name: str, expected: str) -> TypeInferenceError:
    """The error that attribute ``name`` of ``node`` is not what is ``expected``."""
    return TypeInferenceError(f"{node.label}: attribute {name}={node.attrs.get(name)!r}, expected {expected}")


def tensor(node: Node, index: int) -> TensorType:
    """Type of input ``index``, which must be a tensor; of one that nothing is known of, :data:`ANY`.

    Raises:
        TypeInferenceError: it is absent or certainly no tensor.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise fail(node, index, "a tensor")
    type = value.type
    if type.__class__ is TensorType:
        return type
    if isinstance(type, UnknownType):
        return ANY
    raise fail(node, index, "a tensor")


def optional(node: Node, index: int) -> TensorType | None:
    """Type of input ``index``, None when it is absent."""
    return None if node.input(index) is None else tensor(node, index)


def rank_of(node: Node, index: int, rank: int) -> Shape | None:
    """Shape of input ``index``, which must have ``rank`` dimensions.

    Raises:
        TypeInferenceError: it has another rank.
    """
    shape = tensor(node, index).shape
    if shape is not None and len(shape) != rank:
        raise fail(node, index, f"a tensor of rank {rank}")
    return shape


def static_length(node: Node, index: int) -> int | None:
    """Number of elements of input ``index``, a vector that stands for a shape or axes; None if unknown.

    Raises:
        TypeInferenceError: it is no vector.
    """
    shape = rank_of(node, index, 1)
    length = None if shape is None else shape[0]
    return length if isinstance(length, int) and length <= MAX_RANK else None


def same_dtype(node: Node, indices: Sequence[int]) -> DType | None:
    """The element type that all these inputs must share, as far as known; absent inputs don't count.

    Raises:
        TypeInferenceError: two of them differ.
    """
    found: DType | None = None
    for index in indices:
        value = node.input(index)
        if value is None:
            continue
        dtype = tensor(node, index).dtype
        if dtype is None or dtype is found:
            continue
        if found is not None:
            raise fail(node, index, f"element type {found.text} as of the other inputs")
        found = dtype
    return found


def value_of(node: Node, index: int) -> Value:
    """Input ``index``.

    Raises:
        TypeInferenceError: it is absent.
    """
    value = node.input(index)
    if value is None:
        raise fail(node, index, "a value")
    return value


def integer(node: Node, name: str, default: int) -> int:
    """Attribute ``name`` as an int.

    Raises:
        TypeInferenceError: it is of another kind.
    """
    value = node.attrs.get(name, default)
    if isinstance(value, int):
        return value
    raise bad_attr(node, name, "an int")


def integers(node: Node, name: str) -> tuple[int, ...] | None:
    """Attribute ``name`` as ints, None when absent.

    Raises:
        TypeInferenceError: it is of another kind.
    """
    value = node.attrs.get(name)
    if value is None:
        return None
    if isinstance(value, tuple) and not isinstance(value, RefAttr):
        items = tuple(item for item in value if isinstance(item, int))
        if len(items) == len(value):
            return items
    raise bad_attr(node, name, "ints")


def text(node: Node, name: str, default: str) -> str:
    """Attribute ``name`` as a string.

    Raises:
        TypeInferenceError: it is of another kind.
    """
    value = node.attrs.get(name, default)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise bad_attr(node, name, "a string")


def dtype_attr(node: Node, name: str, default: DType | None = None) -> DType | None:
    """Attribute ``name`` as an element type; absent or 0 (undefined) gives ``default``.

    Raises:
        TypeInferenceError: ONNX has no such element type.
    """
    code = integer(node, name, 0)
    if code == 0:
        return default
    try:
        return DType(code)
    except ValueError:
        raise bad_attr(node, name, "the code of an element type") from None


def tensor_attr(node: Node, name: str) -> Tensor | None:
    """Attribute ``name`` as a tensor, None when absent.

    Raises:
        TypeInferenceError: it is of another kind.
    """
    value = node.attrs.get(name)
    if value is None or isinstance(value, Tensor):
        return value
    raise bad_attr(node, name, "a tensor")


def axis(node: Node, value: int, rank: int, name: str = "axis") -> int:
    """``value`` counted from the front.

    Raises:
        TypeInferenceError: a tensor of ``rank`` has no such axis.
    """
    if -rank <= value < rank:
        return value + rank if value < 0 else value
    raise TypeInferenceError(f"{node.label}: {name} {value} of a tensor of rank {rank}")


def possible(node: Node, index: int, shape: Shape) -> Shape:
    """``shape`` of an output, computed from input ``index``.

    Raises:
        TypeInferenceError: a dimension would be negative.
    """
    if any(isinstance(dim, int) and dim < 0 for dim in shape):
        raise fail(node, index, f"larger sizes, the output would be [{', '.join(str(dim) for dim in shape)}]")
    return shape


def fresh(node: Node, index: int, position: int) -> Dim:
    """A new symbol for a dimension of output ``index`` that depends on data; same name every time."""
    name = node.outputs[index].name if index < len(node.outputs) else f"{node.name or node.op}.{index}"
    return sym(f"{name}.{position}")


def fresh_shape(node: Node, index: int, rank: int | None) -> Shape | None:
    """A shape of fresh symbols for output ``index``; None for an unknown rank."""
    return None if rank is None else tuple(fresh(node, index, i) for i in range(rank))


def moved_quant(type: TensorType) -> QuantScheme | None:
    """The quantization scheme after elements have moved: per-tensor ones stay."""
    return type.quant if type.quant is not None and type.quant.axis is None else None
