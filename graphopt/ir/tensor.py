"""Constant data: immutable arrays that are loaded only when somebody looks at them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import TextError
from graphopt.ir.types import DType, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


class Tensor:
    """Immutable constant data with a known element type and a static shape.

    The array comes from ``load`` at first use, so external weights stay on disk until something
    reads them, and again after :meth:`release`. ``digest`` is given where it is known beforehand. ``source`` is what the data came from (an onnx_ir tensor), kept so that an
    untouched weight is written again without a copy.
    """

    __slots__ = ("_array", "_digest", "_load", "dtype", "shape", "source")

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        load: Callable[[], Array],
        *,
        source: object = None,
        digest: str | None = None,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.source = source
        self._load = load
        self._array: Array | None = None
        self._digest = digest

    @classmethod
    def of(cls, data: object, dtype: DType | None = None) -> Tensor:
        """A tensor of an array or nested list; the data is copied when it could change.

        Raises:
            KeyError: ONNX has no such element type.
        """
        array = np.array(data, dtype=None if dtype is None else dtype.numpy, order="C")
        dtype = dtype or DType.of(array.dtype)
        array = array.astype(dtype.numpy, copy=False)  # text as Python strings
        made = cls(dtype, array.shape, lambda: array)
        made.numpy()
        return made

    @classmethod
    def missing(cls, dtype: DType, shape: tuple[int, ...], digest: str, name: str = "") -> Tensor:
        """A tensor whose data was left out of a ``.gir`` text; reading it is an error that names the value."""

        def fail() -> Array:
            raise TextError(
                f"the data of {f'%{name}' if name else 'a constant'}, {TensorType(dtype, shape)} with hash "
                f"{digest}, is not in the text",
                hint="read the .gir with its sidecar file beside it",
            )

        return cls(dtype, shape, fail, digest=digest)

    def numpy(self) -> Array:
        """The data as a read-only array of ``dtype.numpy``, shape ``shape``."""
        if self._array is None:
            array = self._load().view()
            array.flags.writeable = False
            if array.shape != self.shape:
                raise AssertionError(f"constant data has shape {array.shape}, declared {self.shape}")
            self._array = array
        return self._array

    def release(self) -> None:
        """Forget the array; the next use loads it again."""
        self._array = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in ONNX's packed storage; for strings the bytes of their characters."""
        if self.dtype is DType.STR:
            return sum(len(s if isinstance(s, bytes) else str(s).encode()) for s in self.numpy().flat)
        return (self.size * self.dtype.bits + 7) // 8

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of element type, shape and data; reads all the data once."""
        if self._digest is None:
            hasher = hashlib.sha256(str(self.type).encode())
            chunks = getattr(self.source, "chunks", None)
            if chunks is not None and self.dtype.bits >= 8:
                for piece in chunks():  # data in a file, read without filling the memory
                    hasher.update(piece)
            elif self.dtype is DType.STR:
                for item in self.numpy().flat:
                    text = item if isinstance(item, bytes) else str(item).encode()
                    hasher.update(len(text).to_bytes(8, "little") + text)
            else:
                array = self.numpy()
                hasher.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
            self._digest = hasher.hexdigest()[:16]
        return self._digest

    def same(self, other: Tensor) -> bool:
        """Whether element type, shape and every bit of the data are equal."""
        if self is other or (self.source is not None and self.source is other.source):
            return True
        return self.dtype is other.dtype and self.shape == other.shape and self.digest == other.digest

    def item(self) -> Any:
        """The only element as a Python scalar.

        Raises:
            ValueError: there is not exactly one.
        """
        return self.numpy().item()

    def __repr__(self) -> str:
        return f"Tensor({self.type})"
