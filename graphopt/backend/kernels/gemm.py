"""Matrix product: out[*batch, m, n] = sum over k of a[*batch, m, k] * b[*batch, k, n].

Vectors run along n, scalars of `a` are broadcast. A constant `b` is packed into panels at compile
time; any other is packed panel by panel as the kernel runs. Rows left over after whole register
tiles are computed by smaller tiles of their own, so a symbolic m costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    Loop,
    at_most,
    bind,
    ceil_div,
    flat_view,
    i64,
    lanes_of,
    loop_for,
    prefetch,
    product,
    serial,
    unflatten,
    whole_or_tail,
    workspace,
)
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.panels import Panel, emit_pack_panel, emit_tile_product
from graphopt.backend.kernels.tiling import RegisterTile, choose_tile

Array = npt.NDArray[np.generic]
Store: TypeAlias = Callable[[Expr, tuple[Expr, ...]], None]
Reader: TypeAlias = Callable[..., Expr]
"""read(*batch, row, column): the expression that loads one element."""
Rows: TypeAlias = Callable[[Expr, Expr], Expr]
"""rows(m, k): word k of row m of a."""

# Rows that one thread takes at a time: a multiple of every register tile's rows is not needed.
_ROW_TILES_PER_CHUNK = 16


@dataclass(frozen=True)
class GemmSpec:
    """A (batched) matrix product. `batch`, `m` and, for an unpacked b, `n` and `k` may be symbolic."""

    m: Expr
    n: Expr
    k: Expr
    batch: tuple[Expr, ...] = ()
    packed: bool = True
    """b is constant and was packed by `pack_gemm_weights`."""
    weight_batches: int = 1
    """Matrices in a packed b."""
    b_transposed: bool = False
    """An unpacked b lies with k innermost: how it is packed, not what its reader returns."""
    dtype: str = "float32"


def row_tile(spec: GemmSpec, arithmetic: Arithmetic) -> RegisterTile:
    """The register tile: rows of a times vectors of columns of b."""
    rows = spec.m if isinstance(spec.m, int) else None
    vectors = ceil_div(spec.n, arithmetic.lanes) if isinstance(spec.n, int) else None
    return choose_tile(arithmetic.machine, rows, vectors)


def gemm_arithmetic(spec: GemmSpec, machine: Machine) -> Arithmetic:
    """How `spec` is computed on `machine`."""
    return float_arithmetic(machine, spec.dtype)


def packed_gemm_shape(spec: GemmSpec, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights: [matrices, panels, words of k, columns of a panel]."""
    return packed_shape(spec, gemm_arithmetic(spec, machine))


def packed_shape(spec: GemmSpec, arithmetic: Arithmetic) -> tuple[int, ...]:
    """`packed_gemm_shape` for a given arithmetic."""
    width = row_tile(spec, arithmetic).vectors * arithmetic.lanes
    words = ceil_div(spec.k, arithmetic.group) + arithmetic.header
    return (spec.weight_batches, ceil_div(spec.n, width), words, width)


def pack_gemm_weights(spec: GemmSpec, machine: Machine, b: Array) -> Array:
    """Weights [k, n] or [weight_batches, k, n] in panel order, padded with 0."""
    return pack_words(spec, gemm_arithmetic(spec, machine), b)


def pack_words(spec: GemmSpec, arithmetic: Arithmetic, b: Array) -> Array:
    """`pack_gemm_weights` for a given arithmetic."""
    matrices, panels, words, width = packed_shape(spec, arithmetic)
    depth = words - arithmetic.header
    padded = np.zeros((matrices, depth * arithmetic.group, panels * width), b.dtype)
    padded[:, : spec.k, : spec.n] = b.reshape(matrices, spec.k, spec.n)
    split = padded.reshape(matrices, depth, arithmetic.group, panels, width)
    ordered = np.ascontiguousarray(split.transpose(0, 3, 1, 4, 2))
    packed = arithmetic.pack_words(ordered)
    if arithmetic.header:
        packed = np.concatenate([arithmetic.pack_header(ordered, (2, 4))[:, :, None], packed], axis=2)
    return np.ascontiguousarray(packed)


def emit_gemm(
    spec: GemmSpec,
    machine: Machine,
    a: Reader,
    b: Buffer | Reader,
    store: Store,
    weight_batch: Callable[[tuple[Expr, ...]], Expr] | None = None,
) -> None:
    """Emit the product; each result is handed to store(value, (*batch, m, n)).

    Args:
        a: reads an element of a at (*batch, m, k).
        b: what `pack_gemm_weights` returned (`spec.packed`), else reads b at (*batch, k, n).
        store: called while the loops are open; the value has type `spec.dtype`.
        weight_batch: which packed matrix a batch index uses, the first by default.
    """
    arithmetic = gemm_arithmetic(spec, machine)

    def cast_store(value: Expr, index: tuple[Expr, ...]) -> None:
        store(value.astype(spec.dtype), index)

    emit_product(spec, arithmetic, a, b, cast_store, weight_batch)


