"""Loop nests over all elements of a value: merged, parallel outside, vectorised inside.

The region is read once with plain variables as indices (`Context.tracing`). The flat offsets of all
loads then say which neighbouring dimensions can be walked as one, and along which of them loads are
contiguous.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm.sym
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import emit_run, i64, parallel, serial, static
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.relayout import Relayout, emit_from_blocked, emit_to_blocked
from graphopt.backend.kernels.temporaries import vectorized
from graphopt.backend.layout import stored_offset
from graphopt.backend.readers import Context, flat_offset, variables_of
from graphopt.backend.readers.movement import concat_offsets
from graphopt.backend.readers.padding import pad_pieces
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Node, Value
from graphopt.ops import Kind, info

_ZERO = tirx.IntImm("int64", 0)
CHUNK = 16 << 10
"""Elements of a one-dimensional nest that one task of the thread pool does."""
_TILE = 16

Store = Callable[[Expr, Sequence[Expr]], None]


@dataclass
class Group:
    """Neighbouring dimensions that are walked as one."""

    extent: Expr
    dims: list[int]
    coefficients: list[Expr | None]
    """Flat distance of neighbours in the result, then in each load; None where it is not linear."""

    def place(self, index: Expr, indices: list[Expr]) -> None:
        """Sets the dimensions' indices; the last one carries the whole, which offsets undo."""
        for dim in self.dims:
            indices[dim] = index if dim == self.dims[-1] else _ZERO


def bits_of(dtype: str) -> int:
    """Bits of one element in memory."""
    return 16 if dtype == "bfloat16" else np.dtype(dtype).itemsize * 8


def emit_value(context: Context, machine: Machine, value: Value, out: Any) -> None:
    """Emits loops that compute every element of ``value`` into the flat buffer ``out``."""
    relaid = _relaid(context, value)
    if relaid is not None:
        emit_relaid(context, machine, relaid, value.tensor.channel_block, out)
        return
    if value.tensor.channel_block > 1:
        emit_blocked_value(context, value, out)
        return
    shape = context.symbols.shape(shape_of(value))

    def store(expression: Expr, indices: Sequence[Expr]) -> None:
        T.buffer_store(out, expression, [flat_offset(indices, shape)])

    for node, axis, first, extent, place in _pieces(context, value):
        extents, origin = list(shape), [_ZERO] * len(shape)
        if node is not None:
            extents[axis], origin[axis] = extent, first
            context.pieces[node] = place
        _emit_box(context, machine, value, extents, origin, store)
        if node is not None:
            del context.pieces[node]


def _relaid(context: Context, value: Value) -> Value | None:
    """The leaf of another layout that ``value`` is an identity of."""
    node = value.producer
    source = (
        node.inputs[0]
        if node is not None and node.op == "Identity" and node in context.region.nodes
        else value
    )
    if source is None or source not in context.region.inputs:
        return None
    return source if source.tensor.channel_block != value.tensor.channel_block else None


