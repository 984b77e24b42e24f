"""How single operators work on the contents of shape tensors (see :mod:`graphopt.ops.content`).

A rule gives the elements of the value it is asked for, whose static shape is known. An unknown
element (None) makes unknown what depends on it, not more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.dims import Dim, floordiv, maximum, minimum, mod, product
from graphopt.ir.graph import Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.ops.content import (
    MAX_ELEMENTS,
    Cells,
    ContentRule,
    Element,
    Reader,
    content_of,
    make_cells,
    static_shape,
    tensor_content,
)
from graphopt.ops.shapes import is_nonnegative, lower_bound, slice_places, upper_bound


def _node(value: Value) -> Node:
    node = value.producer
    assert node is not None
    return node


def _shape(value: Value) -> tuple[int, ...]:
    shape = static_shape(value)
    assert shape is not None
    return shape


@content_of("Constant")
def _constant(_: Reader, value: Value, __: int) -> Cells | None:
    attrs = _node(value).attrs
    data, one, many = attrs.get("value"), attrs.get("value_int"), attrs.get("value_ints")
    if isinstance(data, Tensor):
        elements = tensor_content(data)
        return None if elements is None else make_cells(elements, data.shape)
    if isinstance(one, int):
        return make_cells([one], ())
    return (
        make_cells([item for item in many if isinstance(item, int)], (len(many),))
        if isinstance(many, tuple)
        else None
    )


def _input_shape(node: Node) -> tuple[Dim, ...] | None:
    value = node.input(0)
    return None if value is None else value.tensor.shape


@content_of("Shape")
def _shape_op(_: Reader, value: Value, __: int) -> Cells | None:
    node = _node(value)
    shape, start, end = _input_shape(node), node.attrs.get("start", 0), node.attrs.get("end")
    if shape is None or not isinstance(start, int) or not isinstance(end, int | None):
        return None
    return make_cells(shape[start:end], (len(shape[start:end]),))


@content_of("Size")
def _size(_: Reader, value: Value, __: int) -> Cells | None:
    shape = _input_shape(_node(value))
    return None if shape is None else make_cells([product(shape)], ())


@content_of("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Floor", "Ceil", "Round")
def _same(reader: Reader, value: Value, depth: int) -> Cells | None:
    cells, shape = reader.input(_node(value), 0, depth), _shape(value)
    return cells.reshape(shape) if cells is not None and cells.size == int(np.prod(shape)) else None


@content_of("Cast", "CastLike")
def _cast(reader: Reader, value: Value, depth: int) -> Cells | None:
    cells, target = reader.input(_node(value), 0, depth), value.tensor.dtype
    if cells is None or target is None:
        return None
    if target is DType.BOOL:
        return _map(cells, lambda element: _truth(_differs(element, 0)))
    if target.is_integer:
        half = 1 << (target.bits - 1)
        low, high = (-half, half) if target.is_signed else (0, 2 * half)
        # Sizes are taken to fit 32 bits; numbers are looked at.
        return _map(
            cells, lambda e: e if (low <= e < high if isinstance(e, int) else half > 1 << 30) else None
        )
    return cells


def _map(cells: Cells, function: Callable[[Dim], Element]) -> Cells:
    return make_cells((None if e is None else function(e) for e in cells.reshape(-1).tolist()), cells.shape)


@content_of("Gather")
def _gather(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    cells, indices = reader.input(node, 0, depth), reader.input(node, 1, depth)
    at = node.attrs.get("axis", 0)
    if cells is None or indices is None or not isinstance(at, int) or not -cells.ndim <= at < cells.ndim:
        return None
    count = cells.shape[at]
    if any(not isinstance(i, int) or not -count <= i < count for i in indices.reshape(-1).tolist()):
        return None
    taken = np.take(cells, indices.astype(np.int64), axis=at)
    return make_cells(np.asarray(taken, dtype=object).reshape(-1).tolist(), _shape(value))


@content_of("Concat")
def _concat(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    parts: list[Cells] = []
    for index, source in enumerate(node.inputs):
        cells = reader.input(node, index, depth)
        shape = None if source is None else static_shape(source)
        if shape is None:
            return None
        parts.append(make_cells([None] * int(np.prod(shape)), shape) if cells is None else cells)
    at = node.attrs.get("axis", 0)
    return np.concatenate(parts, axis=at) if isinstance(at, int) else None


@content_of("Slice")
def _slice(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    cells, starts, ends = (
        reader.input(node, 0, depth),
        reader.numbers(node, 1, depth),
        reader.numbers(node, 2, depth),
    )
    if cells is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if node.input(3) is None else reader.numbers(node, 3, depth)
    steps = [1] * len(starts) if node.input(4) is None else reader.numbers(node, 4, depth)
    if axes is None or steps is None or 0 in steps:
        return None
    for at, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places = slice_places(cells.shape[at], start, end, step)
        cells = np.take(cells, np.array(places, np.int64), axis=at)
    return cells


@content_of("Transpose")
def _transpose(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    cells, perm = reader.input(node, 0, depth), node.attrs.get("perm")
    if cells is None or not isinstance(perm, tuple | None):
        return None
    return cells.transpose() if perm is None else cells.transpose([p for p in perm if isinstance(p, int)])


@content_of("Expand", "Tile")
def _repeat(reader: Reader, value: Value, depth: int) -> Cells | None:
    node, shape = _node(value), _shape(value)
    cells = reader.input(node, 0, depth)
    if cells is None:
        return None
    if node.op == "Expand":
        return np.broadcast_to(cells, shape)
    repeats = reader.numbers(node, 1, depth)
    return None if repeats is None else np.tile(cells, repeats)


@content_of("Split")
def _split(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    cells, at = reader.input(node, 0, depth), node.attrs.get("axis", 0)
    if cells is None or not isinstance(at, int):
        return None
    begin = 0
    for output in node.outputs[: value.index]:
        shape = static_shape(output)
        if shape is None:
            return None
        begin += shape[at]
    return np.take(cells, np.arange(begin, begin + _shape(value)[at]), axis=at)


@content_of("Range")
def _range(reader: Reader, value: Value, depth: int) -> Cells | None:
    ends = [reader.numbers(_node(value), i, depth) for i in range(3)]
    if any(end is None or len(end) != 1 for end in ends):
        return None
    (start,), (limit,), (delta,) = (end for end in ends if end is not None)
    if not delta or (limit - start) // delta > MAX_ELEMENTS:
        return None
    items = range(start, limit, delta)
    return make_cells(items, (len(items),))


@content_of("ConstantOfShape")
def _constant_of_shape(_: Reader, value: Value, __: int) -> Cells | None:
    data, shape = _node(value).attrs.get("value"), _shape(value)
    element = tensor_content(data) if isinstance(data, Tensor) else (0,)
    return None if element is None else make_cells(element * int(np.prod(shape)), shape)


def _reduction(combine: Callable[[Dim, Dim], Dim]) -> ContentRule:
    def read(reader: Reader, value: Value, depth: int) -> Cells | None:
        cells, shape = reader.input(_node(value), 0, depth), _shape(value)
        # One result of at least one element: whatever the axes are, it is made of all elements.
        if cells is None or cells.size == 0 or int(np.prod(shape)) != 1:
            return None
        result, *rest = cells.reshape(-1).tolist()
        for element in rest:
            result = None if result is None or element is None else combine(result, element)
        return make_cells([result], shape)

    return read


content_of("ReduceProd")(_reduction(lambda a, b: a * b))
content_of("ReduceSum")(_reduction(lambda a, b: a + b))
content_of("ReduceMax")(_reduction(maximum))
content_of("ReduceMin")(_reduction(minimum))


def _columns(reader: Reader, node: Node, depth: int, shape: tuple[int, ...]) -> list[list[Element]] | None:
    """The inputs broadcast to ``shape``, flattened; an input of which nothing is known is all None."""
    columns: list[list[Element]] = []
    for index in range(len(node.inputs)):
        cells = reader.input(node, index, depth)
        if cells is None:
            columns.append([None] * int(np.prod(shape)))
        else:
            columns.append(np.broadcast_to(cells, shape).reshape(-1).tolist())
    return columns if any(element is not None for column in columns for element in column) else None


def _elementwise(combine: Callable[..., Element]) -> ContentRule:
    def read(reader: Reader, value: Value, depth: int) -> Cells | None:
        columns, shape = _columns(reader, _node(value), depth, _shape(value)), _shape(value)
        if columns is None:
            return None
        return make_cells(
            (None if None in row else combine(*row) for row in zip(*columns, strict=True)), shape
        )

    return read


def _chain(combine: Callable[[Dim, Dim], Dim]) -> Callable[..., Element]:
    def reduce(first: Dim, *rest: Dim) -> Element:
        for element in rest:
            first = combine(first, element)
        return first

    return reduce


@content_of("Div")
def _div(reader: Reader, value: Value, depth: int) -> Cells | None:
    is_float = value.tensor.dtype is None or value.tensor.dtype.is_float
    return _elementwise(_exact_quotient if is_float else _truncated_quotient)(reader, value, depth)


def _exact_quotient(a: Dim, b: Dim) -> Element:
    """Float division; known only where nothing is left over."""
    return floordiv(a, b) if b != 0 and mod(a, b) == 0 else None


def _truncated_quotient(a: Dim, b: Dim) -> Element:
    """Integer division truncates; it is the floor when nothing is negative or nothing is left over."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    if b != 0 and ((is_nonnegative(a) and is_nonnegative(b)) or mod(a, b) == 0):
        return floordiv(a, b)
    return None


