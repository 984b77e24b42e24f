"""Readers of elementwise operators: a scalar from the scalars of the inputs at the broadcast index.

Formulas are those of the ONNX operator specifications. 16-bit floats are computed in float32 and
rounded after every operator, as the engines do that this is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from tvm import tirx

from graphopt.backend.readers.context import Context, reader
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.scalars import (
    at_least,
    at_most,
    cast_to,
    const,
    countable,
    is_float,
    larger,
    negated,
    power,
    quotient,
    safe_divisor,
    select_negative,
    sign,
    smaller,
    unless_zero,
    widen,
)
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Node

_FMOD = {"float32": "fmodf", "float64": "fmod"}
_SQRT_HALF = math.sqrt(0.5)


def operands(context: Context, node: Node, index: int, indices: Indices) -> list[Expr]:
    """All present inputs at the broadcast index; 16-bit floats widened to float32."""
    shape = shape_of(node.outputs[index])
    values = [value for value in node.inputs if value is not None]
    return [widen(context.broadcast(value, indices, shape)) for value in values]


def attribute(node: Node, name: str, default: float) -> float:
    """A number among the attributes."""
    return float(cast(float, node.attrs.get(name, default)))


def _pointwise(*ops: str) -> Callable[[Callable[..., Expr]], Callable[..., Expr]]:
    """Enters ``function(context, node, operands) -> expression`` as a reader, result cast to the output's type."""

    def attach(function: Callable[..., Expr]) -> Callable[..., Expr]:
        def read(context: Context, node: Node, index: int, indices: Indices) -> Expr:
            result = function(context, node, operands(context, node, index, indices))
            wanted = dtype_of(node.outputs[index])
            return result if type_of(result) == wanted else result.astype(wanted)

        reader(*ops)(read)
        return function

    return attach


