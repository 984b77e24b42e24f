"""Constant data out of ONNX protos, with every length checked before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType
from graphopt.onnx_io.external import ExternalFiles, packed_size, unpack
from graphopt.onnx_io.text import check_text
from graphopt.onnx_io.types import element_type

if TYPE_CHECKING:
    import onnx

_MAX_DENSE = 1 << 28
_FIELDS = {
    **dict.fromkeys((DType.F32, DType.C64), ("float_data", np.float32)),
    **dict.fromkeys((DType.F64, DType.C128), ("double_data", np.float64)),
    **dict.fromkeys((DType.U32, DType.U64), ("uint64_data", np.uint64)),
    DType.I64: ("int64_data", np.int64),
}
"""The typed field of TensorProto for each element type; all others use ``int32_data``."""


def tensor_from_proto(proto: onnx.TensorProto, files: ExternalFiles, where: str) -> Tensor:
    """The data of ``proto``; external data stays mapped.

    Raises:
        ModelError: unknown element type, negative or absurd dimensions, data that does not fit them.
    """
    if not proto.data_type:
        raise ModelError(f"{where} has no element type")
    dtype = element_type(proto.data_type, where)
    shape = _checked_shape(proto.dims, where)
    if proto.data_location == proto.EXTERNAL:
        return _external(proto, dtype, shape, files, where)
    if dtype is DType.STR:
        array = _strings(list(proto.string_data), shape, where)
    elif proto.HasField("raw_data"):
        array = from_raw(proto.raw_data, dtype, shape, where)
    else:
        array = _from_fields(proto, dtype, shape, where)
    array.flags.writeable = False
    return Tensor(dtype, shape, lambda: array)


def _checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    dims = tuple(int(dim) for dim in shape)
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{where} has a negative dimension: {list(dims)}")
    if len(dims) > 64:
        raise ModelError(f"{where} has {len(dims)} dimensions, more than the 64 that are supported")
    return dims


def _external(
    proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], files: ExternalFiles, where: str
) -> Tensor:
    if dtype is DType.STR:
        raise ModelError(f"{where} has strings as external data, which ONNX does not allow")
    check_text((text for entry in proto.external_data for text in (entry.key, entry.value)), where)
    entries = {entry.key: entry.value for entry in proto.external_data}
    if "location" not in entries:
        raise ModelError(f"{where} is external data without a location")
    held = files.tensor(entries["location"], dtype, shape)
    if held is not None:
        return held
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise ModelError(f"{where} has an offset or length that is not a number: {entries}") from None
    data = files.data(entries["location"], offset, length, dtype, shape, where)
    return Tensor(dtype, shape, data.load, source=data)


def from_raw(raw: bytes, dtype: DType, shape: tuple[int, ...], where: str) -> Array:
    """An array on little-endian packed bytes.

    Raises:
        ModelError: the number of bytes does not fit.
    """
    needed = packed_size(dtype, shape)
    if len(raw) != needed:
        raise ModelError(
            f"{where} of type {dtype.text}{list(shape)} needs {needed} bytes of data and has {len(raw)}",
            hint="the model is truncated or damaged",
        )
    if dtype.bits < 8:
        return unpack(np.frombuffer(raw, np.uint8), dtype, shape)
    return np.frombuffer(raw, dtype.numpy).reshape(shape)


def _from_fields(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], where: str) -> Array:
    field, stored_as = _FIELDS.get(dtype, ("int32_data", np.int32))
    stored = getattr(proto, field)
    parts = 2 if dtype in (DType.C64, DType.C128) else 1
    count = _count(shape)
    needed = packed_size(dtype, shape) if dtype.bits < 8 else count * parts
    if len(stored) != needed:
        raise ModelError(
            f"{where} of type {dtype.text}{list(shape)} needs {needed} numbers in {field} and has {len(stored)}",
            hint="the model is truncated or damaged",
        )
    values = np.array(stored, dtype=stored_as)
    if dtype.bits < 8:
        return unpack(values.astype(np.uint8), dtype, shape)
    if parts == 2:
        return values.view(dtype.numpy).reshape(shape)
    if dtype.is_float and field == "int32_data":
        codes = np.uint16 if dtype.bits == 16 else np.uint8
        return values.astype(codes).view(dtype.numpy).reshape(shape)
    return values.astype(dtype.numpy).reshape(shape)


def _strings(items: list[bytes], shape: tuple[int, ...], where: str) -> Array:
    count = _count(shape)
    if len(items) != count:
        raise ModelError(f"{where} of type str{list(shape)} needs {count} strings and has {len(items)}")
    array = np.empty(count, dtype=object)
    for index, item in enumerate(items):
        array[index] = decoded(item)
    return array.reshape(shape)


def decoded(data: bytes) -> str | bytes:
    """Text, or the bytes themselves where they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def dense_from_sparse(proto: onnx.SparseTensorProto, files: ExternalFiles, where: str) -> Tensor:
    """A sparse tensor written out (ONNX IR spec, SparseTensorProto).

    Raises:
        ModelError: it does not fit itself, or has more than 2**28 elements.
    """
    values = tensor_from_proto(proto.values, files, where).numpy()
    indices = tensor_from_proto(proto.indices, files, where).numpy()
    shape = _checked_shape(proto.dims, where)
    size = _count(shape)
    if size > _MAX_DENSE:
        raise ModelError(f"{where} is sparse and has {size} elements, more than the {_MAX_DENSE} supported")
    if indices.ndim == 2 and indices.shape == (values.size, len(shape)):
        if any(
            (indices[:, axis] < 0).any() or (indices[:, axis] >= dim).any() for axis, dim in enumerate(shape)
        ):
            raise ModelError(f"{where} is sparse and has an index outside its shape {list(shape)}")
        flat = np.ravel_multi_index(tuple(indices.T), shape) if values.size else np.zeros(0, np.int64)
    elif indices.shape == (values.size,):
        flat = indices
        if values.size and not (int(flat.min()) >= 0 and int(flat.max()) < size):
            raise ModelError(f"{where} is sparse and has an index outside its shape {list(shape)}")
    else:
        raise ModelError(f"{where} is sparse, with indices {indices.shape} for {values.size} values")
    dense = np.full(size, "", object) if values.dtype == object else np.zeros(size, values.dtype)
    dense[flat] = values.reshape(-1)
    return Tensor.of(dense.reshape(shape))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count
