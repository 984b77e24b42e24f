"""Operators that only move elements: reshape, transpose, slice, concat, pad and the like."""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.dims import Dim, Shape, ceildiv, floordiv, product
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import (
    axis,
    bad_attr,
    fail,
    fresh,
    fresh_shape,
    integer,
    integers,
    moved_quant,
    possible,
    rank_of,
    same_dtype,
    static_length,
    tensor,
    value_of,
)
from graphopt.ops.content import partial_content, static_content
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import UNBOUNDED, broadcast_dim, reshape, slice_dim
from graphopt.units import counted


def _moved(x: TensorType, shape: Shape | None) -> TensorType:
    return TensorType(x.dtype, shape, moved_quant(x))


def axes_of(node: Node, index: int) -> tuple[int, ...] | None:
    """The axes that input ``index`` or, before opset 13, the attribute ``axes`` lists; None if unknown."""
    if "axes" in node.attrs:
        return integers(node, "axes")
    value = node.input(index)
    return None if value is None else static_content(value)


@declare(Kind.MOVEMENT, "Reshape")
def reshape_rule(node: Node) -> list[Type]:
    """A shape given by the second input, with 0 for "as it was" and -1 for "what is left"."""
    x = tensor(node, 0)
    content = partial_content(value_of(node, 1))
    if content is None:
        length = static_length(node, 1)
        content = None if length is None else (None,) * length
        if content is None:
            return [_moved(x, None)]
    target: list[Dim | None] = list(content)
    if target.count(-1) > 1:
        raise fail(node, 1, "at most one -1")
    for i, dim in enumerate(target):
        if isinstance(dim, int) and dim < -1:
            raise fail(node, 1, f"no {dim}")
        if dim == 0 and not integer(node, "allowzero", 0):
            if x.shape is not None and i >= len(x.shape):
                raise fail(node, 1, f"no 0 at place {i}, the input has rank {len(x.shape)}")
            target[i] = None if x.shape is None else x.shape[i]
    if x.shape is None and -1 not in target and None in content:
        shape: list[Dim | None] | None = target
    else:
        shape = reshape(x.shape, target)
    if shape is None:
        sizes = ", ".join("?" if dim is None else str(dim) for dim in content)
        raise fail(node, 0, f"as many elements as [{sizes}] has")
    return [_moved(x, tuple(fresh(node, 0, i) if dim is None else dim for i, dim in enumerate(shape)))]


@declare(Kind.MOVEMENT, "Flatten")
def flatten(node: Node) -> list[Type]:
    """A matrix: the dimensions before ``axis`` times those from it on."""
    x = tensor(node, 0)
    if x.shape is None:
        return [_moved(x, fresh_shape(node, 0, 2))]
    at = integer(node, "axis", 1)
    if not -len(x.shape) <= at <= len(x.shape):
        raise bad_attr(node, "axis", f"an axis of {counted(len(x.shape), 'dimension')}")
    at += len(x.shape) if at < 0 else 0
    return [_moved(x, (product(x.shape[:at]), product(x.shape[at:])))]


@declare(Kind.MOVEMENT, "Transpose")
def transpose(node: Node) -> list[Type]:
    """Dimensions in the order of ``perm``, reversed by default; a quantization axis goes along."""
    x = tensor(node, 0)
    perm = integers(node, "perm")
    if x.shape is None:
        return [_moved(x, None if perm is None else fresh_shape(node, 0, len(perm)))]
    rank = len(x.shape)
    if perm is None:
        perm = tuple(range(rank - 1, -1, -1))
    elif sorted(perm) != list(range(rank)):
        raise bad_attr(node, "perm", f"a permutation of 0..{rank - 1}")
    quant = x.quant
    if quant is not None and quant.axis is not None:
        quant = replace(quant, axis=perm.index(quant.axis))
    return [TensorType(x.dtype, tuple([x.shape[i] for i in perm]), quant)]