def emit_product(
    spec: GemmSpec,
    arithmetic: Arithmetic,
    a: Reader,
    b: Buffer | Reader,
    store: Store,
    weight_batch: Callable[[tuple[Expr, ...]], Expr] | None = None,
) -> None:
    """`emit_gemm` for a given arithmetic; `store` gets accumulators as they are."""
    kernel = _Kernel(spec, arithmetic, row_tile(spec, arithmetic), a, store)
    if spec.packed:
        _emit_packed(kernel, flat_view(b), weight_batch or (lambda _: i64(0)))
    else:
        _emit_unpacked(kernel, b)


@dataclass(frozen=True)
class _Kernel:
    """One product being emitted."""

    spec: GemmSpec
    arithmetic: Arithmetic
    tile: RegisterTile
    a: Reader
    store: Store

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.tile.vectors * self.arithmetic.lanes

    @property
    def depth(self) -> Expr:
        """Words of the reduction."""
        return ceil_div(self.spec.k, self.arithmetic.group)


def _emit_packed(kernel: _Kernel, weights: Buffer, weight_batch: Callable[[tuple[Expr, ...]], Expr]) -> None:
    spec = kernel.spec
    chunk = _row_tiles_per_chunk(kernel) * kernel.tile.rows
    chunks = bind(ceil_div(spec.m, chunk))
    full, tail = divmod(spec.n, kernel.width)
    panels = full + (tail > 0)
    with ExitStack() as stack:
        batch = tuple(stack.enter_context(serial(extent)) for extent in spec.batch)
        size = (kernel.depth + kernel.arithmetic.header) * kernel.width
        matrix = weight_batch(batch) * (panels * size)
        rows_of_a = stack.enter_context(_rows_as_words(kernel, batch))

        def emit_panel(index: Expr, columns: int, chunk_index: Expr) -> None:
            start = matrix + index * size + kernel.arithmetic.header * kernel.width
            panel = Panel(weights, start, kernel.width, kernel.depth)
            first = bind(chunk_index * chunk)
            rows = spec.m if chunks == 1 else bind(at_most(i64(chunk), i64(spec.m) - first))
            _emit_rows(kernel, batch, panel, rows_of_a, (index, columns), (first, rows))

        if full:
            with _loop(spec)(full * chunks) as item:
                emit_panel(item // chunks, kernel.width, item % chunks)
        if tail:
            with _loop(spec)(chunks) as item:
                emit_panel(i64(full), tail, item)


def _row_tiles_per_chunk(kernel: _Kernel) -> int:
    rows = kernel.spec.m
    if isinstance(rows, int) and rows <= kernel.tile.rows:
        return _ROW_TILES_PER_CHUNK
    tiles = ceil_div(rows, kernel.tile.rows) if isinstance(rows, int) else 256
    sizes = [size for size in (8, 32, 4, 64, 2, 256) if size < 2 * tiles]
    return choose(kernel.arithmetic.machine, "chunk", [_ROW_TILES_PER_CHUNK, *sizes])


def _loop(spec: GemmSpec) -> Loop:
    return loop_for(product(spec.batch) * spec.m * spec.n * spec.k)


def _emit_unpacked(kernel: _Kernel, b: Reader) -> None:
    spec, width = kernel.spec, kernel.width
    m, n, k = bind(spec.m), bind(spec.n), bind(spec.k)
    panels = bind(ceil_div(n, width))
    depth = bind(ceil_div(k, kernel.arithmetic.group))
    with _loop(spec)(product(spec.batch) * panels) as item:
        index = bind(item % panels)
        batch = tuple(bind(i) for i in unflatten(item // panels, spec.batch))

        def emit_panel(panel: Panel, columns: Expr) -> None:
            def word(step: Expr, j: Expr) -> Expr:
                return kernel.arithmetic.read_word(lambda r: b(*batch, r, index * width + j), step, spec.k)

            emit_pack_panel(kernel.arithmetic, panel, columns, word, spec.b_transposed)
            rows_of_a = _rows_in_place(kernel, batch)
            _emit_rows(kernel, batch, panel, rows_of_a, (index, columns), (i64(0), m))

        with workspace(depth * width, kernel.arithmetic.word) as scratch:
            panel = Panel(scratch, i64(0), width, depth)
            whole_or_tail(index, n, width, lambda columns: emit_panel(panel, columns))


def _is_prefetched(kernel: _Kernel) -> bool:
    """Whether the weights of the next panel are fetched while one is multiplied.

    They come from beyond the second cache where a model's weights together don't fit it, which a kernel
    does not know: there it takes 8 to 38% off the products of a recogniser of text. Where they lie in the
    second cache it costs nothing that could be measured.
    """
    spec, arithmetic = kernel.spec, kernel.arithmetic
    size = spec.weight_batches * spec.n * spec.k // arithmetic.group * arithmetic.word_bytes
    if not spec.packed or not isinstance(size, int):
        return False
    large = size > arithmetic.machine.l1_bytes
    return choose(arithmetic.machine, "prefetch", (large, not large))


def _rows_in_place(kernel: _Kernel, batch: tuple[Expr, ...]) -> Rows:
    """Reads words of a where they lie."""

    def word(m: Expr, k: Expr) -> Expr:
        return kernel.arithmetic.read_word(lambda r: kernel.a(*batch, m, r), k, kernel.spec.k)

    return word


@contextmanager
def _rows_as_words(kernel: _Kernel, batch: tuple[Expr, ...]) -> Iterator[Rows]:
    """Reads words of a, which are made once for all panels where a is not stored as words."""
    read = _rows_in_place(kernel, batch)
    if not kernel.arithmetic.converts:
        yield read
        return
    rows, depth = bind(kernel.spec.m), kernel.depth
    # The last word alone may reach past the row: the others are made without looking.
    whole = kernel.spec.k // kernel.arithmetic.group
    with workspace(rows * depth, kernel.arithmetic.word) as scratch:
        with _loop(kernel.spec)(rows) as m:
            with serial(whole) as k:
                word = kernel.arithmetic.read_word(lambda r: kernel.a(*batch, m, r), k, 0)
                T.buffer_store(scratch, word, [m * depth + k])
            if whole < depth:
                T.buffer_store(scratch, read(m, i64(whole)), [m * depth + whole])
        yield lambda m, k: scratch[m * depth + k]


def _emit_rows(
    kernel: _Kernel,
    batch: tuple[Expr, ...],
    panel: Panel,
    rows_of_a: Rows,
    columns: tuple[Expr, Expr],
    span: tuple[Expr, Expr],
) -> None:
    """All rows of `span` (first, count) times one panel, `columns` being (panel index, count)."""
    first, count = span
    index, width = columns
    most = kernel.tile.rows

    tiles = -(-count // most) if isinstance(count, int) else None
    vectors = kernel.tile.vectors
    # All register tiles of a panel together prefetch the next panel.
    share = vectors if tiles is None else -(-vectors // tiles)

    def emit_tile(start: Expr, rows: int, number: Expr | None) -> None:
        lines = vectors if number is None else share
        before = (i64(0) if number is None else number * lines) * panel.depth

        def ahead(k: Expr) -> None:
            for line in range(lines):
                step = (before + line * panel.depth + k) * kernel.arithmetic.lanes
                prefetch(panel.buffer, panel.start + kernel.width * panel.depth + step)

        def store(m: Expr, j: Expr, value: Expr) -> None:
            kernel.store(value, (*batch, start + m, index * kernel.width + j))

        def initial(m: int, v: int) -> Expr:
            lanes = kernel.arithmetic.lanes
            header = lanes_of(panel.buffer, panel.start + (v * lanes - kernel.width), lanes)
            return header * T.broadcast(kernel.arithmetic.header_factor(), lanes)

        emit_tile_product(
            kernel.arithmetic,
            panel,
            rows,
            width,
            lambda m, k: rows_of_a(start + m, k),
            store,
            initial if kernel.arithmetic.header else None,
            scalars_are_weights=False,
            # With fewer rows the loads keep memory busy by themselves.
            ahead=ahead if lines < rows and _is_prefetched(kernel) else None,
        )

    if isinstance(count, int):
        full, tail = divmod(count, most)
        if full:
            with serial(full) as block:
                emit_tile(first + block * most, most, block)
        if tail:
            emit_tile(first + full * most, tail, i64(full))
        return
    share = 1
    with serial(count // most) as block:
        emit_tile(first + block * most, most, block)
    done = bind(first + count // most * most)
    rest = bind(count % most)
    for rows in (8, 4, 2, 1):
        if rows < most:
            # The larger tails before this one took the higher bits of `rest`.
            before = rest // (2 * rows) * (2 * rows)
            with T.If(rest // rows % 2 == 1), T.Then():
                emit_tile(bind(done + before), rows, None)
