"""exp, log, tanh, sigmoid and erf as expressions that vectorise.

LLVM turns these functions into scalar calls of the C library, one lane at a time. Here float32 is
computed by polynomials (minimax fits made for this file, by reweighted least squares on Chebyshev
nodes) and bit operations, to about one unit in the last place; see the tests for the bounds.
16-bit floats are computed in float32; float64 is left to the C library.

NaN gives NaN, infinities and denormal numbers give what the function's limit or value is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import Expr

_LOG2_E = 1.4426950408889634
# log(2) in two parts: n * _LN2_HIGH is exact for every exponent n.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440054690583e-4
# Added and subtracted, it rounds to an integer, which then stands in the low bits.
_ROUND = 12582912.0
_ROUND_BITS = 0x4B400000
# exp(r) = 1 + r + r^2 P(r) on |r| <= log(2)/2
_EXP = (0.5000000078091622, 0.16666666861165855, 0.04166626930246641, 0.00833326424418661,
        0.0013946119407426526, 0.00019918447174906801)  # fmt: skip
# tanh(x) = x + x^3 P(x^2) on |x| <= 0.63
_TANH = (-0.33333330571359, 0.1333319591139737, -0.053945378393563406, 0.021692606981640578,
         -0.00815628020508709, 0.0021227455564430476)  # fmt: skip
# erf(x) = x P(x^2) on |x| <= 1
_ERF = (1.1283791670631587, -0.3761263848381084, 0.11283782747236452, -0.026865445823727054,
        0.005221074885091173, -0.000848471155681976, 0.00011270545311572747,
        -9.680138851828471e-06)  # fmt: skip
# exp(x^2) (1 - erf(x)) = P(1 / (x + 2)) on [1, 4]
_ERFCX = (0.0020736178694346075, 0.5141590385776811, 1.6326597037583506, -0.7252259303084658,
          10.728681109501945, -8.130689190592205, 0.42570677132764934)  # fmt: skip
# log(1 + f) = f - f^2/2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG = (0.3333331043855709, -0.24999986623513368, 0.20002226696231853, -0.16669249576743006,
        0.1421865565173449, -0.12384368458702494, 0.11873012928104677, -0.1178970502678852,
        0.06915165525206309)  # fmt: skip


def exp(x: Expr) -> Expr:
    """e to the power x."""
    return _by_type(x, _exp, T.exp)


def log(x: Expr) -> Expr:
    """The natural logarithm of x."""
    return _by_type(x, _log, T.log)


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent of x."""
    return _by_type(x, _tanh, T.tanh)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return _by_type(x, lambda v: _one(v) / (_one(v) + exp(-v)), lambda v: _one(v) / (_one(v) + T.exp(-v)))


def erf(x: Expr) -> Expr:
    """The error function of x."""
    return _by_type(x, _erf, T.erf)


def _by_type(x: Expr, single: Callable[[Expr], Expr], double: Callable[[Expr], Expr]) -> Expr:
    if x.ty.dtype == "float64":
        return double(x)
    if x.ty.dtype == "float32":
        return _let(x, single)
    return _let(x.astype("float32"), single).astype(x.ty.dtype)


_BINDER: ContextVar[Callable[[Expr], Expr] | None] = ContextVar("binder", default=None)


@contextmanager
def bound_by(bind: Callable[[Expr], Expr]) -> Iterator[None]:
    """Within, values that are used more than once become what ``bind`` makes of them, not a nested Let.

    TVM's passes visit the value of a Let twice, so Lets inside the values of Lets cost exponential time.
    """
    token = _BINDER.set(bind)
    try:
        yield
    finally:
        _BINDER.reset(token)


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """body(value) with the value computed once: expressions are trees, not graphs."""
    bind = _BINDER.get()
    if bind is not None:
        return body(bind(value))
    name = tirx.Var("t", value.ty)
    return tirx.Let(name, value, body(name))


