"""8-bit data times 8-bit weights into exact 32-bit sums, by what the machine has.

The data's zero point z is not subtracted element by element: sum (x - z) w = sum x w - z sum w, so each
output starts from the correction -z sum w, whose second factor is stored ahead of its weights. What
stands outside an image is z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic, Array
from graphopt.backend.kernels.emit import Expr
from graphopt.backend.kernels.machine import Machine

_SIGNS = tirx.IntImm("uint32", 0x80808080)
# By lanes: features with a dot product of bytes (x86), and with a multiply-add of 16-bit pairs.
_DOT = {8: ("avxvnni",), 16: ("avx512vnni",)}
_PAIRS = {4: "sse3", 8: "avx2", 16: "avx512bw"}


@dataclass(frozen=True)
class IntegerArithmetic(Arithmetic):
    """One number per 32-bit word: for machines without a better instruction."""

    @property
    def header(self) -> int:
        return 1

    def header_factor(self) -> Expr:
        return T.cast(self.zero_point, "int32") + self.offset

    @property
    def offset(self) -> int:
        """What words add to the data's numbers."""
        return 0

    def pack_header(self, w: Array, axes: tuple[int, ...]) -> Array:
        header: Array = -w.astype("int32").sum(axis=axes, dtype="int32")
        return header


@dataclass(frozen=True)
class PairArithmetic(IntegerArithmetic):
    """Two 16-bit numbers per word: x86's multiply-add of neighbouring 16-bit lanes, exact for 9 bits."""

    @property
    def group(self) -> int:
        return 2

    def make_word(self, elements: list[Expr]) -> Expr:
        low, high = (element.astype("int32") for element in elements)
        return (low & 0xFFFF) | (high << 16)

    def step(self, acc: Expr, data: Expr, weights: Expr) -> Expr:
        intrinsic = {
            4: "llvm.x86.sse2.pmadd.wd",
            8: "llvm.x86.avx2.pmadd.wd",
            16: "llvm.x86.avx512.pmaddw.d.512",
        }
        pairs = f"int16x{2 * self.lanes}"
        operands = (T.reinterpret(pairs, data), T.reinterpret(pairs, weights))
        return acc + T.call_llvm_pure_intrin(f"int32x{self.lanes}", intrinsic[self.lanes], *operands)

    def pack_words(self, w: Array) -> Array:
        return np.ascontiguousarray(w.astype("<i2")).view("<i4")[..., 0]


@dataclass(frozen=True)
class DotArithmetic(IntegerArithmetic):
    """Four 8-bit numbers per word: x86's dot product of unsigned data and signed weights."""

    @property
    def group(self) -> int:
        return 4

    @property
    def offset(self) -> int:
        return 128 if self.element == "int8" else 0

    def make_word(self, elements: list[Expr]) -> Expr:
        word = _four_bytes(elements)
        return T.reinterpret("int32", word ^ _SIGNS if self.offset else word)

    def step(self, acc: Expr, data: Expr, weights: Expr) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{self.lanes * 32}"
        bytes_ = f"int8x{4 * self.lanes}"
        operands = (T.reinterpret(bytes_, data), T.reinterpret(bytes_, weights))
        return T.call_llvm_pure_intrin(f"int32x{self.lanes}", name, acc, *operands)

    def pack_words(self, w: Array) -> Array:
        return np.ascontiguousarray(w.astype("int8")).view("<i4")[..., 0]


@dataclass(frozen=True)
class NeonDotArithmetic(IntegerArithmetic):
    """Four 8-bit numbers per word: Arm's dot product of signed numbers."""

    @property
    def group(self) -> int:
        return 4

    @property
    def offset(self) -> int:
        return -128 if self.element == "uint8" else 0

    def make_word(self, elements: list[Expr]) -> Expr:
        word = _four_bytes(elements)
        return T.reinterpret("int32", word ^ _SIGNS if self.offset else word)

    def step(self, acc: Expr, data: Expr, weights: Expr) -> Expr:
        operands = (T.reinterpret("int8x16", data), T.reinterpret("int8x16", weights))
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, *operands)

    def pack_words(self, w: Array) -> Array:
        return np.ascontiguousarray(w.astype("int8")).view("<i4")[..., 0]


def _four_bytes(elements: list[Expr]) -> Expr:
    """Four 8-bit elements as one uint32, the first lowest."""
    words = (e.astype("uint8").astype("uint32") << (8 * g) for g, e in enumerate(elements))
    return reduce(lambda a, b: a | b, words)


def integer_arithmetic(
    machine: Machine, element: str, wide_weights: bool, zero_point: Expr
) -> IntegerArithmetic:
    """The fastest exact arithmetic of `machine` for data of `element`, uint8 or int8.

    `wide_weights`: weights need 9 bits, being uint8 less a zero point.
    """
    fields = (machine, element, "int32", zero_point)
    lanes = machine.vector_bits // 32
    if not wide_weights and any(machine.has(feature) for feature in _DOT.get(lanes, ())):
        return DotArithmetic(*fields)
    if not wide_weights and lanes == 4 and machine.has("dotprod"):
        return NeonDotArithmetic(*fields)
    if machine.has(_PAIRS.get(lanes, "")):
        return PairArithmetic(*fields)
    return IntegerArithmetic(*fields)
