"""Motifs: elementwise arithmetic, what cancels in it, casts, comparisons."""

from __future__ import annotations

import math

import numpy as np

from graphopt.evaluate.awkward import awkward
from graphopt.ir.graph import Value
from graphopt.ir.types import DType
from graphopt.testing.fuzzing.sketch import Sketch, known, shape_of, vector_to
from graphopt.testing.fuzzing.values import numbers

_SMOOTH = ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Erf", "Exp", "HardSigmoid", "Softplus",
           "LeakyRelu", "Elu", "Sin", "Softsign", "HardSwish", "Reciprocal", "Sqrt")  # fmt: skip
_JUMPS = ("Floor", "Ceil", "Round", "Sign")
_PAIRS = ("Add", "Sub", "Mul", "Max", "Min", "Div")
_INTS = (DType.I32, DType.I64, DType.U8, DType.I8)
_CASTS = (
    *(DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.U8, DType.I8, DType.BOOL) * 2,
    DType.BF16,
)


def unary(s: Sketch) -> object:
    """One map of each element, now and then one that jumps."""
    return s(s.choice(_JUMPS if s.chance(12) else _SMOOTH), s.value())


def repeated(s: Sketch) -> object:
    """An operator applied twice, which undoes or repeats itself; the first may have another user."""
    op = s.choice(("Neg", "Relu", "Abs", "Neg", "Floor", "Round", "Sign", "Ceil"))
    first = s(op, s.value())
    if s.chance(20):
        s("Add", first, first)
    return s(op, first)


def binary(s: Sketch) -> object:
    """Two values of equal shape, or one broadcast to the other."""
    a = s.value()
    shape = shape_of(a)
    dims = shape
    if s.chance(35):
        cut = s.number(0, len(shape))
        dims = tuple(1 if s.chance(30) else d for d in shape[cut:])
    b = s.value(rank=len(dims), where=lambda t: t == dims, shape=lambda: dims)
    op = s.choice(_PAIRS)
    return s(op, a, b) if s.chance(70) else s(op, b, a)


def with_constant(s: Sketch) -> object:
    """Arithmetic with a constant: a number, or one for each index of an axis."""
    x = s.value()
    axes = known(shape_of(x))
    shape = vector_to(shape_of(x), s.choice(axes)) if axes and s.chance() else ()
    c = s.constant(*shape)
    op = s.choice(("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow"))
    return s(op, c, x) if s.chance(30) and op != "Pow" else s(op, x, c)


def neutral(s: Sketch) -> object:
    """Arithmetic that changes nothing, or nearly: the zero may be negative or broadcast."""
    x = s.value(s.choice((s.float, s.float, DType.I64, DType.I32)))
    op = s.choice(("Add", "Sub", "Mul", "Div", "Pow"))
    unit = 0 if op in ("Add", "Sub") else 1
    shape = s.choice(((), (1,), (1, 1), (1,) * (len(shape_of(x)) + 1)))
    dtype = x.tensor.dtype
    assert dtype is not None
    data = np.full(shape, -0.0 if s.chance(20) and unit == 0 and dtype.is_float else unit).astype(dtype.numpy)
    c = s.array(data, dtype)
    commutes = op in ("Add", "Mul") and s.chance(40)
    return s(op, c, x) if commutes else s(op, x, c)


def several(s: Sketch) -> object:
    """Variadic operators of one to three operands."""
    x = s.value()
    dims = shape_of(x)
    others = [
        s.value(rank=len(dims), where=lambda t: t == dims, shape=lambda: dims) for _ in range(s.number(0, 2))
    ]
    return s(s.choice(("Sum", "Max", "Min", "Mean")), x, *others)


def logic(s: Sketch) -> object:
    """Booleans: comparisons, their combinations with constants, and a choice by them."""
    x = s.value()
    flags = s(s.choice(("Greater", "Less", "GreaterOrEqual")), x, s.constant(kind="zeros"))
    for _ in range(s.number(0, 2)):
        op = s.choice(("Not", "And", "Or", "Xor"))
        if op == "Not":
            flags = s("Not", s("Not", flags) if s.chance(70) else flags)
        else:
            flags = s(op, flags, s.const(s.chance(), dtype=bool))
    return s("Where", flags, x, s("Mul", x, s.constant(kind="halves")))


def decided(s: Sketch) -> object:
    """A Where whose condition is constant, of one element or of the whole shape."""
    x, c = s.value(), s.chance()
    condition = s.const(np.full(s.choice(((), (1,))), c), dtype=bool)
    return s("Where", condition, *((x, s.constant()) if s.chance() else (s.constant(), x)))


