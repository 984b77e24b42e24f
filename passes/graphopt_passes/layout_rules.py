"""Which regions can compute with channels in blocks, and what that costs them.

Costs are cycles of one core, counted roughly: what matters is that they compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from graphopt.ir.dims import Dim, evaluate, symbols
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import Kind, info, symbolic_content

# The size that a symbolic dimension is taken to have.
_UNKNOWN = 32
# Convolutions of at most this many input channels read them row-major.
_FEW_CHANNELS = 4
_CYCLES_PER_COPIED = 1.0
_BYTES_PER_CYCLE = 16.0
_ROW_MAJOR_CONV = 1.35
# What Winograd's transforms leave of a convolution's time, with channels in blocks, at most; from this kernel on.
_WINOGRAD_CONV = 0.6
_LEAST_WINOGRAD = 3
_ROW_MAJOR_DEPTHWISE = 3.0
_ROW_MAJOR_POOL = 2.0
# To load a number by itself into a vector; to find where a place of a resized image lies in the other.
_SINGLE_LOAD = 2.5
_RESIZE_PLACE = 16.0


@dataclass(frozen=True)
class Blockable:
    """A region that can compute with channels in blocks.

    Attributes:
        operands: positions of the inputs that must then lie in blocks too.
        row_major: cycles as it is.
        blocked: cycles with channels in blocks.
    """

    operands: tuple[int, ...]
    row_major: float
    blocked: float


def blockable(node: Node, lanes: int) -> Blockable | None:
    """What ``node``, a region or a single operator, needs to compute in blocks of ``lanes`` channels."""
    if (len(node.outputs) != 1 and node.op_type != "Split") or not all(map(_is_image, node.outputs)):
        return None
    inner = list(node.body) if node.is_fused else [node]
    leaves = list(node.body.inputs) if node.is_fused else list(dict.fromkeys(filter(None, node.inputs)))
    outer = (
        {leaf: node.inputs[i] for i, leaf in enumerate(leaves)} if node.is_fused else {v: v for v in leaves}
    )
    result = node.body.outputs[0] if node.is_fused else node.outputs[0]
    constants = {leaf for leaf in leaves if (value := outer[leaf]) is not None and value.is_constant}
    wide: set[Value] = set()
    row_major = blocked = 0.0
    for op in inner:
        found = _of_operator(op, constants, lanes)
        if found is None:
            return None
        reads, plain, packed = found
        wide |= reads
        row_major, blocked = row_major + plain, blocked + packed
    operands = [leaf for leaf in leaves if leaf in wide and leaf not in constants]
    if not all(_is_image(leaf) for leaf in operands):
        return None
    waste = _waste(result, lanes)
    moved = 4.0 * (_elements(result) + sum(map(_elements, operands))) / _BYTES_PER_CYCLE
    positions = tuple(
        i for i, v in enumerate(node.inputs) if v is not None and _inside(node, i, v) in operands
    )
    return Blockable(positions, row_major + moved, blocked + moved * waste)


def _inside(node: Node, index: int, value: Value) -> Value:
    return node.body.inputs[index] if node.is_fused else value


Found = tuple[set[Value], float, float]


def _of_operator(node: Node, constants: set[Value], lanes: int) -> Found | None:
    """The operands that must lie in blocks, and the cycles of arithmetic either way; None: it can't be."""
    kind = info(node)
    if node.domain or kind is None:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        return _conv(node, constants, lanes)
    if node.op in ("MaxPool", "AveragePool") and len(node.outputs) == 1:
        return _pool(node, lanes)
    if node.op in ("GlobalAveragePool", "GlobalMaxPool") or (
        node.op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin") and _reduces_places(node)
    ):
        return {_data(node)}, 0.0, 0.0
    if node.op == "Concat":
        return _concat(node, lanes)
    if node.op in ("Slice", "Split"):
        return ({_data(node)}, 0.0, 0.0) if _takes_whole_blocks(node, lanes) else None
    if node.op == "Resize":
        return _resize(node, lanes)
    if kind.kind is Kind.ELEMENTWISE and len(node.outputs) == 1 and node.op not in ("Bernoulli", "PRelu"):
        return _elementwise(node, constants)
    return None


