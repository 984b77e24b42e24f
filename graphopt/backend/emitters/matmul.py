"""MatMul, Gemm and MatMulInteger: blocked products of floats, plain folds of everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import tvm.sym
from tvm import tirx

from graphopt.backend.arguments import Array, Packed
from graphopt.backend.emitters.convolve import (
    Factors,
    float_factors,
    fold_view,
    integer_factors,
    integer_offset,
    is_scalar,
    needs_wide,
    scalar_zero,
    shifted_weights,
)
from graphopt.backend.emitters.places import View
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.kernels.amx import gemm as amx
from graphopt.backend.kernels.amx.parts import choose_parts
from graphopt.backend.kernels.emit import i64, static
from graphopt.backend.kernels.gemm import GemmSpec, emit_gemm, pack_gemm_weights, packed_gemm_shape
from graphopt.backend.kernels.int8 import (
    emit_gemm_int8,
    pack_gemm_int8_weights,
    packed_gemm_int8_shape,
)
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.narrow import (
    emit_narrow,
    is_even,
    is_narrow,
    pack_narrow_weights,
    packed_narrow_shape,
)
from graphopt.backend.readers import Placed
from graphopt.backend.readers.elementwise import attribute
from graphopt.backend.readers.indices import Indices
from graphopt.backend.readers.movement import operand
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Dim, Shape, product
from graphopt.ir.graph import Node, Value

_ZERO = tirx.IntImm("int64", 0)
_FLOATS = ("float32", "float16", "float64")
_CHEAP = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Identity"}
)


@dataclass(frozen=True)
class Matrices:
    """A product as batches of matrices: how the operands' elements are read by (*batch, row, column)."""

    batch: Shape
    m: Dim
    n: Dim
    k: Dim
    left: Callable[[Indices], Indices]
    right: Callable[[Indices], Indices]
    out: Callable[[Indices], list[Expr]]


def matrices(work: Work, node: Node, second: int = 1) -> Matrices:
    """The shapes and index maps of a MatMul, which pads vectors to matrices and broadcasts batches.

    ``second`` is the position of the second matrix among the inputs.
    """
    a, b = shape_of(operand(node, 0)), shape_of(operand(node, second))
    result = shape_of(node.outputs[0])
    vector_a, vector_b = len(a) == 1, len(b) == 1
    batch = result[: len(result) - 2 + vector_a + vector_b]

    def lead(at: Sequence[Expr], own: Shape) -> list[Expr]:
        skipped = len(batch) - len(own)
        return [
            work.context.broadcast_index(dim, whole, index)
            for dim, whole, index in zip(own, batch[skipped:], at[skipped:], strict=True)
        ]

    def left(at: Indices) -> Indices:
        return (at[-1],) if vector_a else (*lead(at[:-2], a[:-2]), at[-2], at[-1])

    def right(at: Indices) -> Indices:
        return (at[-2],) if vector_b else (*lead(at[:-2], b[:-2]), at[-2], at[-1])

    def out(at: Indices) -> list[Expr]:
        return [*at[:-2], *(() if vector_a else (at[-2],)), *(() if vector_b else (at[-1],))]

    m: Dim = 1 if vector_a else a[-2]
    n: Dim = 1 if vector_b else b[-1]
    k = known(a[-1], b[0] if vector_b else b[-2])
    return Matrices(batch, m, n, k, left, right, out)


def known(one: Dim, other: Dim) -> Dim:
    """Of two sizes that are the same, which is checked at the call, the one that is a number if one is."""
    return one if isinstance(one, int) else other


def _is_empty(node: Node) -> bool:
    """Whether there is nothing to compute, for which the kernels have no tiles."""
    return 0 in shape_of(node.outputs[0])