def activation(s: Sketch) -> object:
    """``x * sigmoid(x)`` and the two forms of Gelu, written out."""
    x = s.value()
    kind = s.choice(("erf", "tanh", "swish"))
    if kind == "swish":
        return s("Mul", x, s("Sigmoid", x))

    def number(value: float) -> Value:
        return s.const(value, dtype=s.float.numpy)

    half, one = s.constant(kind="halves"), s.constant(kind="ones")
    if kind == "erf":
        scaled = s("Div", x, number(math.sqrt(2))) if s.chance() else s("Mul", x, number(math.sqrt(0.5)))
        gate = s("Add", s("Erf", scaled), one)
    else:
        cube = s("Pow", x, number(3.0)) if s.chance() else s("Mul", x, s("Mul", x, x))
        inner = s("Add", x, s("Mul", cube, number(0.044715)))
        gate = s("Add", s("Tanh", s("Mul", inner, number(math.sqrt(2 / math.pi)))), one)
    order = s.number(0, 2)
    if order == 0:
        return s("Mul", s("Mul", x, gate), half)
    return s("Mul", s("Mul", x, half), gate) if order == 1 else s("Mul", x, s("Mul", gate, half))


def casts(s: Sketch) -> object:
    """To another type and back, or on to a third, or to its own."""
    x = s.value(s.choice((s.float, s.float, DType.I64, DType.I32, DType.U8, DType.I8, DType.BOOL)))
    for _ in range(s.number(1, 3)):
        to = s.choice(_CASTS)
        own = x.tensor.dtype
        assert own is not None
        if own.is_float and not to.is_float and to is not DType.BOOL:
            # What a float out of range becomes as an integer is left open; keep it inside.
            x = s(
                "Clip", x, s.const(-9, dtype=own.numpy), s.const(90 if to.is_signed else 9, dtype=own.numpy)
            )
            if not to.is_signed:
                x = s("Abs", x)
        x = s("CastLike", x, s.constant(dtype=to, kind="ones")) if s.chance(20) else s("Cast", x, to=to.value)
    return x


def integers(s: Sketch) -> object:
    """Arithmetic of integers with constants, the ends of the type among them."""
    dtype = s.choice(_INTS)
    x = s.value(dtype)
    for _ in range(s.number(1, 3)):
        ends = awkward(dtype)
        c = s.const(s.choice([*ends, dtype.numpy.type(3)]), dtype=dtype.numpy)
        op = s.choice(("Add", "Mul", "Sub", "BitwiseNot", "BitwiseAnd", "BitwiseXor", "Max", "Min"))
        if dtype.bits < 32 and op in ("Add", "Mul", "Sub"):
            op = "Max"
        x = s(op, s(op, x) if s.chance(60) else x) if op == "BitwiseNot" else s(op, x, c)
    return x


def folded(s: Sketch) -> object:
    """A chain of constants, used once; its numbers may overflow."""
    c = s.constant(*s.choice(((), (1,), (3,))))
    for _ in range(s.number(1, 3)):
        op = s.choice(("Exp", "Mul", "Neg", "Sqrt", "Concat"))
        if op == "Concat":
            c = s(op, c, c, axis=0) if c.tensor.rank else c
        else:
            c = s(op, c, c) if op == "Mul" else s(op, c)
    return s("Add", s.value(), s("ReduceSum", c, keepdims=0))


def twice(s: Sketch) -> object:
    """The same computation a second time, its operands in the other order where that is allowed."""
    x = s.value()
    dims = shape_of(x)
    y = s.value(rank=len(dims), where=lambda t: t == dims, shape=lambda: dims)
    op = s.choice(("Add", "Mul", "Sub", "Max"))
    first = s(op, x, y)
    second = s(op, y, x) if op in ("Add", "Mul") and s.chance() else s(op, x, y)
    same = s.choice(("Tanh", "Sigmoid", "Relu"))
    return s("Sub", s(same, first), s(same, second))


def equal_constants(s: Sketch) -> object:
    """Two constants of equal bits; or equal numbers of different bits, 0 and -0."""
    data = numbers(s.float, (), s.choice(("ones", "zeros", "halves")), 1)
    other = -data if s.chance(25) else data
    x = s.value()
    return s("Mul", s("Add", x, s.array(data, s.float)), s("Max", x, s.array(other, s.float)))


def dropout(s: Sketch) -> object:
    """Dropout that does not train."""
    ratio = s.const(0.5, dtype=s.float.numpy) if s.chance() else None
    mode = s.const(False, dtype=bool) if s.chance() else None
    return s("Dropout", s.value(), ratio, mode) if mode or ratio else s("Dropout", s.value())


def dead(s: Sketch) -> object:
    """A chain that probably nothing uses, beside one that goes on."""
    x = s.value()
    before = list(s.pool)
    unused = s("Mul", x, s.constant())
    if s.chance():
        s("Exp", unused)
    s.pool = before
    return s("Relu", x)


MOTIFS = (unary, binary, with_constant, neutral, repeated, several, logic, decided, activation, casts,
          integers, folded, twice, equal_constants, dropout, dead)  # fmt: skip
