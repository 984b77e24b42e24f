"""Motifs: movement of data, what cancels in it, and arithmetic on shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Value
from graphopt.ir.types import DType
from graphopt.testing.fuzzing.sketch import Sketch, elements, known, shape_of

_END = (1 << 63) - 1
_KINDS = (DType.F32, DType.F32, DType.F32, DType.I64, DType.BOOL, DType.U8)


def _data(s: Sketch, rank: tuple[int, int] = (0, 4)) -> Any:
    kind = s.choice(_KINDS)
    return s.value(s.float if kind is DType.F32 else kind, rank)


def transposed(s: Sketch) -> object:
    """One or two transpositions, which may cancel; the first may have another user."""
    x = _data(s)
    rank = len(shape_of(x))
    perm = s.order(rank)
    y = s("Transpose", x, perm=perm) if rank != 2 or s.chance() else s("Transpose", x)
    if s.chance(60):
        if s.chance(25):
            s("Identity", y)
        second = tuple(int(i) for i in np.argsort(perm)) if s.chance() else s.order(rank)
        y = s("Transpose", s("Relu", y) if s.chance(15) and y.tensor.dtype is s.float else y, perm=second)
    return y


def transposed_ones(s: Sketch) -> object:
    """A transposition that moves axes of size 1 only, or hardly anything else."""
    x = _data(s, (1, 3))
    y = s("Unsqueeze", x, s.ints(s.number(0, len(shape_of(x)))))
    return s("Transpose", y, perm=s.order(len(shape_of(y))))


def merged_batch(s: Sketch) -> object:
    """Leading axes are merged, the last two swapped, and the leading ones split again."""
    x = s.value(rank=(3, 4), where=lambda d: len(known(d[1:])) == len(d) - 1,
                shape=lambda: (s.dim(), *(s.size() for _ in range(s.number(2, 3)))))  # fmt: skip
    shape = shape_of(x)
    merged = s("Reshape", x, s.ints(-1, *_numbers(shape[-2:])))
    swapped = s("Transpose", merged, perm=(0, 2, 1))
    target = (*_numbers(shape[:-2]), *_numbers(shape[:-3:-1]))
    return s("Reshape", swapped, s.ints(*target))


def _numbers(shape: Any) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else -1 for dim in shape)


def reshaped(s: Sketch) -> object:
    """To a constant target: with 0, with -1, or numbers; perhaps onwards or back."""
    x = _data(s)
    shape = shape_of(x)
    y = s("Reshape", x, s.ints(*_target(s, shape)))
    if s.chance(45):
        again = _target(s, shape_of(y)) if s.chance() else _numbers(shape)
        if list(again).count(-1) <= 1:
            y = s("Reshape", y, s.ints(*again))
    return y


def _target(s: Sketch, shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """A target that ``shape`` certainly fits."""
    kind = s.number(0, 3)
    if kind == 0 or not shape:
        return (-1,)
    if kind == 1:
        return (0, *((-1,) if len(shape) > 1 else ()))
    if kind == 2 and isinstance(shape[-1], int) and shape[-1]:
        return (-1, shape[-1])
    cut = s.number(0, len(shape))
    kept = tuple(0 if i < cut else dim if isinstance(dim, int) else -1 for i, dim in enumerate(shape))
    target = (*kept[:cut], 1, *kept[cut:]) if s.chance() else kept
    return target if target.count(-1) <= 1 and 0 not in target[cut:] else (-1,)


def squeezed(s: Sketch) -> object:
    """Axes of size 1 inserted and taken away again, the same or others; Flatten."""
    x = _data(s, (0, 3))
    rank = len(shape_of(x))
    if rank and s.chance(25):
        return s("Flatten", x, axis=s.number(0, rank))
    at = s.number(0, rank)
    y = s("Unsqueeze", x, s.ints(at if s.chance(70) else at - rank - 1))
    return s("Squeeze", y, s.ints(at)) if s.chance(60) else y


def sliced(s: Sketch) -> object:
    """Part of an axis, forwards or backwards, or all of it, written in one of many ways."""
    x = _data(s, (1, 4))
    shape = shape_of(x)
    axis = s.number(0, len(shape) - 1)
    size = shape[axis]
    most = size if isinstance(size, int) else 1
    step = s.choice((1, 1, 2, -1))
    start, end = s.choice(((0, _END), (0, 1), (s.number(0, max(most - 1, 0)), _END), (0, -1), (-1, _END)))
    if step < 0:
        start, end = s.choice(((-1, -_END), (most - 1, 0), (_END, -_END - 1)))
    axes = s.ints(axis if s.chance() else axis - len(shape))
    return s("Slice", x, s.ints(start), s.ints(end), axes, s.ints(step))


def sliced_twice(s: Sketch) -> object:
    """Slices of slices, and a slice up to a computed size."""
    x = _data(s, (1, 3))
    axis = s.number(0, len(shape_of(x)) - 1)
    end = s("Gather", s("Shape", x), s.ints(axis))
    y = s("Slice", x, s.ints(s.choice((0, 1, -2))), end, s.ints(axis))
    return s("Slice", y, s.ints(0), s.ints(s.choice((_END, 1, -1))), s.ints(axis))


def padded(s: Sketch) -> object:
    """Padding by nothing or a little, in one of the modes."""
    x = s.value(rank=(1, 4))
    rank = len(shape_of(x))
    pads = [0] * (2 * rank) if s.chance(40) else [s.number(0, 1) for _ in range(2 * rank)]
    if s.chance(70):
        return s("Pad", x, s.ints(*pads), s.constant())
    return s("Pad", x, s.ints(*pads), mode=s.choice(("edge", "wrap") if s.chance(30) else ("edge",)))


def joined(s: Sketch) -> object:
    """One to three pieces joined, then perhaps cut apart again."""
    x = _data(s, (1, 4))
    axis = s.number(0, len(shape_of(x)) - 1)
    y = s("Concat", *[x] * s.number(1, 3), axis=axis if s.chance() else axis - len(shape_of(x)))
    size = shape_of(y)[axis]
    if isinstance(size, int) and size and s.chance():
        count = s.choice([n for n in (1, 1, 2, 3) if size % n == 0])
        y = s("Split", y, outputs=count, axis=axis, num_outputs=count)
    return y if isinstance(y, Value) else y[0]


def repeated_data(s: Sketch) -> object:
    """Expand and Tile, by constants that may do nothing, or to the shape of something else."""
    x = _data(s, (1, 3))
    shape = shape_of(x)
    if s.chance(40):
        return s("Tile", x, s.ints(*(s.choice((1, 1, 2)) for _ in shape)))
    if s.chance():
        return s("Expand", x, s("Shape", x) if s.chance() else s.ints(*(1 for _ in shape)))
    target = s("Concat", s.ints(2), s("Shape", x), axis=0)
    return s("Expand", x, target)


def gathered(s: Sketch) -> object:
    """Gather by constant or given indices, negative ones too."""
    x = _data(s, (1, 4))
    axes = [a for a in known(shape_of(x)) if shape_of(x)[a]]
    if not axes:
        return s("Gather", x, s.ints(0), axis=0)
    axis = s.choice(axes)
    size = shape_of(x)[axis]
    assert isinstance(size, int)
    if s.chance(25):
        index = s.new_input(DType.I64, (s.size(),), f"index{len(s.graph.inputs)}")
        s.pool.remove(index)
    else:
        index = s.ints(*(s.number(-size, size - 1) for _ in range(s.number(1, 3))))
        index = s.const(0, dtype=np.int64) if s.chance(25) else index
    return s("Gather", x, index, axis=axis)


def scattered(s: Sketch) -> object:
    """ScatterElements and GatherElements along the last axis, ScatterND along the first."""
    x = s.value(rank=2, where=lambda d: len(known(d)) == 2 and 0 not in d, shape=lambda: (s.size(), s.size()))
    rows, columns = _numbers(shape_of(x))
    rng = np.random.default_rng(s.number(0, 9))
    kind = s.choice(("GatherElements", "ScatterElements", "ScatterND"))
    if kind == "ScatterND":
        return s(kind, x, s.const([[s.number(0, rows - 1)]], dtype=np.int64), s.constant(1, columns))
    # Each index once in its row, so that the order of writing can't be seen.
    index = np.argsort(rng.random((rows, columns)), axis=1)[:, : s.number(1, columns)]
    if kind == "GatherElements":
        return s(kind, x, s.array(index.astype(np.int64)), axis=1)
    return s(kind, x, s.array(index.astype(np.int64)), s.constant(*index.shape), axis=1)


def shape_arithmetic(s: Sketch) -> object:
    """A Reshape to a target that is computed from the shape of its input, as exporters write it."""
    x = _data(s, (2, 4))
    shape = s("Shape", x)
    first = s("Gather", shape, s.const(0, dtype=np.int64))
    if s.chance(40):
        first = s("Mul", first, s.const(1, dtype=np.int64))
    rows = s("Reshape", x, s("Concat", s("Unsqueeze", first, s.ints(0)), s.ints(-1), axis=0))
    if s.chance(30):
        last = s("Slice", shape, s.ints(-1), s.ints(_END), s.ints(0))
        return s("Reshape", rows, s("Concat", s.ints(-1), last, axis=0))
    return s("Reshape", rows, shape) if s.chance(60) else rows


def sizes(s: Sketch) -> object:
    """Sizes as numbers: Shape, Size, products, one of several outputs; used as floats or as they are."""
    x = s.value(rank=(1, 4))
    y = s(s.choice(("Relu", "Identity", "Neg")), x)
    shape = s("Shape", y)
    kind = s.number(0, 4)
    if kind == 0:
        return s("Concat", shape, s.ints(3), shape, axis=0)
    if kind == 1:
        return s("Mul", x, s("Cast", s("Size", y), to=s.float.value))
    if kind == 2:
        return s("ReduceProd", shape, keepdims=0)
    if kind == 3:
        dim = s("Gather", shape, s.const(s.choice((0, -1)), dtype=np.int64))
        wide = s("Add", s("Mul", dim, s.const(2, dtype=np.int64)), s.const(1, dtype=np.int64))
        return s("Div", wide, s.const(s.choice((1, 2)), dtype=np.int64))
    start = s.number(0, len(shape_of(x)) - 1)
    return s("Shape", y, start=start, end=start + s.number(1, 2))


def filled(s: Sketch) -> object:
    """ConstantOfShape of a computed shape, and Range over a size."""
    x = s.value(rank=(1, 3))
    if s.chance():
        size = s("Squeeze", s("Shape", x, start=0, end=1))
        count = s("Range", s.const(0, dtype=np.int64), size, s.const(1, dtype=np.int64))
        return s("Cast", count, to=s.float.value)
    return s("Add", x, s("Cast", s("ConstantOfShape", s("Shape", x)), to=s.float.value))


def blocks(s: Sketch) -> object:
    """SpaceToDepth and DepthToSpace, one after the other."""
    x = s.value(rank=4, where=lambda d: len(known(d)) == 4 and d[2] == d[3] == 4,
                shape=lambda: (1, s.choice((3, 4)), 4, 4))  # fmt: skip
    y = s("SpaceToDepth", x, blocksize=2)
    return s("DepthToSpace", y, blocksize=2, mode=s.choice(("DCR", "CRD"))) if s.chance() else y


def flat(s: Sketch) -> object:
    """Everything in one axis, when that is a product of symbols too."""
    x = s.value(rank=(2, 3))
    y = s("Reshape", x, s.ints(-1))
    assert product(shape_of(x)) is not None and elements(shape_of(y)) >= 0
    return s("Reshape", y, s("Shape", x))


MOTIFS = (transposed, transposed_ones, merged_batch, reshaped, squeezed, sliced, sliced_twice, padded, joined,
          repeated_data, gathered, scattered, shape_arithmetic, sizes, filled, blocks, flat)  # fmt: skip
