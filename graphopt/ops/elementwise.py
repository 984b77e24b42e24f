"""Elementwise operators: unary maps, broadcasting arithmetic and logic, casts."""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.dims import Shape
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import bad_attr, dtype_attr, fail, integer, same_dtype, tensor, value_of
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import broadcast


@declare(
    Kind.ELEMENTWISE, "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
def unary(node: Node) -> list[Type]:
    """Element type and shape of the input; the integers of a quantized tensor lose their meaning."""
    x = tensor(node, 0)
    return [x if x.quant is None and x.layout is None else TensorType(x.dtype, x.shape)]


@declare(Kind.ELEMENTWISE, "Add", "Mul", "BitwiseAnd", "BitwiseOr", "BitwiseXor", commutative=True)
@declare(Kind.ELEMENTWISE, "Sub", "Div", "Mod", "BitShift")
def binary(node: Node) -> list[Type]:
    """Both inputs of one element type, broadcast."""
    left, right = node.inputs
    if left is not None and right is not None:
        a, b = left.type, right.type
        # The usual case first: equal shapes, nothing special. Types are immutable, so reuse one.
        if a.__class__ is TensorType and a.quant is None and a.layout is None and (a is b or a == b):
            return [a]
    return [_broadcast(node, same_dtype(node, (0, 1)))]


@declare(Kind.ELEMENTWISE, "Equal", "And", "Or", "Xor", commutative=True)
@declare(Kind.ELEMENTWISE, "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: Node) -> list[Type]:
    """Inputs of one element type, broadcast; the result is bool."""
    same_dtype(node, (0, 1))
    return [_broadcast(node, DType.BOOL)]


@declare(Kind.ELEMENTWISE, "Max", "Min", "Sum", "Mean", commutative=True)
def variadic(node: Node) -> list[Type]:
    """Any number of inputs of one element type, broadcast."""
    return [_broadcast(node, same_dtype(node, range(len(node.inputs))))]


@declare(Kind.ELEMENTWISE, "Pow", "PRelu")
def by_first(node: Node) -> list[Type]:
    """Element type of the first input; Pow's exponent may have another, PRelu's slope broadcasts."""
    x = tensor(node, 0)
    if node.op == "PRelu":
        same_dtype(node, (0, 1))
        slope = tensor(node, 1)
        if x.shape is None or slope.shape is None or len(slope.shape) <= len(x.shape):
            return [TensorType(x.dtype, x.shape)]
    return [_broadcast(node, x.dtype)]


@declare(Kind.ELEMENTWISE, "Where")
def where(node: Node) -> list[Type]:
    """A bool condition and two inputs of one element type, all broadcast."""
    condition = tensor(node, 0)
    if condition.dtype not in (None, DType.BOOL):
        raise fail(node, 0, "a bool tensor")
    return [_broadcast(node, same_dtype(node, (1, 2)))]


def _broadcast(node: Node, dtype: DType | None) -> TensorType:
    first = tensor(node, 0)
    shape: Shape | None = first.shape
    for index in range(1, len(node.inputs)):
        other = tensor(node, index)
        if shape is None or other.shape is None:
            shape = None
            continue
        if other.shape == shape:
            continue
        together = broadcast(shape, other.shape)
        if together is None:
            text = ", ".join(str(dim) for dim in shape)
            raise fail(node, index, f"a shape that broadcasts with [{text}]")
        shape = together
    return TensorType(dtype, shape)


@declare(Kind.ELEMENTWISE, "Identity")
def identity(node: Node) -> list[Type]:
    """Whatever the input is, sequences and optionals too."""
    type = value_of(node, 0).type
    return [replace(type, layout=None) if isinstance(type, TensorType) and type.layout else type]


@declare(Kind.ELEMENTWISE, "Cast", "BitCast")
def cast(node: Node) -> list[Type]:
    """The element type that ``to`` names."""
    x = tensor(node, 0)
    _check_saturate(node)
    target = dtype_attr(node, "to")
    if node.op == "BitCast" and None not in (x.dtype, target) and x.dtype.bits != target.bits:  # type: ignore[union-attr]
        raise fail(node, 0, f"elements of {target.bits} bits")  # type: ignore[union-attr]
    return [TensorType(target, x.shape)]


@declare(Kind.ELEMENTWISE, "CastLike")
def cast_like(node: Node) -> list[Type]:
    """The element type of the second input."""
    x = tensor(node, 0)
    _check_saturate(node)
    return [TensorType(tensor(node, 1).dtype, x.shape)]


def _check_saturate(node: Node) -> None:
    # With anything else ONNX Runtime gives whatever lies in memory.
    if integer(node, "saturate", 1) not in (0, 1):
        raise bad_attr(node, "saturate", "0 or 1")


@declare(Kind.ELEMENTWISE, "IsInf", "IsNaN")
def predicate(node: Node) -> list[Type]:
    """Bool of the input's shape."""
    x = tensor(node, 0)
    return [TensorType(DType.BOOL, x.shape)]


@declare(Kind.ELEMENTWISE, "Dropout")
def dropout(node: Node) -> list[Type]:
    """The input's type, and a bool mask of its shape."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape), TensorType(DType.BOOL, x.shape)]


@declare(Kind.ELEMENTWISE, "Bernoulli", pure=False)
def bernoulli(node: Node) -> list[Type]:
    """The input's shape; ``dtype`` overrides its element type."""
    x = tensor(node, 0)
    return [TensorType(dtype_attr(node, "dtype", x.dtype), x.shape)]