@declare(Kind.MOVEMENT, "Squeeze")
def squeeze(node: Node) -> list[Type]:
    """Without the axes given, each of size 1; without all axes of size 1 by default."""
    x = tensor(node, 0)
    axes = axes_of(node, 1)
    if x.shape is None:
        return [_moved(x, None)]
    rank = len(x.shape)
    if axes is None:
        if node.input(1) is not None:
            length = static_length(node, 1)
            return [_moved(x, None if length is None else fresh_shape(node, 0, rank - length))]
        # A symbol may turn out to be 1, so without axes only static shapes have a known result.
        known = all(isinstance(dim, int) for dim in x.shape)
        return [_moved(x, tuple(dim for dim in x.shape if dim != 1) if known else None)]
    dropped = {axis(node, a, rank) for a in axes}
    for a in sorted(dropped):
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            raise fail(node, 0, f"size 1 at axis {a}")
    return [_moved(x, tuple(dim for i, dim in enumerate(x.shape) if i not in dropped))]


@declare(Kind.MOVEMENT, "Unsqueeze")
def unsqueeze(node: Node) -> list[Type]:
    """With an axis of size 1 at each place given, counted in the result."""
    x = tensor(node, 0)
    axes = axes_of(node, 1)
    if x.shape is None:
        return [_moved(x, None)]
    if axes is None:
        length = static_length(node, 1)
        return [_moved(x, None if length is None else fresh_shape(node, 0, len(x.shape) + length))]
    rank = len(x.shape) + len(axes)
    places = {axis(node, a, rank) for a in axes}
    if len(places) != len(axes):
        raise fail(node, 1, "axes that differ")
    rest = iter(x.shape)
    return [_moved(x, tuple(1 if i in places else next(rest) for i in range(rank)))]


@declare(Kind.MOVEMENT, "Concat")
def concat(node: Node) -> list[Type]:
    """Inputs of one element type and rank, which differ along ``axis`` only."""
    dtype = same_dtype(node, range(len(node.inputs)))
    types = [tensor(node, i) for i in range(len(node.inputs))]
    known = [(i, t.shape) for i, t in enumerate(types) if t.shape is not None]
    if not known:
        return [TensorType(dtype, None)]
    rank = len(known[0][1])
    at = axis(node, integer(node, "axis", 1), rank)
    dims: list[Dim] = list(known[0][1])
    total: Dim = dims[at]
    for i, shape in known[1:]:
        if len(shape) != rank:
            raise fail(node, i, f"a tensor of rank {rank}")
        total = total + shape[at]
        for j, dim in enumerate(shape):
            if j != at and dims[j] != dim and isinstance(dim, int):
                if isinstance(dims[j], int):
                    raise fail(node, i, f"size {dims[j]} at axis {j}")
                dims[j] = dim
    dims[at] = total if len(known) == len(types) else fresh(node, 0, at)
    quant = types[0].quant if all(t.quant == types[0].quant for t in types) else None
    return [TensorType(dtype, tuple(dims), quant)]


@declare(Kind.MOVEMENT, "Split")
def split(node: Node) -> list[Type]:
    """Pieces along ``axis``: of the sizes given, or equal ones with a smaller last one."""
    x = tensor(node, 0)
    count = len(node.outputs)
    if x.shape is None:
        return [_moved(x, None) for _ in range(count)]
    at = axis(node, integer(node, "axis", 0), len(x.shape))
    size = x.shape[at]
    sizes: list[Dim]
    given = node.input(1)
    if given is not None or "split" in node.attrs:
        content = partial_content(given) if given is not None else integers(node, "split")
        content = (None,) * count if content is None else content
        if len(content) != count:
            raise fail(node, 1, f"{count} sizes, one for each output")
        sizes = [fresh(node, i, at) if dim is None else dim for i, dim in enumerate(content)]
        total = sum(sizes, start=0) if None not in content else size
        if isinstance(total, int) and isinstance(size, int) and total != size:
            raise fail(node, 1, f"sizes that add up to {size}")
    else:
        parts = integer(node, "num_outputs", count)
        sizes = _equal_parts(size, parts, count)
    return [_moved(x, (*x.shape[:at], dim, *x.shape[at + 1 :])) for dim in sizes]


