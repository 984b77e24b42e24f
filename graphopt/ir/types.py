"""The types of values: element type, shape, quantization scheme, layout.

Types are immutable and compare by content. An unknown dimension is a symbol of its own, an
unknown rank is ``shape=None``, and a value that nothing is known of has :class:`UnknownType`.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, replace
from typing import Any, Union

import ml_dtypes
import numpy as np

from graphopt.ir.dims import Dim, Shape, product


class DType(enum.Enum):
    """Element types of ONNX; the value is the code of ``TensorProto.DataType`` (ONNX IR spec)."""

    F32 = 1
    U8 = 2
    I8 = 3
    U16 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    STR = 8
    BOOL = 9
    F16 = 10
    F64 = 11
    U32 = 12
    U64 = 13
    C64 = 14
    C128 = 15
    BF16 = 16
    F8E4M3FN = 17
    F8E4M3FNUZ = 18
    F8E5M2 = 19
    F8E5M2FNUZ = 20
    U4 = 21
    I4 = 22
    F4E2M1 = 23
    F8E8M0 = 24
    U2 = 25
    I2 = 26

    @property
    def text(self) -> str:
        """Short lower-case name as used in ``.gir`` text, e.g. ``f32``."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> DType:
        """The element type whose :attr:`text` is ``text``.

        Raises:
            KeyError: there is none.
        """
        if text != text.lower():
            raise KeyError(text)
        return cls[text.upper()]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type that holds one element; sub-byte types are held one per byte (ml_dtypes)."""
        return _NUMPY[self]

    @property
    def bits(self) -> int:
        """Bits of one element in ONNX's packed storage; 0 for strings."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        return self.name[0] == "F" or self is DType.BF16

    @property
    def is_integer(self) -> bool:
        return self.name[0] in "UI"

    @property
    def is_signed(self) -> bool:
        return self.name[0] == "I" or self.is_float

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> DType:
        """The element type of arrays of ``dtype``.

        Raises:
            KeyError: ONNX has no such element type.
        """
        if dtype.kind in "OUST":
            return cls.STR
        return _FROM_NUMPY[np.dtype(dtype)]


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.F32: np.dtype(np.float32),
    DType.U8: np.dtype(np.uint8),
    DType.I8: np.dtype(np.int8),
    DType.U16: np.dtype(np.uint16),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.STR: np.dtype(object),
    DType.BOOL: np.dtype(np.bool_),
    DType.F16: np.dtype(np.float16),
    DType.F64: np.dtype(np.float64),
    DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64),
    DType.C64: np.dtype(np.complex64),
    DType.C128: np.dtype(np.complex128),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I4: np.dtype(ml_dtypes.int4),
    DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.U2: np.dtype(ml_dtypes.uint2),
    DType.I2: np.dtype(ml_dtypes.int2),
}
_FROM_NUMPY = {numpy_type: dtype for dtype, numpy_type in _NUMPY.items()}
_SUB_BYTE = {DType.U4: 4, DType.I4: 4, DType.F4E2M1: 4, DType.U2: 2, DType.I2: 2, DType.STR: 0}
_BITS = {dtype: _SUB_BYTE.get(dtype, numpy_type.itemsize * 8) for dtype, numpy_type in _NUMPY.items()}


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How the integers of a tensor stand for reals; scale and zero point are operands, not part of it.

    ``axis`` is the channel axis of per-channel scales (None: one scale for the tensor), ``block``
    the number of elements along it that share a scale (0: one scale per channel).
    """

    bits: int
    signed: bool
    axis: int | None = None
    block: int = 0


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor. ``dtype`` None: element type unknown; ``shape`` None: rank unknown.

    ``layout`` ``nCx16c``: in memory, 16 channels (axis 1) lie together, see :attr:`channel_block`.
    """

    dtype: DType | None
    shape: Shape | None
    quant: QuantScheme | None = None
    layout: str | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)

    @property
    def is_known(self) -> bool:
        """Whether element type and rank are known."""
        return self.dtype is not None and self.shape is not None

    @property
    def channel_block(self) -> int:
        """Channels (axis 1) that lie together in memory; 1 where the memory is row-major."""
        return 1 if self.layout is None else int(self.layout.removeprefix("nCx").removesuffix("c"))

    @property
    def num_elements(self) -> Dim | None:
        """Number of elements; None when the rank is unknown."""
        return None if self.shape is None else product(self.shape)

    def with_shape(self, shape: Shape | None) -> TensorType:
        """The same type with another shape."""
        return replace(self, shape=shape)

    def __str__(self) -> str:
        dtype = "?" if self.dtype is None else self.dtype.text
        shape = "*" if self.shape is None else ", ".join(str(dim) for dim in self.shape)
        extra = ""
        if self.quant is not None:
            extra += f", q{self.quant.bits}{'s' if self.quant.signed else 'u'}"
            extra += "" if self.quant.axis is None else f" axis={self.quant.axis}"
            extra += f" block={self.quant.block}" if self.quant.block else ""
        if self.layout is not None:
            extra += f", layout={self.layout}"
        return f"{dtype}[{shape}]" + (f"<{extra[2:]}>" if extra else "")