def _conv(node: Node, constants: set[Value], lanes: int) -> Found | None:
    x, w, y = _data(node), node.input(1), node.outputs[0]
    if (
        w is None
        or w not in constants
        or x in constants
        or not _is_image(y)
        or not isinstance(x.tensor.shape, tuple)
    ):
        return None
    bias = node.input(2)
    if bias is not None and bias not in constants:
        return None
    groups = cast(int, node.attrs.get("group", 1))
    weights, inputs = cast("tuple[int, ...]", w.tensor.shape), x.tensor.shape[1]
    outputs = cast("tuple[Dim, ...]", y.tensor.shape)[1]
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        return None
    transposed = node.op == "ConvTranspose"
    if not transposed and node.attrs.get("auto_pad", b"NOTSET") not in (
        b"NOTSET",
        b"VALID",
        "NOTSET",
        "VALID",
    ):
        return None
    depthwise = groups == inputs == outputs and groups > 1
    whole = groups == 1 or (inputs // groups % lanes == 0 and outputs // groups % lanes == 0)
    if not depthwise and not whole:
        return None
    # Every element of one side meets all weights of its channel.
    vectors = _elements(x if transposed else y) * math.prod(weights[1:]) / lanes / 2
    packed = vectors * _waste(y, lanes)
    if not transposed and _by_winograd(node, groups, weights, lanes):
        packed *= _WINOGRAD_CONV
    if depthwise:
        return {x}, vectors * _ROW_MAJOR_DEPTHWISE, packed
    reads = set() if inputs <= _FEW_CHANNELS and inputs < lanes else {x}
    return reads, vectors * _ROW_MAJOR_CONV, packed


def _by_winograd(node: Node, groups: int, weights: tuple[int, ...], lanes: int) -> bool:
    """Whether Winograd's transforms apply to a convolution, which only have a form in blocks."""
    steps = [
        s for name in ("strides", "dilations") for s in cast("tuple[int, ...]", node.attrs.get(name, ()))
    ]
    wide = [k for k in weights[2:] if k > 1]
    return (
        groups == 1
        and min(weights[:2]) >= lanes
        and set(steps) <= {1}
        and 1 <= len(wide) <= 2
        and min(wide) >= _LEAST_WINOGRAD
    )


def _pool(node: Node, lanes: int) -> Found | None:
    y = node.outputs[0]
    if not _is_image(y):
        return None
    vectors = _elements(y) * math.prod(cast("tuple[int, ...]", node.attrs["kernel_shape"])) / lanes
    return {_data(node)}, vectors * _ROW_MAJOR_POOL, vectors * _waste(y, lanes)


def _resize(node: Node, lanes: int) -> Found | None:
    """Along places alone. In rows every number is loaded by itself, in blocks a whole vector is."""
    x, y = _data(node).tensor.shape, node.outputs[0].tensor.shape
    if x is None or y is None or x[:2] != y[:2]:
        return None
    mode = node.attrs.get("mode", b"nearest")
    moved = sum(a != b for a, b in zip(x, y, strict=True))
    taps = 1 if mode in (b"nearest", "nearest") else (2 if mode in (b"linear", "linear") else 4) ** moved
    loads = _elements(node.outputs[0]) * taps
    blocked = loads + _elements(node.outputs[0]) * _RESIZE_PLACE
    return {_data(node)}, loads * _SINGLE_LOAD, blocked / lanes * _waste(node.outputs[0], lanes)


def _reduces_places(node: Node) -> bool:
    """Whether all axes but the first two are reduced, and kept."""
    shape, axes = _data(node).tensor.shape, node.input(1)
    content = None if axes is None else symbolic_content(axes)
    if shape is None or content is None or not node.attrs.get("keepdims", 1):
        return False
    return sorted(int(axis) % len(shape) for axis in content if isinstance(axis, int)) == list(
        range(2, len(shape))
    )


def _concat(node: Node, lanes: int) -> Found | None:
    """Along the channels where every piece but the last fills its blocks, along places always."""
    shape = node.outputs[0].tensor.shape
    axis = cast(int, node.attrs.get("axis", 0))
    if shape is None or axis % len(shape) == 0:
        return None
    pieces = [value for value in node.inputs if value is not None]
    if axis % len(shape) == 1:
        whole = all(_channels(value) % lanes == 0 for value in pieces[:-1])
        if not whole or not all(map(_is_image, pieces)):
            return None
    return set(pieces), 0.0, 0.0


def _takes_whole_blocks(node: Node, lanes: int) -> bool:
    """Whether each part of a Slice or Split begins at the first channel of a block, or has all channels."""
    source = _data(node)
    if not _is_image(source):
        return False
    rank, channels = len(source.tensor.shape or ()), _channels(source)
    if node.op == "Split":
        if cast(int, node.attrs.get("axis", 0)) % rank != 1:
            return True
        return all(_channels(value) % lanes == 0 for value in node.outputs[:-1])
    contents = [None if (value := node.input(i)) is None else symbolic_content(value) for i in (1, 3, 4)]
    starts, axes, steps = contents
    if starts is None or any(node.input(i) is not None and contents[i - 2] is None for i in (3, 4)):
        return False
    for index, axis in enumerate(range(len(starts)) if axes is None else axes):
        if not isinstance(axis, int):
            return False
        if axis % rank == 1:
            start, step = starts[index], 1 if steps is None else steps[index]
            if step != 1 or not isinstance(start, int):
                return False
            if min(max(start + channels if start < 0 else start, 0), channels) % lanes:
                return False
    return True


def _elementwise(node: Node, constants: set[Value]) -> Found | None:
    shape = node.outputs[0].tensor.shape
    if shape is None or len(shape) < 3:
        return None
    reads: set[Value] = set()
    for value in filter(None, node.inputs):
        own = value.tensor.shape
        if own is None or len(own) > len(shape):
            return None
        if value in constants or all(dim == 1 for dim in own):
            continue
        if len(own) != len(shape):
            return None
        if own[1] != 1:
            if own[1] != shape[1]:
                return None
            reads.add(value)
    return reads, 0.0, 0.0


def _is_image(value: Value) -> bool:
    """Whether a value can have channels in blocks: float32, axis 1 known and not 1, axes behind it."""
    type = value.type
    if not isinstance(type, TensorType) or type.shape is None or type.dtype is not DType.F32:
        return False
    return len(type.shape) >= 3 and isinstance(type.shape[1], int) and type.shape[1] > 1


def _data(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _channels(value: Value) -> int:
    shape = value.tensor.shape
    return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else 1


def _waste(value: Value, lanes: int) -> float:
    """How much larger the blocks are than what they hold."""
    channels = _channels(value)
    return -(-channels // lanes) * lanes / channels


def _elements(value: Value) -> float:
    return math.prod(_size(dim) for dim in value.tensor.shape or ())


def _size(dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    return max(int(evaluate(dim, dict.fromkeys(symbols(dim), _UNKNOWN))), 1)


def copy_cycles(value: Value) -> float:
    """Cycles to bring a value into the other layout."""
    return _elements(value) * _CYCLES_PER_COPIED