def _equal_parts(size: Dim, parts: int, count: int) -> list[Dim]:
    """Sizes of ``count`` of ``parts`` equal pieces; the last is smaller when nothing else fits."""
    chunk = ceildiv(size, parts)
    if isinstance(size, int) and isinstance(chunk, int):
        return [max(min(chunk, size - i * chunk), 0) for i in range(count)]
    if floordiv(size, parts) == chunk:
        return [chunk] * count
    return [chunk] * (count - 1) + [size - chunk * (count - 1)]


@declare(Kind.MOVEMENT, "Slice")
def slice_rule(node: Node) -> list[Type]:
    """``[start:end:step]`` along the axes given (all by default)."""
    x = tensor(node, 0)
    if x.shape is None:
        return [_moved(x, None)]
    rank = len(x.shape)
    starts, ends = partial_content(value_of(node, 1)), partial_content(value_of(node, 2))
    lengths = [static_length(node, i) for i in (1, 2)]
    count = next(
        (n for n in (*(len(c) for c in (starts, ends) if c is not None), *lengths) if n is not None), None
    )
    axes: tuple[int, ...] | None = None
    if node.input(3) is not None:
        axes = static_content(value_of(node, 3))
        if axes is None:
            return [_moved(x, fresh_shape(node, 0, rank))]
    elif count is not None:
        axes = tuple(range(count))
    if axes is None:
        return [_moved(x, fresh_shape(node, 0, rank))]
    steps = static_content(value_of(node, 4)) if node.input(4) is not None else (1,) * len(axes)
    for index, content in ((1, starts), (2, ends), (4, steps)):
        if content is not None and len(content) != len(axes):
            raise fail(node, index, f"{counted(len(axes), 'element')}, one for each axis")
    dims: list[Dim] = list(x.shape)
    for i, raw in enumerate(axes):
        at = axis(node, raw, rank)
        start, end = starts[i] if starts else None, ends[i] if ends else None
        if steps is not None and steps[i] == 0:
            raise fail(node, 4, "steps other than 0")
        known = None
        if start is not None and end is not None and steps is not None:
            known = slice_dim(x.shape[at], start, end, steps[i])
        dims[at] = fresh(node, 0, at) if known is None else known
    return [_moved(x, tuple(dims))]


@declare(Kind.MOVEMENT, "Expand")
def expand(node: Node) -> list[Type]:
    """Broadcast with the shape that the second input holds."""
    x = tensor(node, 0)
    content = partial_content(value_of(node, 1))
    if content is None:
        length = static_length(node, 1)
        content = None if length is None else (None,) * length
    if content is None or x.shape is None:
        known = content is not None and x.shape is not None
        return [_moved(x, fresh_shape(node, 0, len(content)) if known and content is not None else None)]
    rank = max(len(content), len(x.shape))
    left: Shape = (1,) * (rank - len(x.shape)) + x.shape
    right = (1,) * (rank - len(content)) + content
    dims: list[Dim] = []
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if b is None:
            # Whatever the target is, a size other than 1 stays.
            dims.append(a if isinstance(a, int) and a != 1 else fresh(node, 0, i))
            continue
        dim = broadcast_dim(a, b)
        if dim is None:
            raise fail(node, 0, f"a shape that broadcasts to {b} at axis {i}")
        dims.append(dim)
    return [_moved(x, tuple(dims))]


@declare(Kind.MOVEMENT, "Tile")
def tile(node: Node) -> list[Type]:
    """Each axis repeated."""
    x = tensor(node, 0)
    repeats = partial_content(value_of(node, 1))
    if x.shape is None:
        length = static_length(node, 1)
        return [_moved(x, fresh_shape(node, 0, length))]
    if repeats is None:
        return [_moved(x, fresh_shape(node, 0, len(x.shape)))]
    if len(repeats) != len(x.shape):
        raise fail(node, 1, f"{counted(len(x.shape), 'element')}, one for each axis")
    pairs = enumerate(zip(x.shape, repeats, strict=True))
    dims = tuple(fresh(node, 0, i) if times is None else dim * times for i, (dim, times) in pairs)
    return [_moved(x, possible(node, 1, dims))]