@dataclass(frozen=True, slots=True)
class SparseTensorType:
    """A sparse tensor of ONNX; carried through, never compiled."""

    dtype: DType | None
    shape: Shape | None

    def __str__(self) -> str:
        return f"sparse({TensorType(self.dtype, self.shape)})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence whose elements have type ``elem``."""

    elem: Type

    def __str__(self) -> str:
        return f"seq({self.elem})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An optional of type ``elem``."""

    elem: Type

    def __str__(self) -> str:
        return f"optional({self.elem})"


@dataclass(frozen=True, slots=True)
class UnknownType:
    """Nothing is known: the output of an unknown operator."""

    def __str__(self) -> str:
        return "unknown"


Type = Union[TensorType, SparseTensorType, SequenceType, OptionalType, UnknownType]


@functools.lru_cache(maxsize=4096)
def tensor(dtype: DType | str | None, *shape: Dim) -> TensorType:
    """``tensor("f32", 1, 3, sym("h"), sym("w"))``, a shorthand for tests and rules."""
    return TensorType(DType.parse(dtype) if isinstance(dtype, str) else dtype, shape)


def refines(new: Type, old: Type) -> bool:
    """Whether a value of type ``new`` can stand where ``old`` was declared (nothing contradicts)."""
    if new is old or isinstance(old, UnknownType) or isinstance(new, UnknownType):
        return True
    if isinstance(old, TensorType | SparseTensorType) and isinstance(new, TensorType | SparseTensorType):
        if type(old) is not type(new):
            return False
        if old.dtype is not new.dtype and old.dtype is not None and new.dtype is not None:
            return False
        if old.shape is None or new.shape is None or old.shape == new.shape:
            return True
        return len(old.shape) == len(new.shape) and not any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(old.shape, new.shape, strict=True)
        )
    if isinstance(old, SequenceType | OptionalType) and isinstance(new, SequenceType | OptionalType):
        return type(old) is type(new) and refines(new.elem, old.elem)
    return False


def merge_types(declared: Type, inferred: Type) -> Type:
    """The most that two compatible types say together; numbers win over symbols, then ``declared`` wins.

    Raises:
        ValueError: they contradict each other.
    """
    if not refines(inferred, declared):
        raise ValueError(f"declared {declared}, inferred {inferred}")
    match declared, inferred:
        case UnknownType(), _:
            return inferred
        case TensorType(), TensorType():
            shape = declared.shape
            if shape is None:
                shape = inferred.shape
            elif inferred.shape is not None:
                shape = tuple(
                    b if isinstance(b, int) and not isinstance(a, int) else a
                    for a, b in zip(shape, inferred.shape, strict=True)
                )
            return TensorType(
                declared.dtype or inferred.dtype,
                shape,
                declared.quant or inferred.quant,
                declared.layout or inferred.layout,
            )
        case SequenceType(), SequenceType():
            return SequenceType(merge_types(declared.elem, inferred.elem))
        case OptionalType(), OptionalType():
            return OptionalType(merge_types(declared.elem, inferred.elem))
    return declared
