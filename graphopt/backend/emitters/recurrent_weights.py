"""What a recurrent layer needs before its first step: weights in order, the product with all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Array, Packed
from graphopt.backend.emitters.matmul import readable
from graphopt.backend.emitters.recurrent_layer import Buffers, Layer, weights_at
from graphopt.backend.kernels.emit import (
    i64,
    serial,
)
from graphopt.backend.kernels.gemm import GemmSpec, emit_gemm, pack_gemm_weights, packed_gemm_shape
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.scalars import widen
from graphopt.backend.region import shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Value
from graphopt.ops.recurrent import GATES


def prepare(layer: Layer) -> Buffers:
    """Weights and biases in the order of columns, the product with all inputs, room for the states."""
    time, batch = layer.extents
    directions, size = layer.directions, layer.padded
    bias, late = _biases(layer)
    inputs = _emit_inputs(layer, time * batch, bias)
    recurrence = _recurrence(layer)
    h = scratch(i64(batch) * (2 * directions * size), layer.dtype)
    two_phases = len(layer.phases) > 1
    c, reset = (
        scratch(i64(batch) * (directions * size), layer.dtype) if needed else None
        for needed in (layer.node.op == "LSTM" or two_phases, two_phases)
    )
    return Buffers(inputs, recurrence, late, h, c, reset)


def _biases(layer: Layer) -> tuple[Any | None, Any | None]:
    """Biases of all columns, and those of the product with the state that a late reset gate needs apart."""
    value = layer.node.input(3)
    late = scratch(layer.directions * layer.padded, layer.dtype) if layer.resets_late else None
    bias = scratch(layer.directions * layer.columns, layer.dtype) if value is not None else None
    whole = GATES[layer.node.op] * layer.hidden

    def element(d: Expr, row: Expr) -> Expr:
        return T.cast(0, layer.dtype) if value is None else layer.read(value, (d, row))

    with serial(layer.directions) as d:
        if bias is not None:

            def both(row: Expr, gate: int) -> Expr:
                apart = layer.resets_late and gate == 2
                return element(d, row) if apart else element(d, row) + element(d, row + whole)

            _for_columns(layer, lambda n, value: T.buffer_store(bias, value, [d * layer.columns + n]), both)
        if late is not None:
            with serial(layer.hidden) as j:
                T.buffer_store(late, element(d, j + 2 * layer.hidden + whole), [d * layer.padded + j])
    return bias, late


def _for_columns(
    layer: Layer, store: Callable[[Expr, Expr], None], element: Callable[[Expr, int], Expr]
) -> None:
    """store(column, element(row of the weights, gate)) for all columns of a direction; 0 where there is no row."""
    for phase in layer.phases:
        with serial(phase.blocks) as block:
            for place, gate in enumerate(phase.gates):
                with serial(phase.units) as j:
                    unit = block * phase.units + j
                    value = element(tirx.min(unit, i64(layer.hidden - 1)) + gate * layer.hidden, gate)
                    value = tirx.Select(unit < layer.hidden, value, T.cast(0, layer.dtype))
                    store(phase.first + block * phase.width + place * phase.units + j, value)


def _emit_inputs(layer: Layer, rows: Expr, bias: Any | None) -> Any:
    """The product of all inputs with the weights of all directions."""
    work, columns = layer.work, layer.directions * layer.columns
    x, weights = operand(layer.node, 0), operand(layer.node, 1)
    readable(work, x)
    result = scratch(i64(rows) * columns, layer.dtype)
    constant = weights in work.context.region.constants
    spec = GemmSpec(rows, columns, layer.inputs, packed=constant, dtype=layer.dtype)

    def pack(data: Array) -> Array:
        matrix = _ordered(layer, data).astype(layer.dtype)
        return pack_gemm_weights(spec, work.machine, matrix.transpose(2, 0, 1).reshape(layer.inputs, columns))

    def store(value: Expr, at: tuple[Expr, ...]) -> None:
        row, column = at
        total = value if bias is None else value + bias[column]
        T.buffer_store(result, total, [row * columns + column])

    def read(row: Expr, column: Expr) -> Expr:
        flat = work.context.read_flat(x, row * layer.inputs + column)
        if flat is not None:
            return widen(flat)
        second = shape_of(x)[1]
        size = work.context.extent(second)
        return layer.read(x, (row // size, row % size, column))

    if constant:
        form = ("recurrent-inputs", packed_gemm_shape(spec, work.machine), layer.phases)
        b = work.arguments.pack(
            weights, Packed(packed_gemm_shape(spec, work.machine), layer.dtype, pack, form)
        )
        emit_gemm(spec, work.machine, read, b, store)
    else:
        matrix = _gathered(layer, weights, layer.inputs)
        emit_gemm(spec, work.machine, read, lambda k, n: matrix[k * columns + n], store)
    return result


def _ordered(layer: Layer, data: Array) -> Array:
    """Weights [direction, row, n] as [direction, column, n]."""
    rows = layer.sources
    return np.where((rows >= 0)[None, :, None], data[:, rows], np.zeros((), data.dtype))


def _gathered(layer: Layer, weights: Value, inner: int) -> Any:
    """Weights that are no constants as a matrix [n, direction, column]."""
    columns = layer.directions * layer.columns
    matrix = scratch(inner * columns, layer.dtype)
    with serial(layer.directions) as d, serial(inner) as k:
        _for_columns(
            layer,
            lambda n, value: T.buffer_store(matrix, value, [k * columns + d * layer.columns + n]),
            lambda row, _: layer.read(weights, (d, row, k)),
        )
    return matrix


def _recurrence(layer: Layer) -> Any:
    """The weights of the product with the state, block by block."""
    weights = operand(layer.node, 2)
    size = layer.directions * layer.columns * layer.hidden

    def pack(data: Array) -> Array:
        ordered = _ordered(layer, data).astype(layer.dtype)
        parts = [
            ordered[:, p.first : p.first + p.columns]
            .reshape(layer.directions, p.blocks, p.width, layer.hidden)
            .transpose(0, 1, 3, 2)
            .reshape(layer.directions, -1)
            for p in layer.phases
        ]
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)

    if weights in layer.work.context.region.constants:
        form = ("recurrent-state", layer.phases)
        return layer.work.arguments.pack(weights, Packed((size,), layer.dtype, pack, form))
    matrix = _gathered(layer, weights, layer.hidden)
    blocked = scratch(size, layer.dtype)
    with serial(layer.directions) as d:
        for phase in layer.phases:
            with serial(phase.blocks) as block, serial(layer.hidden) as k, serial(phase.width) as j:
                column = d * layer.columns + phase.first + block * phase.width + j
                place = weights_at(layer, phase, d, block) + k * phase.width + j
                T.buffer_store(blocked, matrix[k * (layer.directions * layer.columns) + column], [place])
    return blocked