@content_of("Mod")
def _mod(reader: Reader, value: Value, depth: int) -> Cells | None:
    truncating = bool(_node(value).attrs.get("fmod", 0))

    def combine(a: Dim, b: Dim) -> Element:
        if not is_nonnegative(b) or b == 0 or (truncating and not is_nonnegative(a)):
            return None
        return mod(a, b)

    return _elementwise(combine)(reader, value, depth)


def _truth(value: bool | None) -> Element:
    return None if value is None else int(value)


def _negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def _differs(a: Dim, b: Dim) -> bool | None:
    """Whether two dimensions differ, None when it depends on the symbols."""
    difference = a - b
    if isinstance(difference, int):
        return difference != 0
    low, high = lower_bound(difference), upper_bound(difference)
    return True if (low is not None and low > 0) or (high is not None and high < 0) else None


def _less(a: Dim, b: Dim) -> bool | None:
    low, high = lower_bound(b - a), upper_bound(b - a)
    return True if low is not None and low > 0 else False if high is not None and high <= 0 else None


def _absolute(a: Dim) -> Element:
    if isinstance(a, int):
        return abs(a)
    return a if is_nonnegative(a) else -a if is_nonnegative(-a) else None


@content_of("Where")
def _where(reader: Reader, value: Value, depth: int) -> Cells | None:
    columns, shape = _columns(reader, _node(value), depth, _shape(value)), _shape(value)
    if columns is None or len(columns) != 3:
        return None
    rows = zip(*columns, strict=True)
    return make_cells((a if c == 1 else b if c == 0 else (a if a == b else None) for c, a, b in rows), shape)


