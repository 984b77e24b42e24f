"""The data of Constant nodes, in all the forms that ONNX has for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.errors import ModelError
from graphopt.ir.graph import Attr
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType

_FORMS = {
    "value_int": (DType.I64, int),
    "value_ints": (DType.I64, tuple),
    "value_float": (DType.F32, int | float),
    "value_floats": (DType.F32, tuple),
    "value_string": (DType.STR, str | bytes),
    "value_strings": (DType.STR, tuple),
}


def constant_data(attrs: Mapping[str, Attr], label: str) -> Tensor:
    """The data that a Constant node with these attributes stands for.

    Raises:
        ModelError: not exactly one of the forms is given, or it is of a wrong kind.
    """
    given = [name for name in attrs if name in _FORMS or name in ("value", "sparse_value")]
    if len(given) != 1:
        raise ModelError(
            f"{label} must have exactly one value and has {len(given)}: {', '.join(given) or 'none'}"
        )
    (name,) = given
    value = attrs[name]
    if isinstance(value, Tensor):
        return value
    dtype, kind = _FORMS.get(name, (None, ()))
    if dtype is None or not isinstance(value, kind):
        raise ModelError(f'{label}: attribute "{name}" is of a wrong kind')
    try:
        return Tensor.of(np.array(value, dtype=dtype.numpy), dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f'{label}: attribute "{name}" is of a wrong kind') from error