@emitter("MatMul")
def _matmul(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    if _is_empty(node):
        return
    shape = matrices(work, node)
    if work.stages is not None or dtype_of(node.outputs[0]) not in _FLOATS:
        fold_matmul(work, node, sinks[0], shape, float_factors(work, node))
        return
    b = operand(node, 1)
    narrow = _narrow_source(work, b)
    if narrow is not None:
        _narrow(work, node, sinks[0], shape, narrow)
    elif b in work.context.region.constants and product(shape_of(b)[:-2]) == 1 and len(shape_of(b)) > 1:
        _packed(work, node, sinks[0], shape, _as_it_is)
    else:
        _unpacked(work, node, sinks[0], shape)


@emitter("MatMulInteger")
def _matmul_integer(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    if _is_empty(node):
        return
    shape = matrices(work, node)
    zeros = node.input(2), node.input(3)
    if emit_integer_matmul(work, node, sinks[0], shape, operand(node, 1), zeros):
        return
    rank_a = len(shape_of(operand(node, 0)))
    rank_b = len(shape_of(operand(node, 1)))
    # Zero points are one number, or one per row of a and per column of b.
    axes = (max(rank_a - 2, 0), rank_b - 1)
    fold_matmul(work, node, sinks[0], shape, integer_factors(work, node, axes))


@emitter("Gemm")
def _gemm(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    if _is_empty(node):
        return
    context = work.context
    trans_a, trans_b = bool(node.attrs.get("transA", 0)), bool(node.attrs.get("transB", 0))
    a, b, result = shape_of(operand(node, 0)), shape_of(operand(node, 1)), shape_of(node.outputs[0])
    shape = Matrices(
        (),
        result[0],
        result[1],
        known(a[0] if trans_a else a[1], b[1] if trans_b else b[0]),
        lambda at: (at[1], at[0]) if trans_a else at,
        lambda at: (at[1], at[0]) if trans_b else at,
        list,
    )
    alpha, beta = attribute(node, "alpha", 1), attribute(node, "beta", 1)
    addend = node.input(2)
    dtype = dtype_of(node.outputs[0])

    def sink(value: Expr, indices: Sequence[Expr]) -> None:
        total = value if alpha == 1 else value * tirx.const(alpha, dtype)
        if addend is not None and beta != 0:
            added = context.closed(lambda: context.broadcast(addend, indices, result))
            total = total + (added if beta == 1 else added * tirx.const(beta, dtype))
        sinks[0](total, indices)

    if work.stages is not None or dtype not in _FLOATS:
        fold_matmul(work, node, sink, shape, float_factors(work, node))
    elif operand(node, 1) in context.region.constants and not trans_a:
        _packed(work, node, sink, shape, (lambda data: data.T) if trans_b else _as_it_is)
    else:
        _unpacked(work, node, sink, shape, transposed=trans_b)


def readable(work: Work, value: Value) -> None:
    """Brings ``value`` into memory, unless reading it costs no arithmetic."""
    current = value
    while current not in work.context.memory:
        node = current.producer
        if node is None or node.op not in _CHEAP:
            work.materialized(value)
            return
        current = operand(node, 0)


def emit_integer_matmul(
    work: Work,
    node: Node,
    sink: Sink,
    shape: Matrices,
    weights: Value,
    zeros: tuple[Value | None, Value | None],
) -> bool:
    """The integer kernel, for one constant 8-bit matrix; ``zeros`` are the zero points of both operands.

    Returns:
        False where it does not apply; nothing was emitted then.
    """
    offset = integer_offset(work, weights, zeros[1])
    dtype = dtype_of(operand(node, 0))
    one = product(shape_of(weights)[:-2]) == 1 and len(shape_of(weights)) > 1
    if (
        work.stages is not None
        or offset is None
        or not is_scalar(zeros[0])
        or dtype not in ("uint8", "int8")
        or not one
    ):
        return False
    machine, wide = work.machine, needs_wide(weights, offset)
    spec, read, out_at = _tall(work, node, shape, dtype)
    packed_shape = packed_gemm_int8_shape(spec, machine, wide)

    def pack(data: Array) -> Array:
        matrix = np.ascontiguousarray(data.reshape(data.shape[-2:]))
        return pack_gemm_int8_weights(spec, machine, shifted_weights(matrix, offset, 1), wide)

    form = ("gemm_int8", packed_shape, wide, None if zeros[1] is None else zeros[1].name)
    buffer = work.arguments.pack(weights, Packed(packed_shape, "int32", pack, form))
    zero = scalar_zero(work, zeros[0])
    emit_gemm_int8(spec, machine, read, buffer, lambda value, at: sink(value, out_at(*at)), zero, wide)
    return True


Tall: TypeAlias = tuple[GemmSpec, Callable[[Expr, Expr], Expr], Callable[[Expr, Expr], Indices]]


def _as_it_is(data: Array) -> Array:
    return data


def _tall(work: Work, node: Node, shape: Matrices, dtype: str) -> Tall:
    """All rows of all batches as one tall matrix: its product, its reader, and where an element belongs."""
    context, a = work.context, operand(node, 0)
    readable(work, a)
    rows = tvm.sym.Analyzer().simplify(context.extent(product(shape.batch) * shape.m))
    n, k = cast(int, shape.n), cast(int, shape.k)
    extents = [context.extent(dim) for dim in (*shape.batch, shape.m)]

    def place(row: Expr, column: Expr) -> Indices:
        return (*_unflattened(row, extents), column)

    def out_at(row: Expr, column: Expr) -> Indices:
        return Placed.at(shape.out(place(row, column)), row * n + column)

    def read(row: Expr, column: Expr) -> Expr:
        # Only where the matrix lies as it is are its rows evenly spaced.
        plain = shape.left((*extents, _ZERO)) == (*extents, _ZERO)
        flat = context.read_flat(a, row * k + column) if plain else None
        return (
            context.closed(lambda: context.read(a, shape.left(place(row, column)))) if flat is None else flat
        )

    return GemmSpec(static(rows), n, k, dtype=dtype), read, out_at


def _narrow_source(work: Work, b: Value) -> Value | None:
    """The constant matrix of 8-bit integers that ``b`` is widened from in this region."""
    if b.producer not in work.context.region.nodes or b.producer.op_type != "Cast":
        return None
    source = operand(b.producer, 0)
    constant = source in work.context.region.constants
    return source if constant and dtype_of(source) == "int8" and len(shape_of(source)) == 2 else None


def _narrow(work: Work, node: Node, sink: Sink, shape: Matrices, source: Value) -> None:
    """A constant matrix of 8-bit integers times floats, by integers where the target has the instruction."""
    machine = work.machine
    tall = _tall(work, node, shape, dtype_of(node.outputs[0]))
    if _on_tiles(work, node, sink, tall, source, _as_it_is, narrow_weights=True):
        return
    spec, read, out_at = tall
    even = is_even(work.context.region.constants[source].numpy())
    work.context.consulted["even", source] = even
    if not even or not is_narrow(spec, machine):
        _in_panels(work, node, sink, tall, source, _as_it_is)
        return
    packed_shape = packed_narrow_shape(spec, machine)
    form = ("narrow", packed_shape)
    packed = Packed(packed_shape, "int32", lambda data: pack_narrow_weights(spec, machine, data), form)
    weights = work.arguments.pack(source, packed)
    emit_narrow(spec, machine, read, weights, lambda value, at: sink(value, out_at(*at)))


def _packed(work: Work, node: Node, sink: Sink, shape: Matrices, orient: Callable[[Array], Array]) -> None:
    """One constant matrix: all rows of all batches go through it as one tall matrix."""
    tall, b = _tall(work, node, shape, dtype_of(node.outputs[0])), operand(node, 1)
    if not _on_tiles(work, node, sink, tall, b, orient):
        _in_panels(work, node, sink, tall, b, orient)


def _in_panels(
    work: Work, node: Node, sink: Sink, tall: Tall, weights: Value, orient: Callable[[Array], Array]
) -> None:
    """One constant matrix, by vectors."""
    machine, (spec, read, out_at) = work.machine, tall

    def pack(data: Array) -> Array:
        return pack_gemm_weights(spec, machine, np.ascontiguousarray(orient(data.reshape(data.shape[-2:]))))

    form = ("gemm", packed_gemm_shape(spec, machine), bool(node.attrs.get("transB", 0)))
    dtype = "float32" if spec.dtype == "float16" else spec.dtype
    buffer = work.arguments.pack(weights, Packed(packed_gemm_shape(spec, machine), dtype, pack, form))
    emit_gemm(spec, machine, read, buffer, lambda value, at: sink(value, out_at(*at)))


def _on_tiles(
    work: Work,
    node: Node,
    sink: Sink,
    tall: Tall,
    weights: Value,
    orient: Callable[[Array], Array],
    *,
    narrow_weights: bool = False,
) -> bool:
    """One constant matrix on AMX, where that is faster and exact enough; False where not."""
    parts = choose_parts(work.kernel_error, narrow_weights=narrow_weights)
    spec, read, out_at = tall
    if parts is None or not amx.applies(spec, work.machine):
        return False
    faster = amx.is_faster(spec, parts)
    if not choose(work.machine, "matrix unit", (faster, not faster)):
        return False
    work.methods.append(parts.name)
    packed_shape = amx.gemm_product(spec, parts).weight_shape

    def pack(data: Array) -> Array:
        return amx.pack_weights(spec, parts, orient(data.reshape(data.shape[-2:])))

    form = ("amx", packed_shape, bool(node.attrs.get("transB", 0)))
    buffer = work.arguments.pack(weights, Packed(packed_shape, "int32", pack, form))
    amx.emit_gemm(spec, work.machine, parts, read, buffer, lambda value, at: sink(value, out_at(*at)))
    return True


def _unflattened(row: Expr, extents: list[Expr]) -> list[Expr]:
    wide = [
        axis
        for axis, extent in enumerate(extents)
        if not (isinstance(extent, tirx.IntImm) and extent.value == 1)
    ]
    result: list[Expr] = [_ZERO] * len(extents)
    rest = row
    for axis in reversed(wide[1:]):
        result[axis] = tirx.floormod(rest, extents[axis])
        rest = tirx.floordiv(rest, extents[axis])
    if wide:
        result[wide[0]] = rest
    return result


def _unpacked(work: Work, node: Node, sink: Sink, shape: Matrices, *, transposed: bool = False) -> None:
    """Two matrices that are known only at run time."""
    context = work.context
    a, b = operand(node, 0), operand(node, 1)
    readable(work, a)
    readable(work, b)
    extents = [static(context.extent(dim)) for dim in (*shape.batch, shape.m, shape.n, shape.k)]
    spec = GemmSpec(
        extents[-3],
        extents[-2],
        extents[-1],
        batch=tuple(extents[:-3]),
        packed=False,
        b_transposed=transposed or lies_transposed(work, b, shape),
        dtype=dtype_of(node.outputs[0]),
    )

    def reader(value: Value, index_of: Callable[[Indices], Indices]) -> Callable[..., Expr]:
        return lambda *at: context.closed(lambda: context.read(value, index_of(tuple(i64(i) for i in at))))

    emit_gemm(
        spec,
        work.machine,
        reader(a, shape.left),
        reader(b, shape.right),
        lambda v, at: sink(v, shape.out(at)),
    )


def lies_transposed(work: Work, value: Value, shape: Matrices) -> bool:
    """Whether neighbours along a column are neighbours in memory."""
    variables = tuple(tirx.Var(f"i{axis}", "int64") for axis in range(len(shape.batch) + 2))
    with work.context.tracing() as trace:
        work.context.read(value, shape.right(variables))
    for _, offset in trace.loads[-1:]:
        found = tvm.sym.detect_linear_equation(tvm.sym.Analyzer().simplify(offset), list(variables))
        steps = [int(step) if isinstance(step, tirx.IntImm) else 0 for step in found]
        return len(steps) > 2 and steps[-3] == 1 and steps[-2] != 1
    return False


def fold_matmul(
    work: Work,
    node: Node,
    sink: Sink,
    shape: Matrices,
    factors: Factors,
    dtype: str | None = None,
) -> None:
    """The product as a sum over k, for types that have no blocked kernel."""
    extent = work.context.extent
    rank = len(shape.batch)

    def read(at: Sequence[Expr]) -> Expr:
        *batch, row, step, column = at
        left, right = factors
        return left(shape.left((*batch, row, step))) * right(shape.right((*batch, step, column)))

    view = View(
        [extent(dim) for dim in (*shape.batch, shape.m, shape.k, shape.n)], read, dtype_of(operand(node, 0))
    )

    def moved(value: Expr, indices: Sequence[Expr]) -> None:
        sink(value, shape.out(tuple(indices)))

    fold_view(work, node, moved, view, frozenset({rank + 1}), dtype)
