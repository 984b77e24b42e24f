"""Arrays of the caller to tensors of the runtime and back, without a copy wherever that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import InputError
from graphopt.runtime.dtypes import numpy_dtype
from graphopt.runtime.library import Runtime
from graphopt.runtime.manifest import ALIGNMENT, TensorSpec

_CPU = 1  # kDLCPU
Array = npt.NDArray[Any]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array whose data starts at a multiple of :data:`ALIGNMENT`."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def export(runtime: Runtime, array: Array, dtype: str) -> Any:
    """A tensor over the memory of a C-contiguous array, which it keeps alive."""
    if not array.size:
        return runtime.empty(array.shape, dtype)  # the strides of an empty array can be anything
    raw = array.view(np.uint16) if dtype == "bfloat16" else array
    source = raw if raw.flags.writeable else raw.__dlpack__(max_version=(1, 0))
    tensor = runtime.from_dlpack(source)
    return runtime.reinterpret(tensor, dtype) if dtype == "bfloat16" else tensor


def to_numpy(runtime: Runtime, tensor: Any, dtype: str) -> Array:
    """An array over the memory of a tensor of that element type on the CPU, which it keeps alive."""
    if dtype != "bfloat16":
        return np.from_dlpack(tensor)
    return np.from_dlpack(runtime.reinterpret(tensor, "uint16")).view(numpy_dtype("bfloat16"))


class Feeder:
    """Turns what is passed for one input into tensors; holds the aligned copy of data that is not aligned."""

    def __init__(self, runtime: Runtime, spec: TensorSpec) -> None:
        self._runtime = runtime
        self._spec = spec
        self._dtype = numpy_dtype(spec.dtype)
        self._shape: tuple[int, ...] | None = None
        self._staged: Array
        self._staged_tensor: Any

    def __call__(self, value: Any) -> Any:
        """The tensor to pass to the kernels.

        Raises:
            InputError: not an array on the CPU, or of another element type.
        """
        array: Array | None = None
        if isinstance(value, (np.ndarray, np.generic)):
            if value.dtype != self._dtype:
                raise self._wrong(str(value.dtype))
            if isinstance(value, np.ma.MaskedArray):
                raise InputError(
                    f"input {self._spec.name!r} is a masked array, and models know no masks",
                    hint="fill the masked elements with numbers: array.filled(0)",
                )
            array = np.asarray(value)
            if not array.flags.c_contiguous:
                return self._stage(array)
            tensor = export(self._runtime, array, self._spec.dtype)
        else:
            tensor = self._import(value)
        if tensor.data_ptr() % self._spec.alignment == 0:
            return tensor
        return self._stage(to_numpy(self._runtime, tensor, self._spec.dtype) if array is None else array)

    def _import(self, value: Any) -> Any:
        """A tensor over the memory of another library's array."""
        if not hasattr(value, "__dlpack__"):
            raise InputError(
                f"input {self._spec.name!r} is a {type(value).__name__}, not an array",
                hint="pass a NumPy array or one that supports DLPack",
            )
        try:
            tensor = self._runtime.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(f"input {self._spec.name!r} can't be read through DLPack: {reason}") from error
        if tensor.device.dlpack_device_type() != _CPU:
            raise InputError(f"input {self._spec.name!r} is on {tensor.device}, not on the CPU")
        if str(tensor.dtype) != self._spec.dtype:
            raise self._wrong(str(tensor.dtype))
        if tensor.is_contiguous() and 0 not in tensor.shape:
            return tensor
        return self._stage(to_numpy(self._runtime, tensor, self._spec.dtype))

    def _wrong(self, dtype: str) -> InputError:
        return InputError(
            f"input {self._spec.name!r}: expected {self._spec.dtype}, got {dtype}",
            hint=f"convert it, with NumPy by .astype({self._spec.dtype!r})",
        )

    def _stage(self, array: Array) -> Any:
        if self._shape != array.shape:
            self._staged = aligned_empty(array.shape, self._dtype)
            self._staged_tensor = export(self._runtime, self._staged, self._spec.dtype)
            self._shape = array.shape
        np.copyto(self._staged, array)
        return self._staged_tensor
