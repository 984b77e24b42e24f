"""exp, log, tanh, sigmoid and erf as expressions that vectorise.

LLVM turns these functions into scalar calls of the C library, one lane at a time. Here float32 is
computed by polynomials (minimax fits made for this file, by reweighted least squares on Chebyshev
nodes) and bit operations, to a few units in the last place; see the tests for the bounds.
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
# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9
_TANH = ((0.999999999964777, 0.14099947628019413, 0.00442693334631817, 4.229917097038255e-05,
          1.1132281360377305e-07, 3.6836606730397584e-11),
         (1.0, 0.47433280922473436, 0.02920453713109032, 0.0005010237157146236,
          2.6062226933654127e-06, 2.956634493379643e-09))  # fmt: skip
# Beyond this the number next to tanh's value is 1.
_TANH_END = 9.0109
# erf(x) = x P(x^2) / Q(x^2) on |x| <= 3.925
_ERF = ((1.1283791695742182, 0.1924581526389654, 0.0555811635520719, 0.00419435297646602,
         0.0004056879304376097, 6.586588582703977e-06),
        (1.0, 0.5038950180306835, 0.11722195668303208, 0.016212625491077062, 0.001407427974129196,
         7.109658461555845e-05, 2.4888590556350854e-07))  # fmt: skip
_ERF_END = 3.925
# Beyond this sigmoid is no normal number.
_SIGMOID_END = 87.33
# log(1 + f) = f - f^2/2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG = (0.3333331043855709, -0.24999986623513368, 0.20002226696231853, -0.16669249576743006,
        0.1421865565173449, -0.12384368458702494, 0.11873012928104677, -0.1178970502678852,
        0.06915165525206309)  # fmt: skip


def exp(x: Expr) -> Expr:
    """e to the power x."""
    return _by_type(x, _exp, T.exp)


def exp_of_negative(x: Expr) -> Expr:
    """e to the power x of a float32 that is not above 0; what would be no normal number is 0."""

    def value(x: Expr) -> Expr:
        return tirx.Select(x < _f32(-87.0), _f32(0.0), _exp_above(x, -87.0))

    return _let(x, value)


def log(x: Expr) -> Expr:
    """The natural logarithm of x."""
    return _by_type(x, _log, T.log)


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent of x."""
    return _by_type(x, _tanh, T.tanh)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)); of float32, what would be no normal number is 0."""
    return _by_type(
        x,
        lambda v: tirx.Select(
            v < _f32(-_SIGMOID_END), _f32(0.0), _one(v) / (_one(v) + _exp_above(-v, -87.0))
        ),
        lambda v: _one(v) / (_one(v) + T.exp(-v)),
    )


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


def _reduced(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """body(e^r, n) for x = n log(2) + r."""

    def split(shifted: Expr) -> Expr:
        n = shifted - _f32(_ROUND)
        reduced = x - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
        exponent = T.reinterpret("int32", shifted) - tirx.IntImm("int32", _ROUND_BITS)
        return _let(reduced, lambda r: body(r * r * _polynomial(r, _EXP) + r + _f32(1.0), exponent))

    return _let(x * _f32(_LOG2_E) + _f32(_ROUND), split)


def _exp(x: Expr) -> Expr:
    def product(power: Expr, exponent: Expr) -> Expr:
        # In two factors, since 2^e alone may be out of range where the result is not.
        return _let(exponent, lambda e: power * _power_of_two(e >> 1) * _power_of_two(e - (e >> 1)))

    # Selects that keep NaN. Outside these ends the result is 0 or infinite.
    above = tirx.Select(x < _f32(-104.0), _f32(-104.0), x)
    clipped = _let(above, lambda v: tirx.Select(v > _f32(89.0), _f32(89.0), v))
    return _let(clipped, lambda v: _reduced(v, product))


def _exp_above(x: Expr, low: float) -> Expr:
    """e to the power x, or to ``low`` if that is more; of no meaning where it is above 88."""
    clipped = _let(x, lambda v: tirx.Select(v < _f32(low), _f32(low), v))
    return _let(clipped, lambda v: _reduced(v, lambda power, e: power * _power_of_two(e)))


def _power_of_two(e: Expr) -> Expr:
    return T.reinterpret("float32", (e + 127) << 23)


def _odd_quotient(x: Expr, end: float, parts: tuple[Sequence[float], Sequence[float]]) -> Expr:
    """x P(x^2) / Q(x^2) within ``end`` of 0, beyond it 1 with the sign of x."""
    inner = _let(x * x, lambda z: x * _polynomial(z, parts[0]) / _polynomial(z, parts[1]))
    # NaN is beyond neither end.
    return tirx.Select(x > _f32(end), _f32(1.0), tirx.Select(x < _f32(-end), _f32(-1.0), inner))


def _tanh(x: Expr) -> Expr:
    return _odd_quotient(x, _TANH_END, _TANH)


def _erf(x: Expr) -> Expr:
    return _odd_quotient(x, _ERF_END, _ERF)


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
