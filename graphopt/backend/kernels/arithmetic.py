"""How one step of a reduction is computed: which words are read, and how they are multiplied.

A *word* is what one lane holds: one float, or several 8-bit numbers of neighbouring channels that
one instruction multiplies and sums. A kernel is written once, over words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import Expr
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Arithmetic:
    """Multiply and accumulate on plain numbers: one number per word."""

    machine: Machine
    element: str
    """Element type of the operands in memory."""
    accumulator: str
    """Element type of accumulators and of words."""

    @property
    def group(self) -> int:
        """Reduction elements per word."""
        return 1

    @property
    def lanes(self) -> int:
        """Accumulators per vector register."""
        bits = np.dtype(self.accumulator).itemsize * 8
        return max(self.machine.vector_bits // bits, 1)

    @property
    def word(self) -> str:
        """Element type of packed buffers."""
        return self.accumulator

    @property
    def word_bytes(self) -> int:
        """Size of a word."""
        return np.dtype(self.word).itemsize

    def zero(self) -> Expr:
        """A scalar accumulator of zero."""
        return self.constant(0)

    def constant(self, value: int) -> Expr:
        """A scalar of the accumulator's type."""
        return T.cast(value, self.accumulator) if value else T.cast(0, self.accumulator)

    def make_word(self, elements: list[Expr]) -> Expr:
        """One word from `group` operand elements."""
        (element,) = elements
        return element.astype(self.accumulator)

    def read_word(self, element: Callable[[Expr], Expr], word: Expr, count: int) -> Expr:
        """Word number `word` of the `count` elements element(0), element(1), ...; past them stands 0."""
        elements = []
        for g in range(self.group):
            index = word * self.group + g
            value = element(index)
            if g > 0 and count % self.group != 0:
                value = T.if_then_else(index < count, value, T.cast(0, self.element))
            elements.append(value)
        return self.make_word(elements)

    def step(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """acc + x * w for vectors of words."""
        return acc + x * w

    def pack_words(self, w: Array) -> Array:
        """Host side: array [..., group] of weights to words [...]."""
        return w[..., 0].astype(self.accumulator)


def float_arithmetic(machine: Machine, dtype: str) -> Arithmetic:
    """Arithmetic for operands of `dtype`; 16-bit floats are computed in float32."""
    accumulator = "float32" if dtype in ("float16", "bfloat16") else dtype
    return Arithmetic(machine, dtype, accumulator)