@declare(Kind.MOVEMENT, "Pad")
def pad(node: Node) -> list[Type]:
    """Longer (or shorter, with negative pads) at both ends of the axes given (all by default)."""
    x = tensor(node, 0)
    if x.shape is None:
        return [_moved(x, None)]
    rank = len(x.shape)
    pads = partial_content(value_of(node, 1)) if node.input(1) is not None else integers(node, "pads")
    axes = static_content(value_of(node, 3)) if node.input(3) is not None else tuple(range(rank))
    if axes is None or pads is None:
        return [_moved(x, fresh_shape(node, 0, rank))]
    if len(pads) != 2 * len(axes):
        raise fail(node, 1, f"{2 * len(axes)} elements, two for each axis")
    dims: list[Dim] = list(x.shape)
    for i, raw in enumerate(axes):
        at, begin, end = axis(node, raw, rank), pads[i], pads[i + len(axes)]
        dims[at] = fresh(node, 0, at) if begin is None or end is None else x.shape[at] + begin + end
    return [_moved(x, possible(node, 0, tuple(dims)))]


@declare(Kind.MOVEMENT, "SpaceToDepth", "DepthToSpace")
def space_depth(node: Node) -> list[Type]:
    """Blocks of ``blocksize`` × ``blocksize`` pixels into channels, or back."""
    x = tensor(node, 0)
    shape = rank_of(node, 0, 4)
    size = integer(node, "blocksize", 0)
    if size < 1:
        raise bad_attr(node, "blocksize", "at least 1")
    if shape is None:
        return [_moved(x, fresh_shape(node, 0, 4))]
    n, c, h, w = shape
    if node.op == "SpaceToDepth":
        return [_moved(x, (n, c * size * size, floordiv(h, size), floordiv(w, size)))]
    if isinstance(c, int) and c % (size * size):
        raise fail(node, 0, f"channels divisible by {size * size}")
    return [_moved(x, (n, floordiv(c, size * size), h * size, w * size))]


@declare(Kind.MOVEMENT, "Trilu")
def trilu(node: Node) -> list[Type]:
    """The input's type, with a triangle set to 0."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.MOVEMENT, "ReverseSequence")
def reverse_sequence(node: Node) -> list[Type]:
    """The input's type."""
    x = tensor(node, 0)
    return [_moved(x, x.shape)]


@declare(Kind.MOVEMENT, "CenterCropPad")
def center_crop_pad(node: Node) -> list[Type]:
    """The axes given (all by default) at the sizes that the second input holds."""
    x = tensor(node, 0)
    if x.shape is None:
        return [_moved(x, None)]
    rank = len(x.shape)
    given = integers(node, "axes")
    axes = tuple(range(rank)) if given is None else given
    sizes = partial_content(value_of(node, 1)) or (None,) * len(axes)
    if len(sizes) != len(axes):
        raise fail(node, 1, f"{counted(len(axes), 'element')}, one for each axis")
    dims = list(x.shape)
    for i, raw in enumerate(axes):
        at, wanted = axis(node, raw, rank), sizes[i]
        dims[at] = fresh(node, 0, at) if wanted is None else wanted
    return [_moved(x, tuple(dims))]


@declare(Kind.OTHER, "Compress")
def compress(node: Node) -> list[Type]:
    """As many slices along ``axis`` (of the flattened tensor by default) as the condition has ones."""
    x = tensor(node, 0)
    if "axis" not in node.attrs:
        return [_moved(x, fresh_shape(node, 0, 1))]
    if x.shape is None:
        return [_moved(x, None)]
    at = axis(node, integer(node, "axis", 0), len(x.shape))
    return [_moved(x, (*x.shape[:at], fresh(node, 0, at), *x.shape[at + 1 :]))]


@declare(Kind.OTHER, "Shape", "Size")
def shape_size(node: Node) -> list[Type]:
    """An i64 vector of the dimensions from ``start`` to ``end``, or the number of elements."""
    x = tensor(node, 0)
    if node.op == "Size":
        return [TensorType(DType.I64, ())]
    if x.shape is None:
        return [TensorType(DType.I64, fresh_shape(node, 0, 1))]
    end = integer(node, "end", UNBOUNDED)
    return [TensorType(DType.I64, (len(x.shape[integer(node, "start", 0) : end]),))]
