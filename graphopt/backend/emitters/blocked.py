"""Emitters for values whose channels lie in blocks: a vector is the channels of one block at one place.

Each applies to some uses of its operator; the emitter of the row-major form does the others, through
copies in scratch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Packed
from graphopt.backend.emitters.convolve import conv_spec, with_bias
from graphopt.backend.emitters.places import add
from graphopt.backend.emitters.pool import average_count, pool_windows
from graphopt.backend.emitters.reduce import FOLDS, GLOBAL_POOLS, Fold, lowest, reduced_axes
from graphopt.backend.emitters.registry import Sink, Work
from graphopt.backend.emitters.transposed import emit_plan, transposed_spec
from graphopt.backend.emitters.windows import Window
from graphopt.backend.kernels.choice import plan_conv
from graphopt.backend.kernels.emit import Buffer, i64, product, register, serial, static, store_lanes
from graphopt.backend.kernels.temporaries import vectorized
from graphopt.backend.kernels.transposed.blocked import plan_blocked
from graphopt.backend.nests import emit_outer
from graphopt.backend.readers.movement import operand
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node

BlockedEmitter = Callable[[Work, Node, dict[int, Sink], int], bool]
"""emitter(work, node, sinks, block) emits the node and gives True, or nothing and False."""

BLOCKED: dict[str, BlockedEmitter] = {}


def _emits(*ops: str) -> Callable[[BlockedEmitter], BlockedEmitter]:
    def attach(function: BlockedEmitter) -> BlockedEmitter:
        for op in ops:
            BLOCKED[op] = function
        return function

    return attach


def emit_blocked(work: Work, node: Node, sinks: dict[int, Sink], block: int) -> bool:
    """Emits a node whose results go into memory with channels in blocks of ``block``.

    Returns:
        False where there is no such emitter for this use; nothing was emitted then.
    """
    emit = None if node.domain else BLOCKED.get(node.op)
    return emit is not None and emit(work, node, sinks, block)


@_emits("Conv")
def _conv(work: Work, node: Node, sinks: dict[int, Sink], block: int) -> bool:
    x, weights = operand(node, 0), operand(node, 1)
    spec = conv_spec(work, node, weights, ("float32",))
    if x.tensor.channel_block not in (1, block):
        return False
    if spec is None or weights not in work.context.region.constants or x not in work.context.region.inputs:
        return False
    plan = plan_conv(spec, work.machine, plain_input=x.tensor.channel_block == 1, max_error=work.kernel_error)
    if plan is None:
        return False
    work.methods.extend(plan.methods)
    shape = plan.weight_shape
    packed = Packed(
        shape, plan.dtype, plan.pack, ("blocked conv", plan.form, spec.groups, spec.kernel, shape)
    )
    plan.emit(work.arguments.flat(x), work.arguments.pack(weights, packed), with_bias(work, node, sinks[0]))
    return True


@_emits("ConvTranspose")
def _conv_transpose(work: Work, node: Node, sinks: dict[int, Sink], block: int) -> bool:
    x, weights = operand(node, 0), operand(node, 1)
    constant, leaf = weights in work.context.region.constants, x in work.context.region.inputs
    if not constant or not leaf or x.tensor.channel_block not in (1, block):
        return False
    plan = plan_blocked(
        transposed_spec(work, node),
        work.machine,
        plain_input=x.tensor.channel_block == 1,
        max_error=work.kernel_error,
    )
    if plan is None:
        return False
    work.methods.extend(plan.methods)
    emit_plan(work, node, sinks[0], plan, work.arguments.flat(x))
    return True


@_emits("MaxPool", "AveragePool")
def _pool(work: Work, node: Node, sinks: dict[int, Sink], block: int) -> bool:
    if 1 in sinks or dtype_of(node.outputs[0]) != "float32" or not _is_leaf(work, node, block):
        return False
    windows = pool_windows(work, node)
    if not all(isinstance(window.pad, int) for window in windows):
        return False
    average = node.op == "AveragePool"
    fold = Fold(add, _zero) if average else Fold(tirx.max, lowest)

    def finish(total: Expr, at: Sequence[Expr]) -> Expr:
        if not average:
            return total
        count = average_count(work, node, windows, at)
        # The inverse is one number for all channels: a vector's division would take longer than its sum.
        one = tirx.const(1, "float32")
        return total * (
            tirx.const(1 / count, "float32") if isinstance(count, int) else one / count.astype("float32")
        )

    _emit_windows(work, node, sinks[0], block, windows, fold, finish)
    return True


def _zero(dtype: str) -> Expr:
    return tirx.const(0, dtype)


def _is_leaf(work: Work, node: Node, block: int) -> bool:
    value = operand(node, 0)
    return value in work.context.region.inputs and value.tensor.channel_block == block


def _emit_windows(
    work: Work,
    node: Node,
    sink: Sink,
    block: int,
    windows: list[Window],
    fold: Fold,
    finish: Callable[[Expr, Sequence[Expr]], Expr],
) -> None:
    """Folds the window of every output; taps outside of the input are left out."""
    context, value = work.context, operand(node, 0)
    batch, channels, *out = work.shape(node.outputs[0])
    identity = fold.identity("float32")

    def taps(at: Sequence[Expr], inside: bool, total: Expr, image: Expr, outer: Expr) -> None:
        for tap in _each_tap(windows):
            places = [w.source(o, t) for w, o, t in zip(windows, at, tap, strict=True)]

            def step(places: Sequence[Expr] = places) -> None:
                with vectorized(block) as lane:
                    element = context.closed(
                        lambda: context.read(value, (image, outer * block + lane, *places))
                    )
                    T.buffer_store(total, fold.combine(total[lane], element), [lane])

            conditions = [
                condition
                for window, place in zip(windows, places, strict=True)
                if window.padded
                for condition in (place >= 0, place < context.extent(window.size))
            ]
            if inside or not conditions:
                step()
            else:
                with T.If(tirx.all(*conditions)), T.Then():
                    step()

    def run(at: dict[int, Expr]) -> None:
        image, outer, *rows = (at[axis] for axis in range(len(out) + 1))
        with serial(out[-1]) as column:
            place = (*rows, column)
            total = register(block, "float32")
            store_lanes(total, 0, block, T.broadcast(identity, block))
            padded = [w for w in windows if w.padded]
            if not padded:
                taps(place, True, total, image, outer)
            else:
                whole = [
                    condition
                    for w, p in zip(windows, place, strict=True)
                    if w.padded
                    for condition in (
                        w.source(p, 0) >= 0,
                        w.source(p, w.kernel - 1) < context.extent(w.size),
                    )
                ]
                with T.If(tirx.all(*whole)):
                    with T.Then():
                        taps(place, True, total, image, outer)
                    with T.Else():
                        taps(place, False, total, image, outer)
            with vectorized(block) as lane:
                sink(finish(total[lane], place), (image, outer * block + lane, *place))

    extents = [batch, tirx.floordiv(channels + (block - 1), block), *out[:-1]]
    cost = math.prod(window.kernel for window in windows)
    emit_outer(dict(enumerate(map(static, extents))), static(out[-1] * block), run, cost=cost)


# Taps of a window that are written out one after the other.
_UNROLLED_TAPS = 16


def _each_tap(windows: Sequence[Window]) -> Iterator[tuple[Expr, ...]]:
    """The taps of a window: one after the other where they are few, else once inside of loops over them."""
    extents = [window.kernel for window in windows]
    if math.prod(extents) <= _UNROLLED_TAPS:
        yield from itertools.product(*map(range, extents))
        return
    with ExitStack() as stack:
        yield tuple(stack.enter_context(serial(extent)) for extent in extents)


@_emits("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", *GLOBAL_POOLS)
def _reduce(work: Work, node: Node, sinks: dict[int, Sink], block: int) -> bool:
    op = GLOBAL_POOLS.get(node.op, node.op)
    rank = len(shape_of(operand(node, 0)))
    axes = frozenset(range(2, rank)) if node.op in GLOBAL_POOLS else reduced_axes(work, node)
    keeps = node.op in GLOBAL_POOLS or bool(node.attrs.get("keepdims", 1))
    whole = axes == frozenset(range(2, rank)) and keeps and dtype_of(node.outputs[0]) == "float32"
    if not whole or not _is_leaf(work, node, block):
        return False
    context, value, fold = work.context, operand(node, 0), FOLDS[op]
    batch, channels, *spatial = work.shape(value)
    zeros = (tirx.IntImm("int64", 0),) * len(spatial)

    def run(at: dict[int, Expr]) -> None:
        image, outer = at[0], at[1]

        def element(lane: Expr, place: Sequence[Expr]) -> Expr:
            index = (image, outer * block + lane, *place)
            return fold.before(context.closed(lambda: context.read(value, index)))

        total = _fold_places(spatial, fold, block, element)
        with vectorized(block) as lane:
            result = fold.after(total[lane])
            if op == "ReduceMean":
                count: Expr = tirx.IntImm("int64", 1)
                for extent in spatial:
                    count = count * extent
                result = result / count.astype("float32")
            sinks[0](result, (image, outer * block + lane, *zeros))

    outside = [batch, tirx.floordiv(channels + (block - 1), block)]
    emit_outer(dict(enumerate(map(static, outside))), static(product(spatial)), run, cost=block)
    return True


# Accumulators side by side, since each addition waits for the one before it.
_SIDE_BY_SIDE = 4


def _fold_places(
    spatial: Sequence[Expr], fold: Fold, block: int, element: Callable[[Expr, Sequence[Expr]], Expr]
) -> Buffer:
    """A vector of element(lane, place) folded over all places; every row's sum is one of its own."""
    identity = T.broadcast(fold.identity("float32"), block)
    total = register(block, "float32")
    store_lanes(total, 0, block, identity)
    parts = [register(block, "float32") for _ in range(_SIDE_BY_SIDE)]

    def gain(into: Buffer, value: Callable[[Expr], Expr]) -> None:
        with vectorized(block) as lane:
            T.buffer_store(into, fold.combine(into[lane], value(lane)), [lane])

    with ExitStack() as stack:
        rows = [stack.enter_context(serial(extent)) for extent in spatial[:-1]]
        for part in parts:
            store_lanes(part, 0, block, identity)
        width = i64(static(spatial[-1]))
        with serial(tirx.floordiv(width, _SIDE_BY_SIDE)) as step:
            for number, part in enumerate(parts):
                column = step * _SIDE_BY_SIDE + number
                gain(part, lambda lane, column=column: element(lane, (*rows, column)))  # type: ignore[misc]
        with serial(tirx.floormod(width, _SIDE_BY_SIDE)) as rest:
            column = tirx.floordiv(width, _SIDE_BY_SIDE) * _SIDE_BY_SIDE + rest
            gain(parts[0], lambda lane: element(lane, (*rows, column)))
        for part in parts:
            gain(total, lambda lane, part=part: part[lane])  # type: ignore[misc]
    return total
