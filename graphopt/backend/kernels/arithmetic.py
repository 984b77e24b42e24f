"""How one step of a reduction is computed: which words are read, and how they are multiplied.

A *word* is what one lane holds: one float, or several 8-bit numbers of neighbouring channels that
one instruction multiplies and sums. A kernel is written once, over words. One operand of a product
is a constant *weight*, the other *data*; integer instructions tell them apart by sign.
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
    """Element type of the data in memory."""
    accumulator: str
    """Element type of accumulators."""
    zero_point: Expr = 0
    """The data's number that stands for zero, subtracted from every element of the data."""

    @property
    def group(self) -> int:
        """Reduction elements per word."""
        return 1

    @property
    def lanes(self) -> int:
        """Accumulators per vector register."""
        return max(self.machine.vector_bits // (np.dtype(self.accumulator).itemsize * 8), 1)

    @property
    def word(self) -> str:
        """Element type of packed buffers."""
        return self.accumulator

    @property
    def word_bytes(self) -> int:
        """Size of a word."""
        return np.dtype(self.word).itemsize

    @property
    def converts(self) -> bool:
        """Whether data must be rewritten into words before scalars of it can be read."""
        return self.element != self.word

    @property
    def header(self) -> int:
        """Words before the weights of an output: 1 where it starts from a correction, else 0."""
        return 0

    def header_factor(self) -> Expr:
        """What the header word of an output is multiplied with to give its initial accumulator."""
        raise TypeError(f"{type(self).__name__} has no header")

    def make_word(self, elements: list[Expr]) -> Expr:
        """One word from `group` data elements."""
        (element,) = elements
        return element.astype(self.accumulator)

    def read_word(self, element: Callable[[Expr], Expr], word: Expr, count: Expr) -> Expr:
        """Word number `word` of the `count` elements element(0), element(1), ...; past them stands 0."""
        elements = []
        for g in range(self.group):
            index = word * self.group + g
            value = element(index)
            if g > 0 and not (isinstance(count, int) and count % self.group == 0):
                value = T.if_then_else(index < count, value, T.cast(0, self.element))
            elements.append(value)
        return self.make_word(elements)

    def padding(self) -> Expr:
        """The word of data that counts as zero."""
        return self.make_word([T.cast(self.zero_point, self.element)] * self.group)

    def step(self, acc: Expr, data: Expr, weights: Expr) -> Expr:
        """acc + data * weights for vectors of words."""
        return acc + data * weights

    def pack_words(self, w: Array) -> Array:
        """Host side: array [..., group] of weights to words [...]."""
        return w[..., 0].astype(self.accumulator)

    def pack_header(self, w: Array, axes: tuple[int, ...]) -> Array:
        """Host side: the header words, `axes` being the reduction's."""
        raise TypeError(f"{type(self).__name__} has no header")


def float_arithmetic(machine: Machine, dtype: str) -> Arithmetic:
    """Arithmetic for operands of `dtype`; 16-bit floats are computed in float32."""
    accumulator = "float32" if dtype in ("float16", "bfloat16") else dtype
    return Arithmetic(machine, dtype, accumulator)
