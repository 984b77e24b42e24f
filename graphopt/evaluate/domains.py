"""What operators can take: the domain of an input, from what reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Region, Use, Value

SizeOf = Callable[[Dim], int]
_PASSES_ON = frozenset(
    {
        "Cast",
        "Identity",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Transpose",
        "Expand",
        "Concat",
        "Slice",
        "Gather",
    }
)
_MAX_STEPS = 8


@dataclass(frozen=True)
class Domain:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float

    @property
    def integers(self) -> tuple[int, int]:
        """Its least and largest integer; at least one."""
        low = math.ceil(self.low)
        return low, max(low, math.floor(self.high))

    def and_(self, other: Domain | None) -> Domain:
        """What lies in both; this one where nothing does."""
        if other is None:
            return self
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Domain(low, high) if low <= high else self


_POSITIVE = Domain(0.25, 4.0)
_UNIT = Domain(-0.9, 0.9)
_FRACTION = Domain(0.05, 0.95)
_COUNT = Domain(1, 2)
_DOMAINS: dict[tuple[str, int], Domain] = {
    ("Log", 0): _POSITIVE,
    ("Sqrt", 0): _POSITIVE,
    ("Pow", 0): _POSITIVE,
    ("Mod", 1): Domain(1, 4),
    ("Acos", 0): _UNIT,
    ("Asin", 0): _UNIT,
    ("Atanh", 0): _UNIT,
    ("Acosh", 0): Domain(1.25, 4.0),
    ("Bernoulli", 0): _FRACTION,
    ("Dropout", 1): _FRACTION,
    ("BatchNormalization", 4): _POSITIVE,
    ("QuantizeLinear", 1): _POSITIVE,
    ("DequantizeLinear", 1): _POSITIVE,
    ("BitShift", 1): Domain(0, 4),
    ("TopK", 1): Domain(1, 1),
    ("Loop", 0): Domain(1, 3),
    ("Range", 1): Domain(2, 4),
    ("Range", 2): Domain(1, 1),
    ("ConstantOfShape", 0): _COUNT,
    ("Expand", 1): Domain(1, 1),
    ("Tile", 1): _COUNT,
    ("Resize", 2): Domain(1.0, 2.0),
    ("OneHot", 1): Domain(4, 4),
}
"""By operator and position among its inputs."""
_INDICES = {
    "Gather": 1, "GatherElements": 1, "ScatterElements": 1, "GatherND": 1, "ScatterND": 1, "TensorScatter": 2,
}  # fmt: skip
"""Operators that index their first input, and by which input."""
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def domain_of(value: Value, size: SizeOf) -> Domain | None:
    """What all readers of a value can take, found through operators that keep its elements; None: anything.

    Args:
        size: the number that stands for a dimension.
    """
    found: Domain | None = None
    for domain in _domains(value, size, _MAX_STEPS):
        found = domain.and_(found)
    return found


def _domains(value: Value, size: SizeOf, steps: int) -> Iterator[Domain]:
    if steps == 0:
        return
    for use in value.uses:
        node = use.user
        if isinstance(node, Region):
            continue
        own = _own(node, use, size)
        if own is not None:
            yield own
        elif node.is_fused:
            yield from _domains(node.body.inputs[use.index], size, steps - 1)
        elif node.op in _PASSES_ON and not node.domain and (use.index == 0 or node.op == "Concat"):
            yield from _domains(node.outputs[0], size, steps - 1)


def _own(node: Node, use: Use, size: SizeOf) -> Domain | None:
    """What the node itself asks of the input."""
    if node.domain:
        return None
    if _INDICES.get(node.op) == use.index:
        return _index(node, size)
    if node.op in _RECURRENT and use.index == 4:
        steps = (node.inputs[0].tensor.shape or (1,))[0] if node.inputs[0] is not None else 1
        return Domain(1, max(size(steps), 1))
    if node.op == "Pow" and use.index == 0:
        exponent = node.input(1)
        whole = exponent is not None and exponent.const is not None and _is_whole(exponent)
        return None if whole else _POSITIVE
    if node.op == "Div" and use.index == 1:
        dtype = node.outputs[0].tensor.dtype
        return Domain(1, 4) if dtype is not None and dtype.is_integer else None
    if node.op == "ReverseSequence" and use.index == 1:
        shape, axis = (
            node.inputs[0].tensor.shape if node.inputs[0] is not None else None,
            node.attrs.get("time_axis", 0),
        )
        return Domain(1, size(shape[axis])) if shape and isinstance(axis, int) else None
    if node.op == "OneHot" and use.index == 0:
        depth = node.input(1)
        limit = (
            int(depth.const.numpy().reshape(-1)[0]) if depth is not None and depth.const is not None else 4
        )
        return Domain(0, max(limit - 1, 0))
    return _DOMAINS.get((node.op, use.index))


def _is_whole(exponent: Value) -> bool:
    assert exponent.const is not None
    numbers = exponent.const.numpy()
    return bool(((numbers == numbers.round()) & (numbers >= 0)).all())


def _index(node: Node, size: SizeOf) -> Domain | None:
    data = node.input(0)
    shape = data.tensor.shape if data is not None else None
    if not shape:
        return None
    if node.op in ("GatherND", "ScatterND", "TensorScatter"):
        return Domain(0, max(min(size(dim) for dim in shape) - 1, 0))
    axis = node.attrs.get("axis", 0)
    if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return None
    return Domain(0, max(size(shape[axis]) - 1, 0))
