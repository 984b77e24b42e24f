"""What small integer tensors hold, as dimensions: the arithmetic that models do on shapes.

Reads backwards from a value through Shape, Gather, Concat, arithmetic and so on to shapes and
constants. Nothing is cached on values: a result is as fresh as the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir.dims import Dim, floordiv, maximum, minimum, mod, product
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType
from graphopt.ops.shapes import is_nonnegative, lower_bound, slice_places, upper_bound

MAX_ELEMENTS = 64
MAX_DEPTH = 48

Element = Dim | None
Content = tuple[Element, ...]
"""Elements of a tensor of rank 0 or 1; None: this element is unknown. Truth values are 0 and 1."""


def symbolic_content(value: Value) -> tuple[Dim, ...] | None:
    """Elements of an integer (or bool, or whole-numbered float) tensor of rank 0 or 1 with at most 64
    elements, in terms of the symbols in the graph's shapes; None when any of them is unknown."""
    content = partial_content(value)
    if content is None:
        return None
    known = tuple(element for element in content if element is not None)
    return known if len(known) == len(content) else None


def partial_content(value: Value) -> Content | None:
    """Like :func:`symbolic_content`, but None only when nothing is known; single elements may be None."""
    return _Reader().read(value, MAX_DEPTH)


def static_content(value: Value) -> tuple[int, ...] | None:
    """Like :func:`symbolic_content` when every element is a number, else None."""
    content = partial_content(value)
    if content is None:
        return None
    known = tuple(element for element in content if isinstance(element, int))
    return known if len(known) == len(content) else None


def tensor_content(data: Tensor) -> Content | None:
    """The elements of a constant; fractions and overflows are unknown."""
    if len(data.shape) > 1 or data.size > MAX_ELEMENTS or data.dtype is DType.STR:
        return None
    if data.dtype.is_integer or data.dtype is DType.BOOL:
        return tuple(int(item) for item in data.numpy().reshape(-1).tolist())
    if not data.dtype.is_float:
        return None
    numbers = data.numpy().astype(np.float64).reshape(-1).tolist()
    return tuple(int(x) if np.isfinite(x) and x == int(x) else None for x in numbers)


