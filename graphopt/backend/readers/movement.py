"""Readers of operators that move elements: an output index is mapped to an input index.

Where an input such as a shape or an axis list only says what the output's shape already says, it is
not read at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tvm import tirx

from graphopt.backend.readers.context import Context, reader
from graphopt.backend.readers.indices import Indices, flat_offset, immediate
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Dim, Shape, product
from graphopt.ir.graph import Node, Value
from graphopt.ir.tensor import Tensor

_ZERO = tirx.IntImm("int64", 0)


def operand(node: Node, index: int) -> Value:
    """Input ``index``, which the operator requires."""
    value = node.inputs[index]
    assert value is not None
    return value


def integers(context: Context, node: Node, index: int, default: Sequence[int]) -> tuple[int, ...]:
    """A list of numbers given as input ``index``.

    Raises:
        CompileError: they are known only when the model runs.
    """
    value = node.input(index)
    if value is None:
        return tuple(default)
    content = context.content(value)
    if content is None or not all(isinstance(item, int) for item in content):
        raise refuse(node, f"its input {index} must be constant", "fold constants first (pipeline O1)")
    return cast("tuple[int, ...]", content)


def scalars(context: Context, node: Node, index: int, count: int) -> list[Expr]:
    """Input ``index``, a list of ``count`` integers, as 64-bit expressions; read from memory if need be."""
    value = operand(node, index)
    content = context.content(value)
    if content is not None:
        return [context.extent(dim) for dim in content]
    return [context.read(value, (tirx.IntImm("int64", i),)).astype("int64") for i in range(count)]


def axis_attr(node: Node, rank: int, default: int = 0, name: str = "axis") -> int:
    """The attribute ``axis`` counted from the front."""
    return cast(int, node.attrs.get(name, default)) % max(rank, 1)


@reader("Transpose")
def _transpose(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    perm = cast("tuple[int, ...]", node.attrs.get("perm", tuple(reversed(range(len(indices))))))
    source: list[Expr] = [_ZERO] * len(indices)
    for place, axis in enumerate(perm):
        source[axis] = indices[place]
    return context.input(node, 0, source)


@reader("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    source, shape = operand(node, 0), shape_of(node.outputs[0])
    flat = context.read_flat(source, flat_offset(indices, context.symbols.shape(shape)))
    if flat is not None:
        return flat
    return context.read(source, regroup(context, indices, shape, shape_of(source)))


def regroup(context: Context, indices: Sequence[Expr], shape: Shape, source: Shape) -> list[Expr]:
    """Indices into ``source`` of the element at ``indices`` of ``shape``, both in row-major order.

    Dimensions are matched in the smallest groups of equal size, so that a dimension that both have
    is not divided.
    """
    result: list[Expr] = []
    i = j = 0
    while i < len(shape) or j < len(source):
        first_i, first_j = i, j
        left: Dim = 1
        right: Dim = 1
        while True:
            if left == right and (i > first_i or j > first_j) and left != 1:
                break
            if i < len(shape) and (left == 1 or j >= len(source) or _not_larger(left, right)):
                left, i = left * shape[i], i + 1
            elif j < len(source):
                right, j = right * source[j], j + 1
            else:
                break
        result += _split(context, indices[first_i:i], shape[first_i:i], source[first_j:j])
    return result


def _not_larger(left: Dim, right: Dim) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left <= right
    return isinstance(left, int)


def _split(context: Context, indices: Sequence[Expr], shape: Shape, source: Shape) -> list[Expr]:
    """The same for one group."""
    wide = [(index, dim) for index, dim in zip(indices, shape, strict=True) if dim != 1]
    kept = [dim for dim in source if dim != 1]
    if tuple(dim for _, dim in wide) == tuple(kept):
        places = iter([index for index, _ in wide])
        return [_ZERO if dim == 1 else next(places) for dim in source]
    flat = flat_offset([index for index, _ in wide], [context.extent(dim) for _, dim in wide])
    result: list[Expr] = []
    for place, dim in enumerate(source):
        inner = context.extent(product(source[place + 1 :]))
        part = tirx.floordiv(flat, inner)
        result.append(
            part if all(d == 1 for d in source[:place]) else tirx.floormod(part, context.extent(dim))
        )
    return result


@reader("Expand")
def _expand(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    return context.broadcast(operand(node, 0), indices, shape_of(node.outputs[0]))


@reader("Tile")
def _tile(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    source = shape_of(operand(node, 0))
    pairs = zip(indices, source, shape_of(node.outputs[0]), strict=True)
    return context.input(
        node,
        0,
        [
            _ZERO if dim == 1 else place if dim == out else tirx.floormod(place, context.extent(dim))
            for place, dim, out in pairs
        ],
    )


@reader("Slice")
def _slice(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape = shape_of(operand(node, 0))
    starts = operand(node, 1)
    count = shape_of(starts)[0]
    if not isinstance(count, int):
        raise refuse(node, "the number of sliced axes is not known")
    axes = [axis % len(shape) for axis in integers(context, node, 3, range(count))]
    steps = integers(context, node, 4, [1] * count)
    source = list(indices)
    for axis, step, start in zip(axes, steps, scalars(context, node, 1, count), strict=True):
        first = _slice_start(start, context.extent(shape[axis]), step)
        source[axis] = first + indices[axis] * step
    return context.input(node, 0, source)


def _slice_start(start: Expr, extent: Expr, step: int) -> Expr:
    low, high = (0, extent) if step > 0 else (0, extent - 1)
    if isinstance(start, tirx.IntImm) and isinstance(extent, tirx.IntImm):
        first = start.value + extent.value if start.value < 0 else start.value
        return tirx.IntImm("int64", min(max(first, 0), extent.value - (step < 0)))
    if isinstance(start, tirx.IntImm) and start.value == 0:
        return start
    return tirx.max(tirx.min(tirx.Select(start < 0, start + extent, start), high), low)


@reader("Concat")
def _concat(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    axis = axis_attr(node, len(indices))
    values = [value for value in node.inputs if value is not None]
    offsets = concat_offsets(node)
    chosen = context.pieces.get(node)

    def part(place: int) -> Expr:
        dim = context.extent(shape_of(values[place])[axis])
        own = indices[axis] - context.extent(offsets[place])
        return context.read(values[place], (*indices[:axis], context.clamp(own, dim), *indices[axis + 1 :]))

    def choose(place: int) -> Expr:
        if place == len(values) - 1:
            return part(place)
        inside = indices[axis] < context.extent(offsets[place + 1])
        return context.branch(inside, lambda: part(place), lambda: choose(place + 1))

    return part(chosen) if chosen is not None else choose(0)


def concat_offsets(node: Node) -> list[Dim]:
    """Where each input of a Concat begins, and the end."""
    axis = axis_attr(node, len(shape_of(node.outputs[0])))
    offsets: list[Dim] = [0]
    for value in node.inputs:
        if value is not None:
            offsets.append(offsets[-1] + shape_of(value)[axis])
    return offsets


@reader("Split")
def _split_reader(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    axis = axis_attr(node, len(indices))
    before: Dim = 0
    for value in node.outputs[:index]:
        before = before + shape_of(value)[axis]
    moved = indices[axis] + context.extent(before)
    return context.input(node, 0, (*indices[:axis], moved, *indices[axis + 1 :]))


def wrapped(context: Context, position: Expr, dim: Dim) -> Expr:
    """An index from data: negative ones count from the end, and none leaves the extent."""
    extent = context.extent(dim)
    place = context.bind(position.astype("int64"))
    return tirx.max(tirx.min(tirx.Select(place < 0, place + extent, place), extent - 1), _ZERO)


@reader("Gather")
def _gather(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape, positions = shape_of(operand(node, 0)), operand(node, 1)
    axis = axis_attr(node, len(shape))
    rank = len(shape_of(positions))
    position = context.read(positions, indices[axis : axis + rank])
    place = wrapped(context, position, shape[axis])
    return context.input(node, 0, (*indices[:axis], place, *indices[axis + rank :]))


@reader("GatherElements")
def _gather_elements(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape = shape_of(operand(node, 0))
    axis = axis_attr(node, len(shape))
    place = wrapped(context, context.input(node, 1, indices), shape[axis])
    return context.input(node, 0, (*indices[:axis], place, *indices[axis + 1 :]))


@reader("GatherND")
def _gather_nd(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape, positions = shape_of(operand(node, 0)), shape_of(operand(node, 1))
    batch = cast(int, node.attrs.get("batch_dims", 0))
    depth = positions[-1]
    if not isinstance(depth, int):
        raise refuse(node, "the length of its index tuples is not known")
    lead = indices[: len(positions) - 1]
    places = [
        wrapped(context, context.input(node, 1, (*lead, tirx.IntImm("int64", k))), shape[batch + k])
        for k in range(depth)
    ]
    return context.input(node, 0, (*indices[:batch], *places, *indices[len(positions) - 1 :]))


@reader("DepthToSpace")
def _depth_to_space(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    n, c, h, w = indices
    block = cast(int, node.attrs["blocksize"])
    channels = context.extent(shape_of(node.outputs[0])[1])
    row, column = tirx.floormod(h, block), tirx.floormod(w, block)
    if node.attrs.get("mode", "DCR") in ("CRD", b"CRD"):
        channel = c * (block * block) + row * block + column
    else:
        channel = (row * block + column) * channels + c
    return context.input(node, 0, (n, channel, tirx.floordiv(h, block), tirx.floordiv(w, block)))


@reader("SpaceToDepth")
def _space_to_depth(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    n, c, h, w = indices
    block = cast(int, node.attrs["blocksize"])
    channels = context.extent(shape_of(operand(node, 0))[1])
    if node.attrs.get("mode", "DCR") in ("CRD", b"CRD"):
        offset, channel = tirx.floormod(c, block * block), tirx.floordiv(c, block * block)
    else:
        offset, channel = tirx.floordiv(c, channels), tirx.floormod(c, channels)
    row, column = tirx.floordiv(offset, block), tirx.floormod(offset, block)
    return context.input(node, 0, (n, channel, h * block + row, w * block + column))


@reader("ReverseSequence")
def _reverse_sequence(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    batch, time = axis_attr(node, 9, 1, "batch_axis"), axis_attr(node, 9, 0, "time_axis")
    length = context.input(node, 1, (indices[batch],)).astype("int64")
    # A length that is data may be past the end; what it reverses must lie in memory.
    length = context.bind(tirx.min(length, context.extent(shape_of(operand(node, 0))[time])))
    place = tirx.Select(indices[time] < length, length - 1 - indices[time], indices[time])
    return context.input(node, 0, tuple(place if i == time else x for i, x in enumerate(indices)))


@reader("Trilu")
def _trilu(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    k = scalars_or(context, node, 1, 0)
    row, column = indices[-2], indices[-1]
    upper = node.attrs.get("upper", 1)
    keep = column - row >= k if upper else column - row <= k
    zero = tirx.const(0, dtype_of(node.outputs[0]))
    return context.branch(keep, lambda: context.input(node, 0, indices), lambda: zero)


def scalars_or(context: Context, node: Node, index: int, default: int) -> Expr:
    """Input ``index``, one integer, or the default where it is absent."""
    value = node.input(index)
    if value is None:
        return tirx.IntImm("int64", default)
    content = context.content(value)
    if content is not None and len(content) == 1:
        return context.extent(content[0])
    return context.read(value, [_ZERO] * len(shape_of(value))).astype("int64")


@reader("OneHot")
def _one_hot(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    axis = axis_attr(node, len(indices), -1)
    depth = context.extent(shape_of(node.outputs[0])[axis])
    hot = context.bind(context.input(node, 0, (*indices[:axis], *indices[axis + 1 :])).astype("int64"))
    wanted = tirx.Select(hot < 0, hot + depth, hot)
    off, on = (context.input(node, 2, (tirx.IntImm("int64", i),)) for i in (0, 1))
    return tirx.Select(context.number(indices[axis], "int64") == wanted, on, off)


@reader("Range")
def _range(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    dtype = dtype_of(node.outputs[0])
    start, delta = context.input(node, 0, ()), context.input(node, 2, ())
    return start + context.number(indices[0], dtype) * delta


@reader("EyeLike")
def _eye_like(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    dtype = dtype_of(node.outputs[0])
    row, column = (context.number(place, "int64") for place in indices)
    hit = column - row == cast(int, node.attrs.get("k", 0))
    return tirx.Select(hit, tirx.const(1, dtype), tirx.const(0, dtype))


@reader("ConstantOfShape")
def _constant_of_shape(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    value = node.attrs.get("value")
    number = value.item() if isinstance(value, Tensor) else 0
    return immediate(number, dtype_of(node.outputs[0]))


@reader("Shape", "Size")
def _shape(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape = shape_of(operand(node, 0))
    if node.op == "Size":
        return context.extent(product(shape))
    start = cast(int, node.attrs.get("start", 0))
    first = max(start + len(shape), 0) if start < 0 else start
    dims = shape[first : first + cast(int, shape_of(node.outputs[0])[0])]
    result = context.extent(dims[-1]) if dims else _ZERO
    for place in reversed(range(len(dims) - 1)):
        result = tirx.Select(indices[0] <= place, context.extent(dims[place]), result)
    return result
