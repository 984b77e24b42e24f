"""What small integer tensors hold, as dimensions: the arithmetic that models do on shapes.

Reads backwards from a value through Shape, Gather, Concat, arithmetic and so on to shapes and
constants. Nothing is cached on values: a result is as fresh as the graph. The rules of single
operators are in :mod:`graphopt.ops.content_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType

MAX_ELEMENTS = 64
MAX_DEPTH = 48

Element = Dim | None
Content = tuple[Element, ...]
"""Elements of a tensor of rank 0 or 1; None: this element is unknown. Truth values are 0 and 1."""

Cells = np.ndarray[Any, np.dtype[np.object_]]
"""Elements of a tensor of any rank."""


def symbolic_content(value: Value) -> tuple[Dim, ...] | None:
    """Elements of an integer (or bool, or whole-numbered float) tensor of rank 0 or 1 with at most 64
    elements, in terms of the symbols in the graph's shapes; None when any of them is unknown, or too
    large for the 64 bits that hold it when the model runs."""
    content = partial_content(value)
    if content is None:
        return None
    known = tuple(element for element in content if element is not None and not _overflows(element))
    return known if len(known) == len(content) else None


def _overflows(element: Dim) -> bool:
    return isinstance(element, int) and not -(1 << 63) <= element < 1 << 63


def partial_content(value: Value) -> Content | None:
    """Like :func:`symbolic_content`, but None only when nothing is known; single elements may be None."""
    data = value.const
    if data is not None and value.owner is None and len(data.shape) < 2:
        return tensor_content(data)  # the usual case, without ceremony
    cells = Reader().read(value, MAX_DEPTH)
    return None if cells is None or cells.ndim > 1 else tuple(cells.reshape(-1).tolist())


def static_content(value: Value) -> tuple[int, ...] | None:
    """Like :func:`symbolic_content` when every element is a number, else None."""
    content = partial_content(value)
    if content is None:
        return None
    known = tuple(element for element in content if isinstance(element, int))
    return known if len(known) == len(content) else None


def tensor_content(data: Tensor) -> Content | None:
    """The elements of a constant in row-major order; fractions are unknown."""
    if data.size > MAX_ELEMENTS or data.dtype is DType.STR:
        return None
    if data.dtype.is_integer or data.dtype is DType.BOOL:
        return tuple([int(item) for item in data.numpy().reshape(-1).tolist()])
    if not data.dtype.is_float:
        return None
    numbers = data.numpy().astype(np.float64).reshape(-1).tolist()
    return tuple(int(x) if np.isfinite(x) and x == int(x) else None for x in numbers)


def make_cells(elements: Iterable[Element], shape: tuple[int, ...]) -> Cells:
    """Elements in row-major order as an array of ``shape``."""
    items = list(elements)
    cells: Cells = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        cells[i] = item
    return cells.reshape(shape)


class Reader:
    """One question; remembers answers while it lasts, so that shared sub-expressions cost once."""

    def __init__(self) -> None:
        self._known: dict[Value, Cells | None] = {}

    def read(self, value: Value, depth: int) -> Cells | None:
        """What ``value`` holds, looking back over at most ``depth`` nodes; None if nothing is known."""
        if value in self._known:
            return self._known[value]
        shape = static_shape(value)
        cells = None if shape is None or depth <= 0 else self._read(value, shape, depth - 1)
        if cells is not None and cells.shape != shape:
            cells = None
        self._known[value] = cells
        return cells

    def _read(self, value: Value, shape: tuple[int, ...], depth: int) -> Cells | None:
        if value.owner is None:
            elements = None if value.const is None else tensor_content(value.const)
            return None if elements is None else make_cells(elements, shape)
        if isinstance(value.owner, Region):
            outer = outer_value(value)
            return None if outer is None else self.read(outer, depth)
        rule = None if value.owner.domain else RULES.get(value.owner.op)
        return None if rule is None else rule(self, value, depth)

    def input(self, node: Node, index: int, depth: int) -> Cells | None:
        """What input ``index`` holds; None also when it is absent."""
        value = node.input(index)
        return None if value is None else self.read(value, depth)

    def numbers(self, node: Node, index: int, depth: int) -> list[int] | None:
        """What input ``index`` holds when it is all numbers, flattened."""
        cells = self.input(node, index, depth)
        if cells is None:
            return None
        known = [element for element in cells.reshape(-1).tolist() if isinstance(element, int)]
        return known if len(known) == cells.size else None


def static_shape(value: Value) -> tuple[int, ...] | None:
    """The shape of a small tensor whose dimensions are all numbers, else None."""
    type = value.type
    if type.__class__ is not TensorType or type.shape is None:
        return None
    size = 1
    for dim in type.shape:
        if not isinstance(dim, int):
            return None
        size *= dim
    return type.shape if size <= MAX_ELEMENTS else None  # type: ignore[return-value]


def outer_value(value: Value) -> Value | None:
    """What an input of a fused node's body stands for outside; None for any other value."""
    region = value.owner
    fused = region.parent if isinstance(region, Region) else None
    if fused is None or not fused.is_fused or value.index >= len(fused.inputs):
        return None
    return fused.inputs[value.index]


ContentRule = Callable[[Reader, Value, int], Cells | None]
"""What an output holds, from a reader for the inputs and the depth that is left."""

RULES: dict[str, ContentRule] = {}


def content_of(*names: str) -> Callable[[ContentRule], ContentRule]:
    """Registers the rule for operators of ONNX."""

    def attach(rule: ContentRule) -> ContentRule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return attach