class _Reader:
    """One question; remembers answers while it lasts, so that shared sub-expressions cost once."""

    def __init__(self) -> None:
        self.known: dict[Value, Content | None] = {}

    def read(self, value: Value, depth: int) -> Content | None:
        if value in self.known:
            return self.known[value]
        content = self._read(value, depth) if depth else None
        if content is not None and isinstance(value.type, TensorType) and value.type.shape is not None:
            expected = product(value.type.shape)
            if isinstance(expected, int) and expected != len(content):
                content = None
        self.known[value] = content
        return content

    def _read(self, value: Value, depth: int) -> Content | None:
        type = value.type
        if type.__class__ is not TensorType or type.shape is None or len(type.shape) > 1:
            return None
        if value.owner is None:
            return None if value.const is None else tensor_content(value.const)
        if isinstance(value.owner, Region):
            outer = _outer(value, value.owner)
            return None if outer is None else self.read(outer, depth - 1)
        node = value.owner
        if node.domain:
            return None
        if node.op == "Split":
            return self._split(node, value.index, depth - 1)
        rule = _RULES.get(node.op)
        return None if rule is None else rule(self, node, depth - 1)

    def input(self, node: Node, index: int, depth: int) -> Content | None:
        value = node.input(index)
        return None if value is None else self.read(value, depth)

    def inputs(self, node: Node, depth: int) -> list[Content] | None:
        contents = [self.input(node, i, depth) for i in range(len(node.inputs))]
        known = [content for content in contents if content is not None]
        return known if len(known) == len(contents) else None

    def numbers(self, node: Node, index: int, depth: int) -> tuple[int, ...] | None:
        content = self.input(node, index, depth)
        if content is None:
            return None
        known = tuple(element for element in content if isinstance(element, int))
        return known if len(known) == len(content) else None

    def _split(self, node: Node, index: int, depth: int) -> Content | None:
        content, sizes = self.input(node, 0, depth), self.numbers(node, 1, depth)
        if content is None:
            return None
        if sizes is None:
            if node.input(1) is not None:
                return None
            chunk = -(-len(content) // len(node.outputs))
            return content[chunk * index : chunk * (index + 1)]
        return content[sum(sizes[:index]) : sum(sizes[: index + 1])]


def _outer(value: Value, region: Region) -> Value | None:
    """What an input of a fused node's body stands for outside; other region inputs vary."""
    fused = region.parent
    if fused is None or not region.is_isolated or value.index >= len(fused.inputs):
        return None
    return fused.inputs[value.index]


_Read = Callable[[_Reader, Node, int], Content | None]


def _constant(_: _Reader, node: Node, __: int) -> Content | None:
    data = node.attrs.get("value")
    if isinstance(data, Tensor):
        return tensor_content(data)
    one = node.attrs.get("value_int")
    if isinstance(one, int):
        return (one,)
    many = node.attrs.get("value_ints")
    return tuple(item for item in many if isinstance(item, int)) if isinstance(many, tuple) else None


def _shape(_: _Reader, node: Node, __: int) -> Content | None:
    shape = _shape_of(node, 0)
    if shape is None:
        return None
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    return shape[start:end] if isinstance(start, int) and isinstance(end, int | None) else None


def _size(_: _Reader, node: Node, __: int) -> Content | None:
    shape = _shape_of(node, 0)
    return None if shape is None else (product(shape),)


def _shape_of(node: Node, index: int) -> tuple[Dim, ...] | None:
    value = node.input(index)
    return None if value is None else value.tensor.shape


def _same(reader: _Reader, node: Node, depth: int) -> Content | None:
    return reader.input(node, 0, depth)


def _cast(reader: _Reader, node: Node, depth: int) -> Content | None:
    content = reader.input(node, 0, depth)
    target = node.outputs[0].tensor.dtype
    if content is None or target is None:
        return None
    if target is DType.BOOL:
        return tuple(_truth(None if element is None else _differs(element, 0)) for element in content)
    if target.is_integer and target.bits < 32:
        low, high = (
            (-(1 << target.bits - 1), 1 << target.bits - 1) if target.is_signed else (0, 1 << target.bits)
        )
        return tuple(e if isinstance(e, int) and low <= e < high else None for e in content)
    return content


def _gather(reader: _Reader, node: Node, depth: int) -> Content | None:
    content, indices = reader.input(node, 0, depth), reader.numbers(node, 1, depth)
    if content is None or indices is None or any(not -len(content) <= i < len(content) for i in indices):
        return None
    return tuple(content[i] for i in indices)


def _concat(reader: _Reader, node: Node, depth: int) -> Content | None:
    parts: list[Element] = []
    for index in range(len(node.inputs)):
        content = reader.input(node, index, depth)
        if content is None:
            shape = _shape_of(node, index)
            if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > MAX_ELEMENTS:
                return None
            content = (None,) * shape[0]
        parts += content
    return tuple(parts) if len(parts) <= MAX_ELEMENTS else None


def _slice(reader: _Reader, node: Node, depth: int) -> Content | None:
    content = reader.input(node, 0, depth)
    bounds = [reader.numbers(node, i, depth) for i in (1, 2)]
    step = reader.numbers(node, 4, depth) if node.input(4) is not None else (1,)
    if content is None or any(b is None or len(b) != 1 for b in bounds) or step is None or 0 in step:
        return None
    (start,), (end,) = (b for b in bounds if b is not None)
    return tuple(content[i] for i in slice_places(len(content), start, end, step[0]))


def _expand(reader: _Reader, node: Node, depth: int) -> Content | None:
    content, target = reader.input(node, 0, depth), reader.numbers(node, 1, depth)
    if content is None or target is None or len(target) > 1:
        return None
    count = target[0] if target else 1
    return content * count if len(content) == 1 and 0 <= count <= MAX_ELEMENTS else content


def _range(reader: _Reader, node: Node, depth: int) -> Content | None:
    ends = [reader.numbers(node, i, depth) for i in range(3)]
    if any(end is None or len(end) != 1 for end in ends):
        return None
    (start,), (limit,), (delta,) = (end for end in ends if end is not None)
    if not delta or (limit - start) // delta > MAX_ELEMENTS:
        return None
    return tuple(range(start, limit, delta))


def _constant_of_shape(reader: _Reader, node: Node, depth: int) -> Content | None:
    counts = reader.numbers(node, 0, depth)
    if counts is None or len(counts) > 1 or (counts and not 0 <= counts[0] <= MAX_ELEMENTS):
        return None
    data = node.attrs.get("value")
    element = tensor_content(data) if isinstance(data, Tensor) else (0,)
    return None if element is None else element * (counts[0] if counts else 1)


def _fold(combine: Callable[[Dim, Dim], Dim], start: Dim | None) -> _Read:
    def read(reader: _Reader, node: Node, depth: int) -> Content | None:
        content = reader.input(node, 0, depth)
        if content is None or None in content or (not content and start is None):
            return None
        if node.attrs.get("noop_with_empty_axes") and node.input(1) is None:
            return content
        elements = [element for element in content if element is not None]
        result = elements[0] if start is None else start
        for element in elements[1:] if start is None else elements:
            result = combine(result, element)
        return (result,)

    return read


def _elementwise(combine: Callable[..., Element], arity: int | None = None) -> _Read:
    """Broadcasting over scalars and vectors; an unknown element makes its result unknown."""

    def read(reader: _Reader, node: Node, depth: int) -> Content | None:
        contents = reader.inputs(node, depth)
        if contents is None or not contents or (arity is not None and len(contents) != arity):
            return None
        count = max(len(content) for content in contents)
        if any(len(content) not in (1, count) for content in contents) or any(
            not content for content in contents
        ):
            return None
        spread = [content * count if len(content) == 1 else content for content in contents]
        is_float = bool(node.inputs[0] and (d := node.inputs[0].tensor.dtype) and d.is_float)
        pick = _exact if is_float and node.op == "Div" else combine
        return tuple(None if None in column else pick(*column) for column in zip(*spread, strict=True))

    return read


def _exact(a: Dim, b: Dim) -> Element:
    """Float division; known only where nothing is left over."""
    return floordiv(a, b) if b != 0 and mod(a, b) == 0 else None


def _div(a: Dim, b: Dim) -> Element:
    """Integer division truncates; it is the floor when nothing is negative or nothing is left over."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    if b != 0 and ((is_nonnegative(a) and is_nonnegative(b)) or mod(a, b) == 0):
        return floordiv(a, b)
    return None


def _mod(reader: _Reader, node: Node, depth: int) -> Content | None:
    truncating = bool(node.attrs.get("fmod", 0))

    def combine(a: Dim, b: Dim) -> Element:
        low = lower_bound(b)
        if low is None or low < 0 or b == 0 or (truncating and not is_nonnegative(a)):
            return None
        return mod(a, b)

    return _elementwise(combine, 2)(reader, node, depth)


def _chain(combine: Callable[[Dim, Dim], Dim]) -> Callable[..., Element]:
    def reduce(*elements: Dim) -> Element:
        result = elements[0]
        for element in elements[1:]:
            result = combine(result, element)
        return result

    return reduce


def _truth(value: bool | None) -> Element:
    return None if value is None else int(value)


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


def _negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def _where(reader: _Reader, node: Node, depth: int) -> Content | None:
    contents = reader.inputs(node, depth)
    if contents is None or len(contents) != 3 or not all(contents):
        return None
    count = max(len(content) for content in contents)
    if any(len(content) not in (1, count) for content in contents):
        return None
    condition, yes, no = (content * count if len(content) == 1 else content for content in contents)
    return tuple(
        a if c == 1 else b if c == 0 else (a if a == b else None)
        for c, a, b in zip(condition, yes, no, strict=True)
    )


def _absolute(a: Dim) -> Element:
    if isinstance(a, int):
        return abs(a)
    return a if is_nonnegative(a) else -a if is_nonnegative(-a) else None


def _clip(reader: _Reader, node: Node, depth: int) -> Content | None:
    content = reader.input(node, 0, depth)
    bounds: list[Sequence[Element]] = []
    for index in (1, 2):
        bound = reader.input(node, index, depth) if node.input(index) is not None else ()
        if bound is None or len(bound) > 1 or None in bound:
            return None
        bounds.append(bound)
    if content is None:
        return None

    def clip(element: Element) -> Element:
        for limit, pick in zip(bounds, (maximum, minimum), strict=True):
            for bound in limit:
                element = None if element is None or bound is None else pick(element, bound)
        return element

    return tuple(clip(element) for element in content)


_RULES: dict[str, _Read] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Reshape": _same,
    "Flatten": _same,
    "Floor": _same,
    "Ceil": _same,
    "Round": _same,
    "Cast": _cast,
    "CastLike": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Expand": _expand,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _fold(lambda a, b: a * b, 1),
    "ReduceSum": _fold(lambda a, b: a + b, 0),
    "ReduceMax": _fold(maximum, None),
    "ReduceMin": _fold(minimum, None),
    "Add": _elementwise(lambda a, b: a + b, 2),
    "Sub": _elementwise(lambda a, b: a - b, 2),
    "Mul": _elementwise(lambda a, b: a * b, 2),
    "Div": _elementwise(_div, 2),
    "Mod": _mod,
    "Neg": _elementwise(lambda a: -a, 1),
    "Abs": _elementwise(_absolute, 1),
    "Min": _elementwise(_chain(minimum)),
    "Max": _elementwise(_chain(maximum)),
    "Sum": _elementwise(_chain(lambda a, b: a + b)),
    "Clip": _clip,
    "Where": _where,
    "Equal": _elementwise(lambda a, b: _truth(_negated(_differs(a, b))), 2),
    "Less": _elementwise(lambda a, b: _truth(_less(a, b)), 2),
    "Greater": _elementwise(lambda a, b: _truth(_less(b, a)), 2),
    "LessOrEqual": _elementwise(lambda a, b: _truth(_negated(_less(b, a))), 2),
    "GreaterOrEqual": _elementwise(lambda a, b: _truth(_negated(_less(a, b))), 2),
    "Not": _elementwise(lambda a: 1 - a, 1),
    "And": _elementwise(lambda a, b: a * b, 2),
    "Or": _elementwise(lambda a, b: maximum(a, b), 2),
}
