"""ConvTranspose: the kernels where weights are constant, a fold elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tvm import tirx

from graphopt.backend.arguments import Packed
from graphopt.backend.emitters.convolve import fold_view, with_bias
from graphopt.backend.emitters.places import View
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.windows import Window, spatial, windows_of
from graphopt.backend.kernels.emit import i64, static
from graphopt.backend.kernels.transposed.phases import TransposedSpec
from graphopt.backend.kernels.transposed.plan import TransposedPlan
from graphopt.backend.kernels.transposed.rows import plan_rows
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.readers.scalars import widen
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node


@emitter("ConvTranspose")
def _conv_transpose(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    spec = transposed_spec(work, node)
    constant = operand(node, 1) in work.context.region.constants
    if work.stages is not None or not constant or spec.dtype not in ("float32", "float16", "float64"):
        _fold(work, node, sinks[0], spec)
        return
    emit_plan(work, node, sinks[0], plan_rows(spec, work.machine), work.materialized(operand(node, 0)))


def emit_plan(work: Work, node: Node, sink: Sink, plan: TransposedPlan, x: Expr) -> None:
    """The loops of a plan on the buffer ``x``, with weights packed at compile time and the bias."""
    packed = Packed(plan.weight_shape, plan.dtype, plan.pack, plan.form)
    plan.emit(x, work.arguments.pack(operand(node, 1), packed), with_bias(work, node, sink))


def transposed_spec(work: Work, node: Node) -> TransposedSpec:
    """The convolution as the kernels take it.

    Raises:
        CompileError: channels, or sizes that padding depends on, are not known.
    """
    x, w = operand(node, 0), operand(node, 1)
    size, out = spatial(node)
    windows = windows_of(node, work.context.symbols, shape_of(w)[2:], size, out)
    groups = cast(int, node.attrs.get("group", 1))
    channels = shape_of(w)[:2]
    if not all(isinstance(dim, int) for dim in channels):
        raise refuse(node, "the channels of its kernel are not known")
    inputs, group_out = cast("tuple[int, int]", channels)
    pads = _resolved_pads(node, windows)
    return TransposedSpec(
        batch=static(work.context.extent(shape_of(x)[0])),
        in_channels=inputs,
        out_channels=group_out * groups,
        spatial=tuple(static(work.context.extent(dim)) for dim in size),
        kernel=tuple(window.kernel for window in windows),
        groups=groups,
        strides=tuple(window.stride for window in windows),
        pads_begin=tuple(begin for begin, _ in pads),
        surplus=tuple(surplus for _, surplus in pads),
        dilations=tuple(window.dilation for window in windows),
        dtype=dtype_of(x),
    )


def _resolved_pads(node: Node, windows: list[Window]) -> list[tuple[int, int]]:
    """Padding at the front of each axis, and by how much the output exceeds input times stride."""
    auto = text_attr(node, "auto_pad", "NOTSET")
    rank = len(windows)
    given = cast("tuple[int, ...]", node.attrs.get("pads", (0,) * (2 * rank)))
    if auto != "NOTSET":
        given = (0,) * (2 * rank)
    extra = cast("tuple[int, ...]", node.attrs.get("output_padding", (0,) * rank))
    resolved = []
    for axis, window in enumerate(windows):
        # Without padding the output exceeds input times stride by this.
        whole = extra[axis] + (window.kernel - 1) * window.dilation + 1 - window.stride
        if "output_shape" in node.attrs:
            if not (isinstance(window.size, int) and isinstance(window.out, int)):
                raise refuse(node, "its padding depends on sizes that are not known")
            surplus = window.out - window.size * window.stride
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            surplus = min(whole, 0)
        else:
            resolved.append((given[axis], whole - given[axis] - given[rank + axis]))
            continue
        total = max(whole - surplus, 0)
        resolved.append((total // 2 if auto == "SAME_UPPER" else total - total // 2, surplus))
    return resolved


def _fold(work: Work, node: Node, sink: Sink, spec: TransposedSpec) -> None:
    """Each output gathers the taps that reach it: those where the stride divides the distance."""
    x, w = operand(node, 0), operand(node, 1)
    rank, context = len(spec.kernel), work.context
    axes = list(zip(spec.spatial, spec.strides, spec.dilations, spec.pads_begin, strict=True))

    def read(at: Sequence[Expr]) -> Expr:
        (n, o), p = at[:2], (*at[2 : rank + 1], at[-1])
        c, taps = at[rank + 1], at[rank + 2 : -1]
        channel = c if spec.groups == 1 else tirx.floordiv(o, spec.group_out) * spec.group_in + c
        conditions, places = [], []
        for (size, stride, dilation, begin), position, tap in zip(axes, p, taps, strict=True):
            distance = position + begin - tap * dilation
            place = tirx.floordiv(distance, stride)
            if stride > 1:
                conditions.append(tirx.floormod(distance, stride) == 0)
            conditions += [place >= 0, place < size]
            places.append(place)

        def safe() -> Expr:
            moved = [context.clamp(q, i64(axis[0])) for q, axis in zip(places, axes, strict=True)]
            weight = o if spec.groups == 1 else tirx.floormod(o, spec.group_out)
            left = widen(context.read(x, (n, channel, *moved)))
            return left * widen(context.read(w, (channel, weight, *taps)))

        return context.branch_zero(tirx.all(*conditions), safe)

    n, o, *outs = (work.context.extent(dim) for dim in shape_of(node.outputs[0]))
    shape = [n, o, *outs[:-1], i64(spec.group_in), *(i64(k) for k in spec.kernel), outs[-1]]
    reduced = frozenset(range(rank + 1, 2 * rank + 2))
    fold_view(work, node, with_bias(work, node, sink), View(shape, read, dtype_of(x)), reduced)