def _unary(op: str, function: Callable[[Context, Node, Expr], Expr]) -> None:
    """Enters an operator of one operand; the operand is bound, so a formula may use it often."""

    @_pointwise(op)
    def apply(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
        return function(context, node, context.bind(args[0]))


def sigmoid(context: Context, x: Expr) -> Expr:
    """1 / (1 + exp(-x)), without overflow to infinity's reciprocal losing the sign."""
    if "sigmoid" in context.vector_math:
        return context.math("sigmoid", x)
    return const(1, x) / (const(1, x) + context.math("exp", -x))


def _softplus(context: Context, x: Expr) -> Expr:
    # log(1 + exp(x)) overflows for large x; exp of a number <= 0 does not.
    return tirx.max(x, const(0, x)) + context.math("log", const(1, x) + context.math("exp", -tirx.abs(x)))


def _gelu(context: Context, node: Node, x: Expr) -> Expr:
    if node.attrs.get("approximate", "none") in ("tanh", b"tanh"):
        inner = const(math.sqrt(2 / math.pi), x) * (x + const(0.044715, x) * x * x * x)
        return const(0.5, x) * x * (const(1, x) + context.math("tanh", context.bind(inner)))
    return const(0.5, x) * x * (const(1, x) + context.math("erf", context.bind(x * const(_SQRT_HALF, x))))


def _half_exp(context: Context, x: Expr) -> Expr:
    """exp(x) / 2, which is finite for some x for which exp(x) is not."""
    root = context.bind(context.math("exp", const(0.5, x) * x))
    return const(0.5, x) * root * root


def _sinh(context: Context, x: Expr) -> Expr:
    """Near 0 the difference of exponentials would cancel."""
    half = context.bind(context.math("tanh", const(0.5, x) * x))
    small = const(2, x) * half / (const(1, x) - half * half)
    large = _half_exp(context, x) - _half_exp(context, -x)
    return tirx.Select(tirx.abs(x) < const(1, x), small, large)


def _hard_sigmoid(context: Context, x: Expr, alpha: float, beta: float) -> Expr:
    line = context.bind(const(alpha, x) * x + const(beta, x))
    return at_least(context.bind(at_most(line, const(1, x))), const(0, x))


def _is_inf(node: Node, x: Expr) -> Expr:
    positive, negative = node.attrs.get("detect_positive", 1), node.attrs.get("detect_negative", 1)
    infinity = const(math.inf, x)
    if positive and negative:
        return tirx.EQ(tirx.abs(x), infinity)
    if positive:
        return tirx.EQ(x, infinity)
    return tirx.EQ(x, -infinity) if negative else tirx.const(0, "bool")


def _shrink(node: Node, x: Expr) -> Expr:
    bias, lambd = attribute(node, "bias", 0), attribute(node, "lambd", 0.5)
    low = tirx.Select(x < const(-lambd, x), x + const(bias, x), const(0, x))
    return tirx.Select(x > const(lambd, x), x - const(bias, x), low)


def _elu(context: Context, x: Expr, alpha: float) -> Expr:
    return select_negative(x, const(alpha, x) * (context.math("exp", x) - const(1, x)))


def _selu(context: Context, node: Node, x: Expr) -> Expr:
    alpha = attribute(node, "alpha", 1.67326319217681884765625)
    gamma = attribute(node, "gamma", 1.05070102214813232421875)
    return const(gamma, x) * tirx.Select(
        x > const(0, x), x, const(alpha, x) * (context.math("exp", x) - const(1, x))
    )


def _celu(context: Context, node: Node, x: Expr) -> Expr:
    alpha = attribute(node, "alpha", 1)
    grown = const(alpha, x) * (context.math("exp", x / const(alpha, x)) - const(1, x))
    return select_negative(x, grown)


def _rounded(name: str) -> Callable[[Context, Node, Expr], Expr]:
    return lambda context, node, x: getattr(tirx, name)(x) if is_float(x) else x


_TRANSCENDENTAL = (
    "Exp", "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Tanh", "Asinh", "Acosh",
    "Atanh", "Erf",
)  # fmt: skip
for _name in _TRANSCENDENTAL:
    _unary(_name, lambda context, node, x: context.math(node.op.lower(), x))

_unary("Cosh", lambda context, node, x: _half_exp(context, x) + _half_exp(context, -x))
_unary("Sinh", lambda context, node, x: _sinh(context, x))
_unary("Abs", lambda context, node, x: x if type_of(x).startswith("uint") else tirx.abs(x))
_unary("Neg", lambda context, node, x: -x)
_unary("Sign", lambda context, node, x: sign(x))
_unary("Ceil", _rounded("ceil"))
_unary("Floor", _rounded("floor"))
_unary("Round", _rounded("nearbyint"))
_unary("Sqrt", lambda context, node, x: tirx.sqrt(x))
_unary("Reciprocal", lambda context, node, x: const(1, x) / x)
_unary("Sigmoid", lambda context, node, x: sigmoid(context, x))
_unary("Relu", lambda context, node, x: at_least(x, const(0, x)))
_unary("LeakyRelu", lambda context, node, x: select_negative(x, const(attribute(node, "alpha", 0.01), x) * x))
_unary("Elu", lambda context, node, x: _elu(context, x, attribute(node, "alpha", 1)))
_unary("Selu", _selu)
_unary("Celu", _celu)
_unary(
    "Mish",
    lambda context, node, x: x * context.math("tanh", context.bind(_softplus(context, x))),
)
_unary("Gelu", _gelu)
_unary(
    "HardSigmoid",
    lambda context, node, x: _hard_sigmoid(
        context, x, attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    ),
)
_unary("HardSwish", lambda context, node, x: x * _hard_sigmoid(context, x, 1 / 6, 0.5))
_unary(
    "Swish",
    lambda context, node, x: x * sigmoid(context, context.bind(const(attribute(node, "alpha", 1), x) * x)),
)
_unary("Softplus", lambda context, node, x: _softplus(context, x))
_unary("Softsign", lambda context, node, x: x / (const(1, x) + tirx.abs(x)))
_unary(
    "ThresholdedRelu",
    lambda context, node, x: tirx.Select(x > const(attribute(node, "alpha", 1), x), x, const(0, x)),
)
_unary("Shrink", lambda context, node, x: _shrink(node, x))
_unary("Not", lambda context, node, x: tirx.Not(x))
_unary("BitwiseNot", lambda context, node, x: tirx.bitwise_not(x))
_unary("IsNaN", lambda context, node, x: tirx.isnan(x))
_unary("IsInf", lambda context, node, x: _is_inf(node, x))


@_pointwise("Add")
def _add(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    return args[0] + args[1]


@_pointwise("Sub")
def _sub(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    return args[0] - args[1]


@_pointwise("Mul")
def _mul(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    return args[0] * args[1]


@_pointwise("Div")
def _div(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    x, y = args
    if is_float(x):
        return quotient(x, y)
    if _divides_safely(context, node, y):
        return tirx.truncdiv(x, y)
    x, y = context.bind(x), context.bind(y)
    return unless_zero(y, tirx.truncdiv(x, safe_divisor(y)), negated(x))


@_pointwise("Mod")
def _mod(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    x, y = args
    if is_float(x):
        x, y = context.bind(x), context.bind(y)
        rest = context.bind(tirx.call_pure_extern(type_of(x), _FMOD[type_of(x)], x, y))
        if node.attrs.get("fmod", 0):
            return rest
        zero = const(0, x)
        return tirx.Select(
            tirx.all(
                rest != zero, tirx.Not(tirx.EQ((rest < zero).astype("int8"), (y < zero).astype("int8")))
            ),
            rest + y,
            rest,
        )
    if not _divides_safely(context, node, y):
        # Nothing is left over by 1, and so by 0 and -1.
        y = safe_divisor(context.bind(y))
    return tirx.truncmod(x, y) if node.attrs.get("fmod", 0) else tirx.floormod(x, y)


def _divides_safely(context: Context, node: Node, y: Expr) -> bool:
    """Whether the divisor is a constant that the CPU's division takes whatever it divides."""
    known = context.constant(node.inputs[1])
    return known is not None and not ((known == 0) | (known.astype("int64") == -1)).any()


@_pointwise("Pow")
def _pow(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    x, y = args
    if not is_float(x):
        # Exact for every power whose result a float64 holds.
        return power(x.astype("float64"), y.astype("float64"))
    exponent = context.constant(node.inputs[1])
    if exponent is not None and exponent.size == 1:
        known = float(exponent.reshape(-1)[0])
        if known in (1, 2, 3):
            base = context.bind(x)
            return base if known == 1 else base * base if known == 2 else base * base * base
        if known == 0.5:
            return tirx.sqrt(x)
    return power(x, y.astype(type_of(x)))


@_pointwise("PRelu")
def _prelu(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    x = context.bind(args[0])
    return select_negative(x, x * args[1])


@_pointwise("Where")
def _where(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    return tirx.Select(args[0], args[1], args[2])


@_pointwise("Clip")
def _clip(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    remaining = list(args[1:])
    x = context.bind(args[0])
    if node.input(1) is not None:
        x = context.bind(at_least(x, remaining.pop(0)))
    return at_most(x, remaining.pop(0)) if node.input(2) is not None else x


@_pointwise("BitShift")
def _bit_shift(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    left = node.attrs.get("direction") in ("LEFT", b"LEFT")
    x, y = args
    bits = int(type_of(x).lstrip("uint"))
    shifted = tirx.shift_left(x, y) if left else tirx.shift_right(x, y)
    # All bits shifted out: what is left is the sign.
    emptied = (
        const(0, x) if left or type_of(x).startswith("uint") else tirx.shift_right(x, const(bits - 1, x))
    )
    return tirx.Select(y < const(bits, y), shifted, emptied)


_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "And": tirx.And,
    "Or": tirx.Or,
    "Xor": lambda x, y: tirx.NE(countable(x), countable(y)),
    "BitwiseAnd": tirx.bitwise_and,
    "BitwiseOr": tirx.bitwise_or,
    "BitwiseXor": tirx.bitwise_xor,
    "Equal": lambda x, y: tirx.EQ(countable(x), countable(y)),
    "Less": tirx.LT,
    "Greater": tirx.GT,
    "LessOrEqual": tirx.LE,
    "GreaterOrEqual": tirx.GE,
}


@_pointwise(*_BINARY)
def _binary(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    return _BINARY[node.op](args[0], args[1])


_VARIADIC: dict[str, Callable[[Expr, Expr], Expr]] = {
    "Max": larger,
    "Min": smaller,
    "Sum": lambda x, y: x + y,
    "Mean": lambda x, y: x + y,
}


@_pointwise(*_VARIADIC)
def _variadic(context: Context, node: Node, args: Sequence[Expr]) -> Expr:
    total = args[0]
    for arg in args[1:]:
        total = _VARIADIC[node.op](context.bind(total), context.bind(arg))
    return total / const(len(args), total) if node.op == "Mean" else total


@reader("Identity", "Dropout")
def _identity(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    mode = node.input(2)
    if mode is not None:
        trains = context.constant(mode)
        if trains is None or trains.any():
            raise refuse(node, "dropout in training mode is random", "export the model for inference")
    if index == 1:
        return tirx.const(1, "bool")
    return context.input(node, 0, indices)


@reader("Cast", "CastLike")
def _cast(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    return cast_to(context.input(node, 0, indices), dtype_of(node.outputs[0]))


@reader("BitCast")
def _bit_cast(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    x, wanted = countable(context.input(node, 0, indices)), dtype_of(node.outputs[0])
    return cast_to(x, wanted) if wanted == "bool" else tirx.reinterpret(wanted, x)
