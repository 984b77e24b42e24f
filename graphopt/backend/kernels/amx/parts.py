"""Floats as sums of bfloat16 parts.

bfloat16 has the exponent of float32 and 8 of its 24 bits of precision. So x = x0 + x1 + ..., each part
being what is left of x rounded to bfloat16, and a product of floats is a sum of products of parts,

    x * w  =  x0*w0 + x1*w0 + x0*w1  +  rest,      |rest| <= 3 * 2^-18 |x * w|

AMX multiplies bfloat16 sixteen times as fast as the vector unit floats, and sums in float32. With two
parts, three products, it is five times as fast, and ten times less exact; with three parts, six products,
as exact as float32 in three eighths of the time. 8-bit weights are exact in one part.

Source: G. Henry, P. Tang, A. Heinecke, Leveraging the bfloat16 artificial intelligence datatype for
higher-precision computations, ARITH 2019.

A part that is denormal counts as 0, so that numbers below 2^-108 have fewer bits, and denormal ones count as 0.
A sum over a number that is not finite, or is beyond 3.39e38, is NaN, also where floats give an infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import Expr
from graphopt.backend.kernels.temporaries import temporary

Array = npt.NDArray[np.generic]

_HALF = 0x8000
_HIGH = 0xFFFF0000


@dataclass(frozen=True)
class Parts:
    """How many parts data and weights have."""

    data: int
    weights: int

    @property
    def name(self) -> str:
        """For the names of kernels."""
        return f"amx{self.data}x{self.weights}"

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """The products of (part of the data, part of the weights) that are not lost in rounding.

        In an order in which neighbours have one part in common: less is loaded.
        """
        found: list[tuple[int, int]] = []
        for j in range(self.weights):
            row = [(i, j) for i in range(self.data) if i + j < max(self.data, self.weights)]
            found += row if j % 2 else row[::-1]
        return tuple(found)

    @property
    def error(self) -> float:
        """Bound of the largest error of a sum relative to the largest |sum|, for numbers without structure.

        Measured, with 2 parts of both: 1.3e-5 with 10 terms, 2.1e-6 to 6.7e-6 from 45 to 4,608, which is ten
        times that of float32 in every layer, and was 3.6e-4 at the end of a network of 60; 3e-6 with weights
        that are one part; with 3 parts as float32, 3e-7 to 5e-7.
        """
        if self.data == 3:
            return 2e-6
        return 4e-5 if self.weights == 1 else 1e-4


def choose_parts(max_error: float, *, narrow_weights: bool = False) -> Parts | None:
    """The fewest parts whose error is within the bound, None where there are none.

    Args:
        narrow_weights: whether weights are integers of 8 bits, which one part holds.
    """
    for count in (2, 3):
        parts = Parts(count, 1 if narrow_weights else count)
        if parts.error <= max_error:
            return parts
    return None


def split_weights(w: Array, count: int) -> list[npt.NDArray[np.uint32]]:
    """The parts of an array as the upper 16 bits of float32, uint32 arrays of its shape."""
    rest = w.astype(np.float32)
    found = []
    for _ in range(count):
        own = rest.view(np.uint32)
        bits = np.where(np.isnan(rest), own, own + np.uint32(_HALF)) & np.uint32(_HIGH)
        found.append(bits >> np.uint32(16))
        rest = rest - bits.view(np.float32)
    return found


def pair_words(first: Expr, second: Expr, count: int) -> Sequence[Expr]:
    """For each part the word of that part of two numbers, inside of a vectorised loop."""
    words = []
    first, second = temporary(first), temporary(second)
    for part in range(count):
        rounded = [temporary(_rounded(x, part + 1 == count)) for x in (first, second)]
        words.append((rounded[0] >> _u32(16)) | (rounded[1] & _u32(_HIGH)))
        if part + 1 < count:
            first, second = (
                temporary(x - T.reinterpret("float32", bits & _u32(_HIGH)))
                for x, bits in zip((first, second), rounded, strict=True)
            )
    return words


def _rounded(x: Expr, last: bool) -> Expr:
    bits = T.reinterpret("uint32", x)
    # Rounding would carry a NaN of many ones over into a zero; what is left of it is NaN again.
    finite = (bits & _u32(0x7FFFFFFF)) <= _u32(0x7F800000)
    return tirx.Select(finite, bits + _u32(_HALF), bits) if last else bits + _u32(_HALF)


def _u32(value: int) -> Expr:
    return tirx.IntImm("uint32", value)