def emit_relaid(context: Context, machine: Machine, leaf: Value, block: int, out: Any) -> None:
    """Emits the copy of a leaf into memory with channels in blocks of ``block``, 1 for row-major."""
    load = context.memory[leaf].load_stored
    assert load is not None
    batch, channels, *spatial = shape_of(leaf)
    own = leaf.tensor.channel_block
    assert isinstance(channels, int) and (own == 1) != (block == 1), f"{leaf.name}: from {own} to {block}"
    symbols = context.symbols
    spec = Relayout(
        static(symbols.expression(batch)),
        channels,
        static(symbols.expression(product(spatial))),
        max(own, block),
    )
    if block > 1:
        emit_to_blocked(spec, load, out)
    else:
        emit_from_blocked(spec, load, out, max(machine.vector_bits // bits_of(dtype_of(leaf)), 2))


def emit_blocked_value(context: Context, value: Value, out: Any) -> None:
    """Emits loops over blocks of channels and places, vectors being the channels of a block."""
    block = value.tensor.channel_block
    batch, channels, *spatial = context.symbols.shape(shape_of(value))
    pieces = list(_pieces(context, value))
    if any(node is not None and axis == 1 and static(first) % block for node, axis, first, _, _ in pieces):
        pieces = [(None, 0, _ZERO, _ZERO, 0)]  # a block of channels is of two inputs: lanes choose
    for node, axis, first, extent, place in pieces:
        origin = [_ZERO] * len(spatial)
        sizes, base, count = list(spatial), _ZERO, tirx.floordiv(channels + (block - 1), block)
        if node is not None and axis == 1:
            base, count = i64(static(first) // block), i64(-(-static(extent) // block))
        elif node is not None:
            sizes[axis - 2], origin[axis - 2] = extent, first
        if node is not None:
            context.pieces[node] = place

        def pixel(at: dict[int, Expr], base: Expr = base, origin: list[Expr] = origin) -> None:
            with vectorized(block) as lane:
                context.vector_variables = variables_of(lane)
                moved = [_moved(at[2 + i], o) for i, o in enumerate(origin)]
                indices = (at[0], _moved(at[1], base) * block + lane, *moved)
                element = context.expression(value, indices)
                T.buffer_store(out, element, [stored_offset(value, indices, context.symbols)])
                context.vector_variables = frozenset()

        *rows, width = [batch, count, *sizes]
        last = len(rows)

        def row(at: dict[int, Expr], width: Expr = width, last: int = last, pixel: Any = pixel) -> None:
            with serial(width) as w:
                pixel({**at, last: w})

        emit_outer(dict(enumerate(map(static, rows))), i64(width) * block, row)
        if node is not None:
            del context.pieces[node]


def _pieces(context: Context, value: Value) -> Iterator[tuple[Node | None, int, Expr, Expr, int]]:
    """Splits the nest where a Concat changes its input, and where a Pad enters and leaves its border."""
    found = _elementwise_root(context, value)
    if found is None:
        yield None, 0, _ZERO, _ZERO, 0
        return
    node, axis, offsets = found
    for place, (first, last) in enumerate(itertools.pairwise(offsets)):
        if first != last:
            yield node, axis, context.extent(first), context.extent(last - first), place


def _elementwise_root(context: Context, value: Value) -> tuple[Node, int, Sequence[Dim]] | None:
    """The Concat of at most 16 inputs, or the Pad, that ``value`` is, or is an elementwise function of.

    With the axis along which it is made of pieces, and where these begin and end. None where the region
    reads it at other places too (transposed, sliced): there it is another piece.
    """
    shape = shape_of(value)
    pending, seen = [value], {value}
    found: tuple[Node, int, Sequence[Dim]] | None = None
    while pending:
        current = pending.pop()
        node = current.producer
        if current in context.memory or node is None or shape_of(current) != shape:
            continue
        if found is None and (found := _split_by(context, node)) is not None:
            continue
        if _is_elementwise(node):
            fresh = [v for v in node.inputs if v is not None and v not in seen]
            seen.update(fresh)
            pending += fresh
    if found is None:
        return None
    made = set(found[0].outputs)
    for node in context.region.nodes:
        if made.intersection(v for v in node.inputs if v is not None):
            if not _is_elementwise(node) or not seen.issuperset(node.outputs):
                return None
            made.update(node.outputs)
    return found


def _split_by(context: Context, node: Node) -> tuple[Node, int, Sequence[Dim]] | None:
    rank = len(shape_of(node.outputs[0]))
    if node.op == "Concat" and len(node.inputs) <= 16:
        return node, int(node.attrs.get("axis", 0)) % rank, concat_offsets(node)  # type: ignore[arg-type]
    pieces = pad_pieces(context, node) if node.op == "Pad" else None
    return None if pieces is None else (node, rank - 1, pieces)


def _is_elementwise(node: Node) -> bool:
    known = info(node)
    return known is not None and known.kind is Kind.ELEMENTWISE


def _emit_box(
    context: Context, machine: Machine, value: Value, extents: list[Expr], origin: list[Expr], store: Store
) -> None:
    """One nest over a box of ``value``'s indices."""
    shape = context.symbols.shape(shape_of(value))
    variables = [tirx.Var(f"i{axis}", "int64") for axis in range(len(shape))]
    places = [_moved(v, o) for v, o in zip(variables, origin, strict=True)]
    with context.tracing() as trace:
        context.read(value, places)
    offsets = [flat_offset(places, shape), *(offset for _, offset in trace.loads)]
    widths = [bits_of(dtype) for dtype, _ in trace.loads] + [bits_of(dtype_of(value))]
    lanes = max(machine.vector_bits // max(widths), 2)
    groups = merge(variables, extents, offsets, trace.others)

    def body(index_of: dict[int, Expr]) -> None:
        indices: list[Expr] = [_ZERO] * len(shape)
        for number, index in index_of.items():
            groups[number].place(index, indices)
        moved = [_moved(v, o) for v, o in zip(indices, origin, strict=True)]
        store(context.expression(value, moved), moved)

    emit_groups(context, groups, lanes, body)


def _moved(index: Expr, origin: Expr) -> Expr:
    return index if isinstance(origin, tirx.IntImm) and origin.value == 0 else index + origin


def merge(
    variables: Sequence[Any], extents: Sequence[Expr], offsets: Sequence[Expr], others: Sequence[Expr]
) -> list[Group]:
    """The dimensions as groups, those of extent 1 left out."""
    analyzer = tvm.sym.Analyzer()
    pinned = frozenset[Any]().union(*(variables_of(expression) for expression in others))
    linear: list[list[Expr] | None] = []
    for offset in offsets:
        found = tvm.sym.detect_linear_equation(analyzer.simplify(offset), list(variables))
        linear.append(list(found) if len(found) else None)
        if not len(found):
            pinned |= variables_of(offset)
    groups: list[Group] = []
    for dim in reversed(range(len(variables))):
        extent = static(analyzer.simplify(extents[dim]))
        if extent == 1:
            continue
        own = [None if found is None else analyzer.simplify(found[dim]) for found in linear]
        free = variables[dim] not in pinned
        last = groups[-1] if groups else None
        if (
            last is not None
            and free
            and variables[last.dims[0]] not in pinned
            and _continues(analyzer, own, last)
        ):
            last.extent = static(analyzer.simplify(i64(last.extent) * i64(extent)))
            last.dims.insert(0, dim)
        else:
            groups.append(Group(extent, [dim], own))
    return groups[::-1]


def _continues(analyzer: Any, outer: list[Expr | None], inner: Group) -> bool:
    """Whether one step of the outer dimension is as far as a whole walk of the inner group."""
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and analyzer.can_prove_equal(a, b * inner.extent))
        for a, b in zip(outer, inner.coefficients, strict=True)
    )


Body = Callable[[dict[int, Expr]], None]


def emit_groups(context: Context, groups: list[Group], lanes: int, body: Body) -> None:
    """Loops over all groups: the outer ones shared among threads, the last one in vectors."""
    if not groups:
        context.vector_variables = frozenset()
        body({})
        return
    inner = len(groups) - 1
    if inner == 0:
        _emit_line(context, groups[0].extent, lanes, lambda j: body({0: j}))
        return
    across = _transposed(groups)

    def run(outer: dict[int, Expr]) -> None:
        if across is None:
            emit_vectors(context, groups[inner].extent, lanes, lambda j: body({**outer, inner: j}))
        else:
            _emit_tiles(context, groups, across, lanes, lambda at: body({**outer, **at}))

    outer_numbers = [n for n in range(inner) if n != across]
    emit_outer({n: groups[n].extent for n in outer_numbers}, groups[inner].extent, run)


def _transposed(groups: list[Group]) -> int | None:
    """The group along which a load is contiguous that is far apart along the last one."""
    for load in range(1, len(groups[-1].coefficients)):
        step = groups[-1].coefficients[load]
        if step is None or _is(step, 0) or _is(step, 1):
            continue
        for number, group in enumerate(groups[:-1]):
            if _is(group.coefficients[load], 1):
                return number
    return None


def _is(expression: Expr | None, number: int) -> bool:
    return isinstance(expression, tirx.IntImm) and expression.value == number


def emit_outer(
    extents: dict[int, Expr], inner: Expr, run: Callable[[dict[int, Expr]], None], *, cost: int = 1
) -> None:
    """Loops outside of the vectors: as many leading ones fused and made parallel as give threads work.

    ``inner`` elements of ``cost`` each are done by one ``run``; a nest too small for threads is serial.
    """
    numbers = list(extents)
    total: Expr = i64(inner)
    for extent in extents.values():
        total = total * i64(extent)
    total = static(tvm.sym.Analyzer().simplify(total))
    if isinstance(total, int) and total * cost < 2 * CHUNK:
        with ExitStack() as stack:
            run({n: stack.enter_context(serial(extents[n])) for n in numbers})
        return
    fused: list[int] = []
    count: Expr = 1
    while numbers and not (isinstance(count, int) and count >= 64):
        number = numbers.pop(0)
        fused.append(number)
        count = static(tvm.sym.Analyzer().simplify(i64(count) * i64(extents[number])))
    if not fused:
        run({})
        return
    with ExitStack() as stack:
        task = stack.enter_context(parallel(count))
        at: dict[int, Expr] = {}
        for number in reversed(fused[1:]):
            at[number] = tirx.floormod(task, i64(extents[number]))
            task = tirx.floordiv(task, i64(extents[number]))
        at[fused[0]] = task
        for number in numbers:
            at[number] = stack.enter_context(serial(extents[number]))
        run(at)


def _emit_line(context: Context, extent: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    """One dimension: chunks for the threads, vectors within."""
    if isinstance(extent, int) and extent < 2 * CHUNK:
        emit_vectors(context, extent, lanes, body)
        return
    whole = isinstance(extent, int) and extent % CHUNK == 0
    count = extent // CHUNK if whole else (i64(extent) + (CHUNK - 1)) // CHUNK
    with parallel(static(count)) as chunk:
        first = chunk * CHUNK
        length = CHUNK if whole else tirx.min(i64(extent) - first, CHUNK)
        emit_vectors(context, length, lanes, lambda j: body(first + j))


def emit_vectors(context: Context, extent: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    """body(j) for j in [0, extent), in vectors; ``body`` must be harmless to run twice for one j."""

    def inner(j: Expr) -> None:
        context.vector_variables = variables_of(j)
        body(j)
        context.vector_variables = frozenset()

    emit_run(extent, lanes, inner)


def _emit_tiles(
    context: Context, groups: list[Group], across: int, lanes: int, body: Callable[[dict[int, Expr]], None]
) -> None:
    """The last group and the one ``across`` it in square tiles, whose cache lines are then used whole."""
    inner = len(groups) - 1
    wide, high = groups[inner].extent, groups[across].extent
    with (
        serial((i64(high) + (_TILE - 1)) // _TILE) as row,
        serial((i64(wide) + (_TILE - 1)) // _TILE) as column,
    ):
        rows = tirx.min(i64(high) - row * _TILE, _TILE)
        columns = tirx.min(i64(wide) - column * _TILE, _TILE)
        with serial(rows) as i:
            at = row * _TILE + i
            emit_vectors(
                context, columns, min(lanes, _TILE), lambda j: body({across: at, inner: column * _TILE + j})
            )
