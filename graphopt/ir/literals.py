"""Names, strings, numbers and constant data as they stand in ``.gir`` text."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from graphopt.errors import TextError
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType

INLINE_ELEMENTS = 16
"""Constants with at most so many elements stand in the text itself."""
INLINE_CHARACTERS = 256
"""Strings and hexadecimal data up to so many characters do."""

NAME = re.compile(r"[A-Za-z0-9_./\-]+(?:::?[A-Za-z0-9_./\-]+)*")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DOMAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(?:\.[A-Za-z_0-9][A-Za-z0-9_\-]*)*")
Scalar = Union[int, float, str, bytes]


def quote(text: str) -> str:
    """A string in double quotes with the escapes of JSON; unprintable characters are escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)


def quote_bytes(data: bytes) -> str:
    """``b"..."``: each byte is the character with its number."""
    return "b" + json.dumps(data.decode("latin1"))


def format_name(name: str) -> str:
    """``%name``, in quotes when it holds anything unusual."""
    return f"%{name}" if NAME.fullmatch(name) else f"%{quote(name)}"


def format_operator(domain: str, op: str) -> str:
    """``Op`` or ``domain.Op``, what is unusual in quotes."""
    if not domain:
        return format_word(op)
    return f"{domain if DOMAIN.fullmatch(domain) else quote(domain)}.{format_word(op)}"


def format_word(text: str) -> str:
    """An identifier as it is, any other string in quotes."""
    return text if WORD.fullmatch(text) else quote(text)


def format_float(value: float) -> str:
    """The shortest decimal that gives ``value`` back. Attributes of ONNX are float32, so that is meant
    where nothing else is said; ``d`` marks a float64 that is none."""
    if math.isnan(value):
        bits = struct.pack(">d", value).hex()
        return "nan" if bits == "7ff8000000000000" else f"nan:{bits}"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    if abs(value) <= 3.4028234663852886e38:
        single = np.float32(value)
        short = str(single)
        if float(single) == value and parse_float(short) == value:
            return short if "." in short or "e" in short else short + ".0"
    return text + "d"


def parse_float(text: str) -> float:
    """The inverse of :func:`format_float`.

    Raises:
        ValueError: not a number.
    """
    if text.startswith("nan:"):
        (value,) = struct.unpack(">d", bytes.fromhex(text[4:].zfill(16)))
        if not math.isnan(value):
            raise ValueError(text)
        return float(value)
    if text.endswith("d"):
        return float(text[:-1])
    value = float(text)
    try:
        (value,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError as error:
        raise ValueError(f"{text} is too large for float32") from error
    return float(value)


# --- constant data ------------------------------------------------------------------------------


def format_data(tensor: Tensor) -> str | None:
    """The data of a small tensor: a scalar, a flat list, or hexadecimal bytes where decimals would lose
    something (payloads of NaN); None for a large one."""
    if tensor.size > INLINE_ELEMENTS:
        return None
    array = tensor.numpy()
    items: list[str] | None
    if tensor.dtype is DType.STR:
        items = [quote_bytes(i) if isinstance(i, bytes) else quote(str(i)) for i in array.flat]
    else:
        items = _format_numbers(tensor.dtype, array.reshape(-1))
        if items is None:
            return f'x"{np.ascontiguousarray(array).tobytes().hex()}"'
    text = items[0] if tensor.shape == () and len(items) == 1 else f"[{', '.join(items)}]"
    return text if len(text) <= INLINE_CHARACTERS else None


def _format_numbers(dtype: DType, flat: Array) -> list[str] | None:
    if dtype is DType.BOOL:
        return ["true" if item else "false" for item in flat.tolist()]
    if dtype.is_integer:
        return [str(int(item)) for item in flat]
    if dtype in (DType.C64, DType.C128):
        dtype = DType.F32 if dtype is DType.C64 else DType.F64
        flat = np.ascontiguousarray(flat).view(dtype.numpy)
    shown = map(repr, flat.tolist()) if dtype is DType.F64 else map(str, flat)
    texts = [f"{text}.0" if text.lstrip("-").isdigit() else text for text in shown]
    back = _float_array(dtype, [float(text) for text in texts])
    return texts if back.tobytes() == np.ascontiguousarray(flat).tobytes() else None


def _float_array(dtype: DType, numbers: Sequence[float]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(numbers, np.float64).astype(dtype.numpy)


def parse_data(dtype: DType, shape: tuple[int, ...], items: Sequence[Scalar | str]) -> Tensor:
    """The tensor of a flat list of scalars.

    Raises:
        TextError: their number or kind does not fit.
    """
    pairs = 2 if dtype in (DType.C64, DType.C128) else 1
    if len(items) != math.prod(shape) * pairs:
        raise TextError(f"{math.prod(shape) * pairs} elements are needed, there are {len(items)}")
    return Tensor.of(_array(dtype, items).reshape(shape), dtype)


def _array(dtype: DType, items: Sequence[Any]) -> Array:
    kinds = {type(item) for item in items}
    if dtype is DType.STR:
        if not kinds <= {str, bytes}:
            raise TextError("the elements must be strings")
        array = np.empty(len(items), object)
        array[:] = items
        return array
    if dtype is DType.BOOL:
        if not kinds <= {bool}:
            raise TextError("the elements must be true or false")
        return np.array(items, np.bool_)
    if dtype.is_integer:
        if not kinds <= {int}:
            raise TextError("the elements must be integers")
        low = -(1 << dtype.bits - 1) if dtype.is_signed else 0
        high = (1 << dtype.bits - dtype.is_signed) - 1
        if any(not low <= item <= high for item in items):
            raise TextError(f"an element does not fit {dtype.text}")
        return np.array(items, np.int64 if dtype.bits < 64 else dtype.numpy).astype(dtype.numpy)
    if not kinds <= {int, float}:
        raise TextError("the elements must be numbers")
    if dtype in (DType.C64, DType.C128):
        part = DType.F32 if dtype is DType.C64 else DType.F64
        return _float_array(part, items).view(dtype.numpy)
    return _float_array(dtype, items)


def parse_hex(dtype: DType, shape: tuple[int, ...], text: str) -> Tensor:
    """The tensor of its bytes in hexadecimal.

    Raises:
        TextError: their number does not fit.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise TextError(f"not hexadecimal: {error}") from error
    if dtype is DType.STR or len(data) != math.prod(shape) * dtype.numpy.itemsize:
        raise TextError(f"{len(data)} bytes don't make that many elements of {dtype.text}")
    return Tensor.of(np.frombuffer(data, dtype.numpy).reshape(shape), dtype)