@content_of("Clip")
def _clip(reader: Reader, value: Value, depth: int) -> Cells | None:
    node = _node(value)
    cells = reader.input(node, 0, depth)
    if cells is None:
        return None
    for index, pick in ((1, maximum), (2, minimum)):
        if node.input(index) is None:
            continue
        limit = reader.input(node, index, depth)
        bound = None if limit is None or limit.size != 1 else limit.reshape(-1).tolist()[0]
        if bound is None:
            return None
        cells = _map(cells, lambda e, pick=pick, bound=bound: pick(e, bound))  # type: ignore[misc]
    return cells


for _names, _combine in (
    (("Add", "Sum"), _chain(lambda a, b: a + b)),
    (("Sub",), lambda a, b: a - b),
    (("Mul", "And"), lambda a, b: a * b),
    (("Min",), _chain(minimum)),
    (("Max", "Or"), _chain(maximum)),
    (("Neg",), lambda a: -a),
    (("Abs",), _absolute),
    (("Not",), lambda a: 1 - a),
    (("Equal",), lambda a, b: _truth(_negated(_differs(a, b)))),
    (("Less",), lambda a, b: _truth(_less(a, b))),
    (("Greater",), lambda a, b: _truth(_less(b, a))),
    (("LessOrEqual",), lambda a, b: _truth(_negated(_less(b, a)))),
    (("GreaterOrEqual",), lambda a, b: _truth(_negated(_less(a, b)))),
):
    content_of(*_names)(_elementwise(_combine))
