"""Scalars as ONNX has them, where TVM's own operations differ: NaN, division by zero, conversions, types."""

from __future__ import annotations

import math

from tvm import tirx

from graphopt.backend.symbolic import Expr, type_of

_NARROW = ("float16", "bfloat16")
_POW = {"float32": "powf", "float64": "pow"}


def widen(x: Expr) -> Expr:
    """16-bit floats as float32, everything else as it is."""
    return x.astype("float32") if type_of(x) in _NARROW else x


def is_float(x: Expr) -> bool:
    """Whether an expression has a floating-point type."""
    return "float" in type_of(x)


def const(value: float, like: Expr) -> Expr:
    """A number of the type of ``like``."""
    return tirx.const(value, type_of(like))


def at_least(x: Expr, bound: Expr) -> Expr:
    """max(x, bound), and NaN where x is: TVM's own maximum gives the bound there. Uses x twice."""
    return tirx.Select(x < bound, bound, x)


def at_most(x: Expr, bound: Expr) -> Expr:
    """min(x, bound), and NaN where x is. Uses x twice."""
    return tirx.Select(x > bound, bound, x)


def larger(x: Expr, y: Expr) -> Expr:
    """The larger of two, and NaN where either is. Uses both more than once."""
    return _extremum(x, y, tirx.max(x, y) if not is_float(x) else tirx.Select(y > x, y, x))


def smaller(x: Expr, y: Expr) -> Expr:
    """The smaller of two, and NaN where either is. Uses both more than once."""
    return _extremum(x, y, tirx.min(x, y) if not is_float(x) else tirx.Select(y < x, y, x))


def _extremum(x: Expr, y: Expr, ordered: Expr) -> Expr:
    """``ordered``, which is ``x`` where either is NaN, put right where ``y`` is."""
    # A constant and not y: LLVM would join the two comparisons, and take four instructions for three.
    return tirx.Select(tirx.isnan(y), const(math.nan, y), ordered) if is_float(x) else ordered


def quotient(x: Expr, y: Expr) -> Expr:
    """x / y of floats.

    Division by a constant stays a division, as the reciprocal of most numbers is not exact. TVM refuses
    the constant 0, whose reciprocal is.
    """
    if isinstance(y, tirx.FloatImm) and y.value == 0:
        return x * const(math.copysign(math.inf, y.value), x)
    return x / y


def sign(x: Expr) -> Expr:
    """-1, 0 or 1, and NaN for NaN."""
    zero, one = const(0, x), const(1, x)
    if is_unsigned(x):
        return tirx.Select(x > zero, one, zero)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, const(-1, x), zero if not is_float(x) else x))


def select_negative(x: Expr, negative: Expr) -> Expr:
    """``x``, and ``negative`` where that is below 0. Uses x twice."""
    return tirx.Select(x < const(0, x), negative, x)


def safe_divisor(y: Expr) -> Expr:
    """``y``, and 1 for divisors that stop the process: 0, and -1 (for the smallest number)."""
    stops = y == const(0, y)
    return tirx.Select(stops if is_unsigned(y) else tirx.any(stops, y == const(-1, y)), const(1, y), y)


def unless_zero(y: Expr, divided: Expr, negated: Expr) -> Expr:
    """What a safe divisor gave, put right where ``y`` was none: by 0 it is 0."""
    if not is_unsigned(y):
        divided = tirx.Select(y == const(-1, y), negated, divided)
    return tirx.Select(y == const(0, y), const(0, y), divided)


def negated(x: Expr) -> Expr:
    """-x, and the smallest number again for the smallest number; without signs, where that is defined."""
    if is_unsigned(x):
        return x
    bits = tirx.reinterpret(f"u{type_of(x)}", x)
    # Not 0 - bits: TVM's simplifier takes that for a negative number.
    return tirx.reinterpret(type_of(x), tirx.bitwise_not(bits) + const(1, bits))


def is_unsigned(x: Expr) -> bool:
    """Whether an expression has an integer type without signs."""
    return type_of(x).startswith("uint")


def power(x: Expr, y: Expr) -> Expr:
    """x to the power of y, floats of one type."""
    # Not `tirx.pow`: TVM advises against constant powers from 3 on, on the user's standard error.
    return tirx.call_pure_extern(type_of(x), _POW[type_of(x)], x, y)


def countable(x: Expr) -> Expr:
    """Truth values as integers: TVM compares them as if they were floats."""
    return x.astype("int8") if type_of(x) == "bool" else x


def cast_to(x: Expr, wanted: str) -> Expr:
    """Conversion as ONNX's Cast has it: floats to integers truncate, anything but 0 is true."""
    source = type_of(x)
    if source == wanted:
        return x
    if wanted == "bool":
        return tirx.NE(x, const(0, x))
    if source == "bool":
        return tirx.Select(x, tirx.const(1, wanted), tirx.const(0, wanted))
    return x.astype(wanted)
