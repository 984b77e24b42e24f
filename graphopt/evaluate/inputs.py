"""Checking arrays against the inputs that a graph declares, before an engine sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.dims import SymDim
from graphopt.ir.graph import Value
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, TensorType


def check_inputs(declared: Sequence[Value], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for a graph's inputs, made arrays.

    Args:
        declared: the graph's inputs; those with a default may be left out.

    Raises:
        InputError: an input is missing, unknown, of a wrong element type, or of a shape that does not
            fit; or two inputs need different numbers for one symbolic dimension.
    """
    inputs = {value.name: value for value in declared}
    unknown = [name for name in given if name not in inputs]
    missing = [name for name, value in inputs.items() if name not in given and value.const is None]
    if unknown or missing:
        what = f'there is no input "{unknown[0]}"' if unknown else f'input "{missing[0]}" is missing'
        raise InputError(what, hint=f"the inputs are {', '.join(inputs) or 'none'}")
    sizes: dict[str, tuple[int, str]] = {}
    return {name: _checked(inputs[name], data, sizes) for name, data in given.items()}


def _checked(value: Value, data: Any, sizes: dict[str, tuple[int, str]]) -> Any:
    if not isinstance(value.type, TensorType) or value.type.dtype is None:
        return data
    array: Array = np.asarray(data)
    dtype = value.type.dtype
    if dtype is DType.STR:
        array = array.astype(object)
    elif array.dtype != dtype.numpy:
        raise InputError(
            f'input "{value.name}" is {array.dtype}, the graph wants {dtype.numpy} ({value.type})',
            hint=f"convert it with .astype({str(dtype.numpy)!r})",
        )
    if value.type.shape is None:
        return array
    wrong = f'input "{value.name}" has shape {list(array.shape)}, the graph wants {value.type}'
    if array.ndim != len(value.type.shape):
        raise InputError(wrong)
    for axis, (dim, size) in enumerate(zip(value.type.shape, array.shape, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise InputError(f"{wrong}: axis {axis} must be {dim}")
        name = dim.symbol if isinstance(dim, SymDim) else None
        if name is not None:
            bound, where = sizes.setdefault(name, (size, value.name))
            if bound != size:
                raise InputError(f'{wrong}: axis {axis} is {name}, which is {bound} in input "{where}"')
    return array
