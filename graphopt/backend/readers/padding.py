"""Readers of Pad and Resize, whose index maps have borders and interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from tvm import tirx

from graphopt.backend.readers.context import Context, reader
from graphopt.backend.readers.elementwise import attribute
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import integers, operand, scalars
from graphopt.backend.readers.scalars import widen
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node

_ZERO = tirx.IntImm("int64", 0)


def text_attr(node: Node, name: str, default: str) -> str:
    """A string among the attributes."""
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def pad_pieces(context: Context, node: Node) -> list[Dim] | None:
    """Where the last axis of a Pad begins, leaves the border, enters it again, and ends.

    Returns:
        None where the axis has no border, or this is known at the call only.
    """
    shape, out = shape_of(operand(node, 0)), shape_of(node.outputs[0])
    axes, amounts = context.content(node.input(3)), context.content(node.input(1))
    if amounts is None or (node.input(3) is not None and axes is None):
        return None
    last = [axis % len(shape) if isinstance(axis, int) else -1 for axis in axes or range(len(shape))]
    if len(shape) - 1 not in last:
        return None
    place = last.index(len(shape) - 1)
    begin, end = amounts[place], amounts[place + len(last)]
    if not (isinstance(begin, int) and isinstance(end, int) and min(begin, end) >= 0 < begin + end):
        return None
    return [0, begin, begin + shape[-1], out[-1]]


@reader("Pad")
def _pad(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    shape = shape_of(operand(node, 0))
    out = shape_of(node.outputs[0])
    axes = [axis % len(shape) for axis in integers(context, node, 3, range(len(shape)))]
    begins = dict(zip(axes, scalars(context, node, 1, 2 * len(axes)), strict=False))
    mode = text_attr(node, "mode", "constant")
    source = list(indices)
    piece = context.pieces.get(node)
    conditions: list[Expr] = []
    bordered: set[int] = set()
    for axis in axes:
        if out[axis] == shape[axis] and _is_zero(begins[axis]):
            continue
        extent = context.extent(shape[axis])
        place = indices[axis] - begins[axis]
        if piece is not None and axis == len(shape) - 1 and (piece == 1 or mode == "constant"):
            source[axis] = place
        elif mode == "constant":
            if not _is_zero(begins[axis]):
                conditions.append(place >= 0)
            conditions.append(place < extent)
            source[axis] = place
            bordered.add(axis)
        else:
            source[axis] = _BORDERS[mode](place, extent)
    dtype = dtype_of(node.outputs[0])
    fill = node.input(2)

    def border() -> Expr:
        return tirx.const(0, dtype) if fill is None else context.read(fill, [_ZERO] * len(shape_of(fill)))

    if mode == "constant" and piece in (0, 2):
        return border()
    if mode != "constant" or not conditions:
        return context.input(node, 0, source)

    def inside() -> Expr:
        safe = [
            context.clamp(place, context.extent(dim)) if axis in bordered else place
            for axis, (place, dim) in enumerate(zip(source, shape, strict=True))
        ]
        return context.input(node, 0, safe)

    return context.branch(tirx.all(*conditions), inside, border)


def _is_zero(value: Expr) -> bool:
    return isinstance(value, tirx.IntImm) and value.value == 0


def _reflect(place: Expr, extent: Expr) -> Expr:
    period = tirx.max(extent * 2 - 2, tirx.IntImm("int64", 1))
    folded = tirx.floormod(place, period)
    return tirx.min(folded, period - folded)


_BORDERS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "edge": lambda place, extent: tirx.max(tirx.min(place, extent - 1), _ZERO),
    "reflect": _reflect,
    "wrap": tirx.floormod,
}


@reader("Resize")
def _resize(context: Context, node: Node, index: int, indices: Indices) -> Expr:
    mode = text_attr(node, "mode", "nearest")
    shape, out = shape_of(operand(node, 0)), shape_of(node.outputs[0])
    if text_attr(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise refuse(node, "tf_crop_and_resize is not compiled")
    scales = _scales(context, node)
    moved = [axis for axis in range(len(shape)) if scales[axis] is not None]
    coordinates = {axis: _coordinate(context, node, axis, indices[axis], scales[axis]) for axis in moved}

    def at(places: dict[int, Expr]) -> Expr:
        return context.input(node, 0, tuple(places.get(axis, x) for axis, x in enumerate(indices)))

    if mode == "nearest":
        rounding = text_attr(node, "nearest_mode", "round_prefer_floor")
        return at(
            {
                axis: _inside(context, _nearest(x, rounding, shape[axis], out[axis]), shape[axis])
                for axis, x in coordinates.items()
            }
        )
    if mode not in ("linear", "cubic"):
        raise refuse(node, f"mode {mode!r} is not compiled")
    if node.attrs.get("antialias", 0):
        raise refuse(node, "antialias is not compiled")
    taps = _linear_taps if mode == "linear" else _cubic_taps
    weights = {axis: taps(context, node, x, shape[axis]) for axis, x in coordinates.items()}

    def gather(axes: list[int], places: dict[int, Expr]) -> Expr:
        if not axes:
            return widen(at(places)).astype("float32")
        axis, rest = axes[0], axes[1:]
        total: Expr = None
        for place, weight in weights[axis]:
            term = gather(rest, {**places, axis: place}) * weight
            total = term if total is None else total + term
        return total

    result = gather(moved, {})
    dtype = dtype_of(node.outputs[0])
    return result if dtype == "float32" else result.astype(dtype)


def _scales(context: Context, node: Node) -> list[Expr | None]:
    """Scale of each axis in float32; None for an axis that stays as it is."""
    shape, out = shape_of(operand(node, 0)), shape_of(node.outputs[0])
    axes = [
        axis % len(shape)
        for axis in cast("tuple[int, ...]", node.attrs.get("axes", tuple(range(len(shape)))))
    ]
    value = node.input(2)
    given = context.constant(value)
    read = value is not None and given is None and shape_of(value) != (0,)
    result: list[Expr | None] = [None] * len(shape)
    for place, axis in enumerate(axes):
        if given is not None and given.size:
            scale = float(given.reshape(-1)[place])
            result[axis] = None if scale == 1 else tirx.const(scale, "float32")
        elif read and value is not None:
            result[axis] = context.read(value, (tirx.IntImm("int64", place),)).astype("float32")
        elif shape[axis] != out[axis]:
            ratio = context.extent(out[axis]).astype("float32") / context.extent(shape[axis]).astype(
                "float32"
            )
            result[axis] = ratio
    return result


def _coordinate(context: Context, node: Node, axis: int, index: Expr, scale: Expr) -> Expr:
    """Where an output index lies in the input, in float32."""
    shape, out = shape_of(operand(node, 0)), shape_of(node.outputs[0])
    x = context.number(index, "float32")
    mode = text_attr(node, "coordinate_transformation_mode", "half_pixel")
    half, one = tirx.const(0.5, "float32"), tirx.const(1, "float32")
    length_in = context.extent(shape[axis]).astype("float32")
    length_out = context.extent(out[axis]).astype("float32")
    if mode == "asymmetric":
        return context.bind(x / scale)
    if mode == "align_corners":
        stretched = x * (length_in - one) / tirx.max(length_out - one, one)
        return context.bind(tirx.Select(length_out > one, stretched, tirx.const(0, "float32")))
    centred = (x + half) / scale - half
    if mode == "pytorch_half_pixel":
        centred = tirx.Select(length_out > one, centred, tirx.const(0, "float32"))
    elif mode == "half_pixel_symmetric":
        adjustment = length_out / (scale * length_in)
        centred = length_in * half * (one - adjustment) + centred
    elif mode != "half_pixel":
        raise refuse(node, f"coordinate_transformation_mode {mode!r} is not compiled")
    return context.bind(centred)


def _nearest(x: Expr, rounding: str, dim: Dim, out: Dim) -> Expr:
    half = tirx.const(0.5, "float32")
    match rounding:
        case "floor":
            return tirx.floor(x)
        case "ceil":
            return tirx.ceil(x)
        case "round_prefer_ceil":
            return tirx.floor(x + half)
    return tirx.ceil(x - half)


def _inside(context: Context, x: Expr, dim: Dim) -> Expr:
    return tirx.max(tirx.min(x.astype("int64"), context.extent(dim) - 1), _ZERO)


def _linear_taps(context: Context, node: Node, x: Expr, dim: Dim) -> list[tuple[Expr, Expr]]:
    last = context.extent(dim).astype("float32") - tirx.const(1, "float32")
    clamped = context.bind(tirx.max(tirx.min(x, last), tirx.const(0, "float32")))
    low = context.bind(tirx.floor(clamped))
    weight = context.bind(clamped - low)
    place = context.bind(_inside(context, low, dim))
    after = tirx.min(place + 1, context.extent(dim) - 1)
    return [(place, tirx.const(1, "float32") - weight), (after, weight)]


def _cubic_taps(context: Context, node: Node, x: Expr, dim: Dim) -> list[tuple[Expr, Expr]]:
    a = attribute(node, "cubic_coeff_a", -0.75)
    low = context.bind(tirx.floor(x))
    t = context.bind(x - low)

    def near(d: Expr) -> Expr:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Expr) -> Expr:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    taps = []
    for offset, weight in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        position = low.astype("int64") + offset
        inside = tirx.max(tirx.min(position, context.extent(dim) - 1), _ZERO)
        if node.attrs.get("exclude_outside", 0):
            outside = tirx.any(position < 0, position >= context.extent(dim))
            weight = tirx.Select(outside, tirx.const(0, "float32"), weight)
        taps.append((inside, context.bind(weight)))
    if not node.attrs.get("exclude_outside", 0):
        return taps
    total = sum((weight for _, weight in taps[1:]), taps[0][1])
    return [(place, weight / total) for place, weight in taps]
