"""MaxPool, AveragePool and LpPool.

A row of outputs is computed in two steps: the rows of the input that its windows cover are combined
into one padded row of line, which is contiguous whatever the stride, and windows slide along that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.places import Place, View, add
from graphopt.backend.emitters.reduce import Fold, lowest, power_fold
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row, in_lanes
from graphopt.backend.emitters.rows import emit_blocks, emit_rows
from graphopt.backend.emitters.windows import Window, spatial, windows_of
from graphopt.backend.kernels.emit import i64, register, serial, static
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.nests import bits_of, emit_outer, emit_vectors
from graphopt.backend.readers import flat_offset
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.scalars import widen
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Node

_ZERO = tirx.IntImm("int64", 0)


def pool_windows(work: Work, node: Node) -> list[Window]:
    size, out = spatial(node)
    kernel = cast("tuple[int, ...]", node.attrs["kernel_shape"])
    return windows_of(node, work.context.symbols, kernel, size, out)


@emitter("MaxPool")
def _max_pool(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    windows = pool_windows(work, node)
    if 1 in sinks:
        _max_pool_with_indices(work, node, sinks, windows)
        return
    dtype = dtype_of(node.outputs[0])
    fold = Fold(tirx.max, lowest)
    _emit_pool(work, node, sinks[0], windows, fold, lambda total, at: total, dtype)


@emitter("AveragePool")
def _average_pool(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    windows = pool_windows(work, node)
    wanted = dtype_of(node.outputs[0])
    dtype = "float32" if wanted in ("float16", "bfloat16") else wanted

    def divide(total: Expr, at: Sequence[Expr]) -> Expr:
        count = average_count(work, node, windows, at)
        number = tirx.const(count, dtype) if isinstance(count, int) else count.astype("int32").astype(dtype)
        return total / number

    _emit_pool(work, node, sinks[0], windows, Fold(add, lambda t: tirx.const(0, t)), divide, dtype)


def average_count(work: Work, node: Node, windows: list[Window], at: Sequence[Expr]) -> Expr:
    """How many elements the average of the window at ``at`` is over."""
    include = bool(node.attrs.get("count_include_pad", 0))
    count: Expr = 1
    for window, place in zip(windows, at, strict=True):
        count = count * _counted(work, window, place, include)
    return count


def _counted(work: Work, window: Window, place: Expr, include: bool) -> Expr:
    """How many taps of a window an average counts along one axis."""
    size, k, d = work.context.extent(window.size), window.kernel, window.dilation
    overhang = not (isinstance(window.size, int) and isinstance(window.pad, int)) or (
        (cast(int, window.out) - 1) * window.stride + (k - 1) * d >= window.size + window.pad + window.pad_end
    )
    if not window.padded or (include and not overhang):
        return k
    # Taps whose coordinate lies in [low, high): the input, with its padding or without.
    first = place * window.stride - window.pad
    low: Expr = -window.pad if include else 0
    high = size + window.pad_end if include else size
    start = tirx.max(tirx.floordiv(low - first + (d - 1), d), _ZERO)
    stop = tirx.min(tirx.floordiv(high - first + (d - 1), d), i64(k))
    return stop - start


@emitter("LpPool")
def _lp_pool(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    fold = power_fold(cast(int, node.attrs.get("p", 2)))
    wanted = dtype_of(node.outputs[0])
    dtype = "float32" if wanted in ("float16", "bfloat16") else wanted
    _emit_pool(
        work, node, sinks[0], pool_windows(work, node), fold, lambda total, at: fold.after(total), dtype
    )


def _emit_pool(
    work: Work,
    node: Node,
    sink: Sink,
    windows: list[Window],
    fold: Fold,
    finish: Callable[[Expr, Sequence[Expr]], Expr],
    dtype: str,
) -> None:
    if work.stages is not None:
        _fold_pool(work, node, sink, windows, fold, finish, dtype)
        return
    context, value = work.context, operand(node, 0)
    shape, wanted = shape_of(value), dtype_of(node.outputs[0])
    last, upper = windows[-1], windows[:-1]
    lanes = max(work.target.vector_bits // bits_of(dtype), 2)
    outs = [context.extent(window.out) for window in windows]
    before = i64(last.pad) if isinstance(last.pad, int) else last.pad
    size = context.extent(last.size)
    reach = (last.kernel - 1) * last.dilation + 1
    width = tirx.max((outs[-1] - 1) * last.stride + reach, size + before)
    identity = fold.identity(dtype)

    def row(at: dict[int, Expr]) -> None:
        lead, places = (at[0], at[1]), [at[2 + axis] for axis in range(len(upper))]

        def element(rows: Sequence[Expr], column: Expr) -> Expr:
            return context.closed(lambda: fold.before(widen(context.read(value, (*lead, *rows, column)))))

        line = scratch(width, dtype)
        _fill(line, _ZERO, before, identity)
        _fill(line, before + size, width - size - before, identity)
        _combine_rows(work, upper, places, fold, (dtype, lanes), size, element, line, before)

        def output(j: Expr) -> None:
            total: Expr = None
            for tap in range(last.kernel):
                x = line[j * last.stride + tap * last.dilation]
                total = x if total is None else fold.combine(total, x)
            result = finish(total, [*places, j])
            sink(result if type_of(result) == wanted else result.astype(wanted), (*lead, *places, j))

        emit_vectors(context, outs[-1], lanes, output)

    extents = {0: context.extent(shape[0]), 1: context.extent(shape[1])}
    extents |= {2 + axis: extent for axis, extent in enumerate(outs[:-1])}
    cost = 2
    for window in windows:
        cost *= window.kernel
    emit_outer(extents, outs[-1], row, cost=cost)


def _fold_pool(
    work: Work,
    node: Node,
    sink: Sink,
    windows: list[Window],
    fold: Fold,
    finish: Callable[[Expr, Sequence[Expr]], Expr],
    dtype: str,
) -> None:
    """A pool as a fold over the taps of its windows."""
    context, value = work.context, operand(node, 0)
    rank, wanted = len(windows), dtype_of(node.outputs[0])

    def read(at: Sequence[Expr]) -> Expr:
        places = [
            window.source(out, tap)
            for window, out, tap in zip(windows, at[2 : 2 + rank], at[2 + rank :], strict=True)
        ]
        conditions = [
            condition
            for window, place in zip(windows, places, strict=True)
            if window.padded
            for condition in (place >= 0, place < context.extent(window.size))
        ]

        def inside() -> Expr:
            return fold.before(widen(context.read(value, (*at[:2], *places))))

        return (
            context.branch(tirx.all(*conditions), inside, lambda: fold.identity(dtype))
            if conditions
            else inside()
        )

    view = View([*work.shape(node.outputs[0]), *(i64(window.kernel) for window in windows)], read, dtype)

    def body(row: Row) -> None:
        total = row.fold(fold.combine, fold.identity(dtype), lambda place: read(place.indices))

        def store(place: Place) -> None:
            at = place.indices[: 2 + rank]
            result = finish(total(place), at[2:])
            sink(result if type_of(result) == wanted else result.astype(wanted), at)

        row.once(store)

    emit_rows(work, view, frozenset(range(2 + rank, 2 + 2 * rank)), body, lambda _: None)


def _combine_rows(
    work: Work,
    upper: Sequence[Window],
    places: Sequence[Expr],
    fold: Fold,
    vector: tuple[str, int],
    size: Expr,
    element: Callable[[Sequence[Expr], Expr], Expr],
    line: Any,
    before: Expr,
) -> None:
    """Combines the rows that the windows at ``places`` cover into ``line``, from ``before`` on."""
    dtype, lanes = vector

    def block(width: int, first: Expr) -> None:
        total = register(width, dtype)
        with in_lanes(work, width) as lane:
            T.buffer_store(total, fold.identity(dtype), [lane])
        with ExitStack() as stack:
            rows = [
                window.source(place, stack.enter_context(_taps(work, window, place)))
                for window, place in zip(upper, places, strict=True)
            ]
            with in_lanes(work, width) as lane:
                T.buffer_store(total, fold.combine(total[lane], element(rows, first + lane)), [lane])
        with in_lanes(work, width) as lane:
            T.buffer_store(line, total[lane], [before + first + lane])

    emit_blocks(static(size), lanes, block)


def _fill(buffer: object, first: Expr, count: Expr, value: Expr) -> None:
    if isinstance(count, tirx.IntImm) and count.value == 0:
        return
    with serial(count) as i:
        T.buffer_store(buffer, value, [first + i])


@contextmanager
def _taps(work: Work, window: Window, place: Expr) -> Iterator[Expr]:
    """A loop over the taps of a window that lie in the input."""
    if not window.padded:
        with serial(window.kernel) as tap:
            yield tap
        return
    first = place * window.stride - window.pad
    d = window.dilation
    start = tirx.max(tirx.floordiv(d - 1 - first, d), _ZERO)
    stop = tirx.min(tirx.floordiv(work.context.extent(window.size) - first + (d - 1), d), i64(window.kernel))
    with serial(tirx.max(stop - start, _ZERO)) as tap:
        yield start + tap


def _max_pool_with_indices(work: Work, node: Node, sinks: dict[int, Sink], windows: list[Window]) -> None:
    """The maximum and where it was, tap by tap."""
    context, value = work.context, operand(node, 0)
    shape = shape_of(value)
    dtype = dtype_of(value)
    extents = [context.extent(dim) for dim in shape]
    outs = [context.extent(dim) for dim in shape_of(node.outputs[0])]
    column_major = bool(node.attrs.get("storage_order", 0))

    def run(at: dict[int, Expr]) -> None:
        places = [at[axis] for axis in range(len(outs) - 1)]
        with serial(outs[-1]) as j:
            whole = [*places, j]
            best, index = register(1, dtype), register(1, "int64")
            T.buffer_store(best, lowest(dtype), [0])
            T.buffer_store(index, _ZERO, [0])
            with ExitStack() as stack:
                source = [
                    window.source(place, stack.enter_context(_taps(work, window, place)))
                    for window, place in zip(windows, whole[2:], strict=True)
                ]
                x = context.closed(lambda: context.read(value, (*whole[:2], *source)))
                inner, sizes = (source[::-1], extents[:1:-1]) if column_major else (source, extents[2:])
                flat = flat_offset([whole[0] * extents[1] + whole[1], *inner], [extents[0], *sizes])
                with T.If(x > best[0]), T.Then():
                    T.buffer_store(index, flat, [0])
                    T.buffer_store(best, x, [0])
            if 0 in sinks:
                sinks[0](best[0], whole)
            sinks[1](index[0], whole)

    emit_outer({axis: outs[axis] for axis in range(len(outs) - 1)}, outs[-1], run, cost=32)