def _f32(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _one(x: Expr) -> Expr:
    return tirx.FloatImm(x.ty.dtype, 1.0)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    *rest, total = (_f32(c) for c in coefficients)
    for coefficient in reversed(rest):
        total = total * x + coefficient
    return total


def _exp(x: Expr) -> Expr:
    def scaled(clipped: Expr) -> Expr:
        return _let(clipped * _f32(_LOG2_E) + _f32(_ROUND), lambda shifted: power(clipped, shifted))

    def power(clipped: Expr, shifted: Expr) -> Expr:
        n = shifted - _f32(_ROUND)
        reduced = clipped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
        exponent = T.reinterpret("int32", shifted) - tirx.IntImm("int32", _ROUND_BITS)
        return _let(reduced, lambda r: _let(exponent, lambda e: product(r, e)))

    def product(r: Expr, e: Expr) -> Expr:
        # In two factors, since 2^e alone may be out of range where the result is not.
        half = e >> 1
        return (r * r * _polynomial(r, _EXP) + r + _f32(1.0)) * _power_of_two(half) * _power_of_two(e - half)

    # Selects that keep NaN. Outside these ends the result is 0 or infinite.
    above = tirx.Select(x < _f32(-104.0), _f32(-104.0), x)
    return _let(above, lambda v: _let(tirx.Select(v > _f32(89.0), _f32(89.0), v), scaled))


def _power_of_two(e: Expr) -> Expr:
    return T.reinterpret("float32", (e + 127) << 23)


def _tanh(x: Expr) -> Expr:
    small = _let(x * x, lambda z: x * z * _polynomial(z, _TANH) + x)
    size = T.reinterpret("float32", T.reinterpret("int32", x) & tirx.IntImm("int32", 0x7FFFFFFF))
    large = _f32(1.0) - _f32(2.0) / (exp(size * _f32(2.0)) + _f32(1.0))
    return _let(large, lambda t: tirx.Select(size < _f32(0.625), small, tirx.Select(x < _f32(0.0), -t, t)))


def _erf(x: Expr) -> Expr:
    def large(size: Expr) -> Expr:
        tail = _let(_f32(1.0) / (size + _f32(2.0)), lambda t: _polynomial(t, _ERFCX))
        return _f32(1.0) - exp(-(size * size)) * tail

    small = _let(x * x, lambda z: x * _polynomial(z, _ERF))
    size = T.reinterpret("float32", T.reinterpret("int32", x) & tirx.IntImm("int32", 0x7FFFFFFF))
    clipped = tirx.Select(size > _f32(4.0), _f32(4.0), size)
    signed = _let(_let(clipped, large), lambda t: tirx.Select(x < _f32(0.0), -t, t))
    return tirx.Select(size < _f32(1.0), small, signed)


def _log(x: Expr) -> Expr:
    tiny = x < _f32(1.17549435e-38)
    normal = tirx.Select(tiny, x * _f32(8388608.0), x)
    bits = T.reinterpret("int32", normal)

    def split(bits: Expr) -> Expr:
        # The exponent for which the mantissa lies in [sqrt(1/2), sqrt(2)).
        exponent = (bits - tirx.IntImm("int32", 0x3F3504F3)) >> 23
        return _let(exponent, lambda e: parts(T.reinterpret("float32", bits - (e << 23)), e))

    def parts(mantissa: Expr, e: Expr) -> Expr:
        n = e.astype("float32") - tirx.Select(tiny, _f32(23.0), _f32(0.0))
        return _let(mantissa - _f32(1.0), lambda f: _let(n, lambda k: total(f, k)))

    def total(f: Expr, n: Expr) -> Expr:
        cubic = _let(f * f, lambda z: f * z * _polynomial(f, _LOG) + n * _f32(_LN2_LOW) - z * _f32(0.5))
        return cubic + f + n * _f32(_LN2_HIGH)

    infinity, nan = float("inf"), float("nan")
    edge = tirx.Select(x == _f32(0.0), _f32(-infinity), tirx.Select(x < _f32(0.0), _f32(nan), x))
    # Ordered comparisons are false for NaN, which then passes through `edge`.
    regular = tirx.all(x > _f32(0.0), x < _f32(infinity))
    return tirx.Select(regular, _let(bits, split), edge)
