"""LSTM, GRU and RNN: products with the inputs before the time loop, one fused kernel per step in it.

The inputs of all time steps and both directions go through one matrix product. A step then adds the
product with the previous state: hidden units are taken in blocks, and a register tile holds all gates
of a block, so that the activations follow in registers. Weights lie block by block, in the order in
which a step reads them. Steps walk the blocks to and fro: what the cache still holds of the last step
is read first by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Array, Packed
from graphopt.backend.emitters.activations import Activation, activations
from graphopt.backend.emitters.matmul import readable
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.rows import emit_blocks, in_lanes
from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.emit import (
    bind,
    i64,
    lanes_of,
    loop_for,
    parallel,
    register,
    serial,
    static,
    store_lanes,
)
from graphopt.backend.kernels.gemm import GemmSpec, emit_gemm, pack_gemm_weights, packed_gemm_shape
from graphopt.backend.kernels.temporaries import scratch
from graphopt.backend.kernels.tile import Tile, emit_sum
from graphopt.backend.readers.elementwise import widen
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.readers.registry import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node, Value

_ACCUMULATORS = 8
"""Multiply-adds that must be under way for none to wait for another."""
_PARALLEL_STEP = 1 << 18
"""Multiply-adds of a time step from which on threads share it."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class _Phase:
    """Gates that one walk over the hidden units computes; those of a block of units lie together."""

    gates: tuple[int, ...]
    vectors: int
    """Vectors of hidden units in a block."""
    lanes: int
    hidden: int
    first: int
    """Column of all gates' products at which these begin."""

    @property
    def units(self) -> int:
        """Hidden units in a block."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of hidden units; the last one may reach past them."""
        return -(-self.hidden // self.units)

    @property
    def width(self) -> int:
        """Columns of a block."""
        return len(self.gates) * self.units

    @property
    def columns(self) -> int:
        """Columns of all blocks."""
        return self.blocks * self.width

    def sources(self) -> Array:
        """For each column the row of the weights that it is, -1 where there is none."""
        unit = np.arange(self.blocks)[:, None, None] * self.units + np.arange(self.units)
        row = np.asarray(self.gates)[:, None] * self.hidden + unit
        return np.where(unit < self.hidden, row, -1).reshape(-1)


@dataclass(frozen=True)
class _Layer:
    """A recurrent layer that is being emitted."""

    work: Work
    node: Node
    arithmetic: Arithmetic
    phases: tuple[_Phase, ...]
    directions: int
    hidden: int
    inputs: int

    @property
    def dtype(self) -> str:
        """What is computed with."""
        return self.arithmetic.accumulator

    @property
    def columns(self) -> int:
        """Columns of one direction's gates."""
        return sum(phase.columns for phase in self.phases)

    @property
    def padded(self) -> int:
        """Hidden units with room for whole blocks."""
        return max(phase.blocks * phase.units for phase in self.phases)

    @cached_property
    def sources(self) -> Array:
        """For each column of a direction the row of the weights that it is, -1 where there is none."""
        return np.concatenate([phase.sources() for phase in self.phases])

    @property
    def batch_first(self) -> bool:
        """Whether the batch comes before time."""
        return bool(self.node.attrs.get("layout", 0))

    @property
    def resets_late(self) -> bool:
        """Whether a GRU applies its reset gate after the product with the state."""
        return self.node.op == "GRU" and bool(self.node.attrs.get("linear_before_reset", 0))

    @cached_property
    def extents(self) -> tuple[Expr, Expr]:
        """Time steps and batch."""
        first, second, _ = (static(self.work.context.extent(d)) for d in shape_of(operand(self.node, 0)))
        return (second, first) if self.batch_first else (first, second)

    def row(self, t: Expr, b: Expr) -> Expr:
        """The row of the inputs, as one matrix, of a time step and a member of the batch."""
        time, batch = self.extents
        return b * time + t if self.batch_first else t * batch + b

    def read(self, value: Value, indices: Sequence[Expr]) -> Expr:
        """An element in the type that is computed with."""
        context = self.work.context
        return context.closed(lambda: widen(context.read(value, tuple(indices))))

    def state(self, value: Value, d: Expr, b: Expr, j: Expr) -> Expr:
        """An element of an initial state."""
        return self.read(value, (b, d, j) if self.batch_first else (d, b, j))


@dataclass(frozen=True)
class _Buffers:
    """What the time loop of all directions works on, flat."""

    inputs: Any
    """[row, direction, column]: products with the inputs, and biases."""
    recurrence: Any
    """[direction, phase, block, unit of the state, column of the block]: weights."""
    late: Any
    """[direction, unit]: bias of the product that a late reset gate is applied to."""
    h: Any
    """[direction, parity of the step, batch, unit]"""
    c: Any
    """[direction, batch, unit]: an LSTM's cell, a GRU's update gate."""
    reset: Any
    """[direction, batch, unit]: a GRU's state, reset."""


@emitter("LSTM", "GRU", "RNN")
def _recurrent(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    layer = _layer(work, node)
    ways = [activations(node, _DEFAULTS[node.op], d) for d in range(layer.directions)]
    buffers = _prepare(layer)
    # The directions are independent of each other: threads take one each.
    work_of_step = layer.columns * layer.hidden
    if layer.directions == 1 or ways[0] != ways[1]:
        for d, functions in enumerate(ways):
            _emit_direction(layer, buffers, i64(d), functions, sinks)
    else:
        loop = parallel if work_of_step * 8 >= _PARALLEL_STEP else serial
        with loop(layer.directions) as d:
            _emit_direction(layer, buffers, d, ways[0], sinks)


def _layer(work: Work, node: Node) -> _Layer:
    """The layer of a node, once it is known to be one that can be emitted."""
    x, recurrence = shape_of(operand(node, 0)), shape_of(operand(node, 2))
    directions, _, hidden = recurrence
    dtype = dtype_of(operand(node, 0))
    if not all(isinstance(size, int) for size in (directions, hidden, x[-1])):
        raise refuse(node, "the sizes of its weights are not known")
    if work.stages is not None or dtype not in ("float32", "float16", "float64"):
        raise refuse(node, "it is compiled for CPUs and float16, float32, float64 only")
    arithmetic = float_arithmetic(work.target, dtype)
    hidden = cast(int, hidden)
    late = bool(node.attrs.get("linear_before_reset", 0))
    split = node.op == "GRU" and not late
    phases: list[_Phase] = []
    for gates in [(0, 1), (2,)] if split else [tuple(range(_GATES[node.op]))]:
        most = max(1, _ACCUMULATORS // len(gates))
        vectors = min(most, -(-hidden // arithmetic.lanes))
        if len(gates) * vectors * 2 > work.target.vector_registers:
            vectors = 1
        first = sum(phase.columns for phase in phases)
        phases.append(_Phase(gates, vectors, arithmetic.lanes, hidden, first))
    return _Layer(work, node, arithmetic, tuple(phases), cast(int, directions), hidden, cast(int, x[-1]))


def _prepare(layer: _Layer) -> _Buffers:
    """Weights and biases in the order of columns, the product with all inputs, room for the states."""
    time, batch = layer.extents
    directions, size = layer.directions, layer.padded
    bias, late = _biases(layer)
    inputs = _emit_inputs(layer, time * batch, bias)
    recurrence = _recurrence(layer)
    h = scratch(i64(batch) * (2 * directions * size), layer.dtype)
    c = scratch(i64(batch) * (directions * size), layer.dtype)
    reset = scratch(i64(batch) * (directions * size), layer.dtype) if len(layer.phases) > 1 else None
    return _Buffers(inputs, recurrence, late, h, c, reset)


def _biases(layer: _Layer) -> tuple[Any, Any]:
    """Biases of all columns, and those of the product with the state that a late reset gate needs apart."""
    value = layer.node.input(3)
    late = scratch(layer.directions * layer.padded, layer.dtype) if layer.resets_late else None
    bias = scratch(layer.directions * layer.columns, layer.dtype) if value is not None else None
    whole = _GATES[layer.node.op] * layer.hidden

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
    layer: _Layer, store: Callable[[Expr, Expr], None], element: Callable[[Expr, int], Expr]
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


def _emit_inputs(layer: _Layer, rows: Expr, bias: Any) -> Any:
    """The product of all inputs with the weights of all directions."""
    work, columns = layer.work, layer.directions * layer.columns
    x, weights = operand(layer.node, 0), operand(layer.node, 1)
    readable(work, x)
    result = scratch(i64(rows) * columns, layer.dtype)
    constant = weights in work.context.region.constants
    spec = GemmSpec(rows, columns, layer.inputs, packed=constant, dtype=layer.dtype)

    def pack(data: Array) -> Array:
        matrix = _ordered(layer, data).astype(layer.dtype)
        return pack_gemm_weights(spec, work.target, matrix.transpose(2, 0, 1).reshape(layer.inputs, columns))

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
        form = ("recurrent-inputs", packed_gemm_shape(spec, work.target), layer.phases)
        b = work.arguments.pack(
            weights, Packed(packed_gemm_shape(spec, work.target), layer.dtype, pack, form)
        )
        emit_gemm(spec, work.target, read, b, store)
    else:
        matrix = _gathered(layer, weights, layer.inputs)
        emit_gemm(spec, work.target, read, lambda k, n: matrix[k * columns + n], store)
    return result


def _ordered(layer: _Layer, data: Array) -> Array:
    """Weights [direction, row, n] as [direction, column, n]."""
    rows = layer.sources
    return np.where((rows >= 0)[None, :, None], data[:, rows], np.zeros((), data.dtype))


def _gathered(layer: _Layer, weights: Value, inner: int) -> Any:
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


def _recurrence(layer: _Layer) -> Any:
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
                place = _weights_at(layer, phase, d, block) + k * phase.width + j
                T.buffer_store(blocked, matrix[k * (layer.directions * layer.columns) + column], [place])
    return blocked


def _weights_at(layer: _Layer, phase: _Phase, d: Expr, block: Expr) -> Expr:
    return (d * layer.columns + phase.first + block * phase.width) * layer.hidden


def _emit_direction(
    layer: _Layer,
    buffers: _Buffers,
    d: Expr,
    functions: tuple[Activation, ...],
    sinks: dict[int, Sink],
) -> None:
    """All time steps of one direction, for the whole batch at once unless its members differ in length."""
    time, batch = layer.extents
    way = text_attr(layer.node, "direction", "forward")
    lengths = layer.node.input(4)

    def at_step(k: Expr, length: Expr) -> Expr:
        if layer.directions == 2:
            return k + d * (length - 1 - 2 * k)
        return length - 1 - k if way == "reverse" else k

    def run(span: tuple[Expr, Expr], length: Expr) -> None:
        _emit_initial(layer, buffers, d, span)
        with serial(length) as k:
            step = _Step(layer, buffers, d, functions, k, at_step(k, length), span)
            step.emit()
            _hand_out(layer, buffers, d, span, (k + 1, at_step(k, length)), sinks.get(0))
        _hand_states(layer, buffers, d, span, length, sinks)

    if lengths is None:
        run((i64(0), batch), i64(time))
        return
    with serial(batch) as b:
        length = bind(layer.read(lengths, (b,)).astype("int64"))
        length = bind(tirx.max(tirx.min(length, i64(time)), i64(0)))
        run((b, 1), length)
        if 0 in sinks:
            with serial(i64(time) - length) as k:
                zero = T.cast(0, layer.dtype)
                _each(layer, lambda j: _sink(layer, sinks[0], zero, (length + k, d, b), j))


def _sink(layer: _Layer, sink: Sink, value: Expr, at: tuple[Expr, Expr, Expr], j: Expr) -> None:
    t, d, b = at
    wanted = dtype_of(operand(layer.node, 0))
    sink(value.astype(wanted), (b, t, d, j) if layer.batch_first else (t, d, b, j))


def _each(layer: _Layer, body: Callable[[Expr], None]) -> None:
    """body(j) for all hidden units j, in vectors."""

    def block(width: int, first: Expr) -> None:
        with in_lanes(layer.work, width) as lane:
            body(first + lane)

    emit_blocks(layer.hidden, layer.arithmetic.lanes, block)


def _state_at(layer: _Layer, d: Expr, b: Expr, parity: Expr = None) -> Expr:
    """Where a member of the batch lies in a buffer of states."""
    _, batch = layer.extents
    return ((d if parity is None else d * 2 + parity) * batch + b) * layer.padded


def _emit_initial(layer: _Layer, buffers: _Buffers, d: Expr, span: tuple[Expr, Expr]) -> None:
    names = [(buffers.h, 5, i64(0))] + ([(buffers.c, 6, None)] if layer.node.op == "LSTM" else [])
    with serial(span[1]) as member:
        b = span[0] + member
        for buffer, position, parity in names:
            value = layer.node.input(position)

            def store(j: Expr, buffer: Any = buffer, value: Any = value, parity: Expr = parity) -> None:
                start = T.cast(0, layer.dtype) if value is None else layer.state(value, d, b, j)
                T.buffer_store(buffer, start, [_state_at(layer, d, b, parity) + j])

            _each(layer, store)


def _hand_out(
    layer: _Layer,
    buffers: _Buffers,
    d: Expr,
    span: tuple[Expr, Expr],
    step: tuple[Expr, Expr],
    sink: Sink | None,
) -> None:
    """The state after a step (how many are done, its time) into the sequence of states."""
    if sink is None:
        return
    done, t = step
    with serial(span[1]) as member:
        b = span[0] + member
        first = bind(_state_at(layer, d, b, done % 2))
        _each(layer, lambda j: _sink(layer, sink, buffers.h[first + j], (t, d, b), j))


def _hand_states(
    layer: _Layer,
    buffers: _Buffers,
    d: Expr,
    span: tuple[Expr, Expr],
    length: Expr,
    sinks: dict[int, Sink],
) -> None:
    wanted = dtype_of(operand(layer.node, 0))
    for output, buffer, parity in ((1, buffers.h, length % 2), (2, buffers.c, None)):
        if output not in sinks:
            continue
        with serial(span[1]) as member:
            b = span[0] + member
            first = bind(_state_at(layer, d, b, parity))

            def at(j: Expr, b: Expr = b) -> tuple[Expr, ...]:
                return (b, d, j) if layer.batch_first else (d, b, j)

            def hand(
                j: Expr, output: int = output, buffer: Any = buffer, first: Expr = first, at: Any = at
            ) -> None:
                sinks[output](buffer[first + j].astype(wanted), at(j))

            _each(layer, hand)


@dataclass(frozen=True)
class _Step:
    """One time step of one direction, for a span (first, count) of the batch."""

    layer: _Layer
    buffers: _Buffers
    d: Expr
    functions: tuple[Activation, ...]
    k: Expr
    t: Expr
    span: tuple[Expr, Expr]

    def emit(self) -> None:
        """Emits all blocks of all phases."""
        layer = self.layer
        for number, phase in enumerate(layer.phases):
            work = layer.hidden * phase.columns
            loop = loop_for(work) if layer.directions == 1 and work >= _PARALLEL_STEP else serial
            with loop(phase.blocks) as item:
                block = bind(item + self.k % 2 * (phase.blocks - 1 - 2 * item))
                self._emit_rows(phase, number, block)

    def _emit_rows(self, phase: _Phase, number: int, block: Expr) -> None:
        first, count = self.span
        width = len(phase.gates) * phase.vectors
        room = self.layer.work.target.vector_registers - 1 - width
        most = max(1, room // width)
        while most & (most - 1):
            most -= 1
        if isinstance(count, int):
            full, tail = divmod(count, most)
            if full:
                with serial(full) as tile:
                    self._emit_tile(phase, number, block, first + tile * most, most)
            if tail:
                self._emit_tile(phase, number, block, first + full * most, tail)
            return
        with serial(count // most) as tile:
            self._emit_tile(phase, number, block, first + tile * most, most)
        while most > 1:
            most //= 2
            done = bind(count // (2 * most) * (2 * most))
            with T.If(count // most % 2 == 1), T.Then():
                self._emit_tile(phase, number, block, first + done, most)

    def _emit_tile(self, phase: _Phase, number: int, block: Expr, b: Expr, rows: int) -> None:
        layer, buffers, lanes = self.layer, self.buffers, phase.lanes
        weights = bind(_weights_at(layer, phase, self.d, block))
        states = buffers.h if number == 0 else buffers.reset
        parity = self.k % 2 if number == 0 else None
        state_rows = [bind(_state_at(layer, self.d, b + m, parity)) for m in range(rows)]
        place = self.d * layer.columns + phase.first + block * phase.width
        columns = layer.directions * layer.columns
        input_rows = [bind(layer.row(self.t, b + m) * columns + place) for m in range(rows)]

        def initial(m: int, v: int) -> Expr:
            gate, vector = divmod(v, phase.vectors)
            if layer.resets_late and phase.gates[gate] == 2:
                start = self.d * layer.padded + block * phase.units + vector * lanes
                return lanes_of(buffers.late, start, lanes)
            return lanes_of(buffers.inputs, input_rows[m] + v * lanes, lanes)

        def step(tile: Tile, k: Expr) -> None:
            base = bind(weights + k * phase.width)
            vectors = len(phase.gates) * phase.vectors
            xs = [lanes_of(buffers.recurrence, base + v * lanes, lanes) for v in range(vectors)]
            tile.step(xs, lambda m: states[state_rows[m] + k], scalars_are_weights=False)
            tile.commit()

        shape = (rows, len(phase.gates) * phase.vectors)
        tile = emit_sum(layer.arithmetic, shape, layer.hidden, 1, step, initial)
        for m in range(rows):
            for vector in range(phase.vectors):
                sums = []
                for gate in range(len(phase.gates)):
                    kept = register(lanes, layer.dtype)
                    store_lanes(kept, 0, lanes, tile.vector(m, gate * phase.vectors + vector))
                    sums.append(kept)
                with in_lanes(layer.work, lanes) as lane:
                    unit = block * phase.units + vector * lanes + lane
                    x = input_rows[m] + vector * lanes + lane
                    _Units(self, phase, b + m, unit, x).emit(number, [s[lane] for s in sums])


@dataclass(frozen=True)
class _Units:
    """A vector of hidden units whose gates are summed."""

    step: _Step
    phase: _Phase
    b: Expr
    unit: Expr
    x: Expr
    """Where the first gate's product with the inputs lies."""

    def emit(self, number: int, sums: list[Expr]) -> None:
        """Emits the activations and stores of phase ``number``."""
        layer = self.step.layer
        context = layer.work.context
        if layer.node.op == "LSTM":
            context.closed(lambda: self._lstm(sums))
        elif layer.node.op == "RNN":
            self._store_h(context.closed(lambda: self._apply(0, sums[0])))
        elif layer.resets_late:
            self._store_h(context.closed(lambda: self._late_gru(sums)))
        elif number == 0:
            context.closed(lambda: self._gates_of_gru(sums))
        else:
            self._store_h(context.closed(lambda: self._mix(self._apply(1, sums[0]), self._own(self._c))))

    @property
    def _c(self) -> Any:
        return self.step.buffers.c

    def _own(self, buffer: Any) -> Expr:
        """This unit's place in a buffer of states."""
        return buffer[_state_at(self.step.layer, self.step.d, self.b) + self.unit]

    def _apply(self, number: int, x: Expr) -> Expr:
        context = self.step.layer.work.context
        return self.step.functions[number](context, context.bind(self._clipped(x)))

    def _clipped(self, x: Expr) -> Expr:
        clip = float(cast(float, self.step.layer.node.attrs.get("clip", 0.0)))
        if not clip:
            return x
        bound = tirx.const(clip, self.step.layer.dtype)
        return tirx.max(tirx.min(x, bound), -bound)

    def _previous(self) -> Expr:
        step = self.step
        return step.buffers.h[_state_at(step.layer, step.d, self.b, step.k % 2) + self.unit]

    def _store(self, buffer: Any, value: Expr) -> Expr:
        T.buffer_store(buffer, value, [_state_at(self.step.layer, self.step.d, self.b) + self.unit])

    def _store_h(self, value: Expr) -> None:
        step = self.step
        place = _state_at(step.layer, step.d, self.b, 1 - step.k % 2) + self.unit
        T.buffer_store(step.buffers.h, value, [place])

    def _peephole(self, number: int, c: Expr) -> Expr:
        layer = self.step.layer
        value = layer.node.input(7)
        if value is None:
            return T.cast(0, layer.dtype)
        unit = tirx.min(self.unit, i64(layer.hidden - 1))
        return layer.read(value, (self.step.d, unit + number * layer.hidden)) * c

    def _lstm(self, sums: list[Expr]) -> Expr:
        """c = f c + i g, h = o tanh(c); ONNX orders the gates i, o, f, g and the peepholes i, o, f."""
        context = self.step.layer.work.context
        one = T.cast(1, self.step.layer.dtype)
        old = context.bind(self._own(self._c))
        with_peepholes = self.step.layer.node.input(7) is not None
        i_in, o_in, f_in, g_in = sums
        if with_peepholes:
            i_in, f_in = i_in + self._peephole(0, old), f_in + self._peephole(2, old)
        i = context.bind(self._apply(0, i_in))
        coupled = bool(self.step.layer.node.attrs.get("input_forget", 0))
        f = one - i if coupled else self._apply(0, f_in)
        c = context.bind(f * old + i * self._apply(1, g_in))
        if with_peepholes:
            o_in = o_in + self._peephole(1, c)
        h = context.bind(self._apply(0, o_in) * self.step.functions[2](context, c))
        self._store(self._c, c)
        self._store_h(h)
        return c

    def _late_gru(self, sums: list[Expr]) -> Expr:
        """g = tanh(W x + r (R h + b)); the last sum is the product with the state alone."""
        z, r = self._apply(0, sums[0]), self._apply(0, sums[1])
        x = self.step.buffers.inputs[self.x + 2 * self.phase.units]
        return self._mix(self._apply(1, x + r * sums[2]), z)

    def _gates_of_gru(self, sums: list[Expr]) -> Expr:
        """The update gate, and the state as the reset gate leaves it."""
        z = self._apply(0, sums[0])
        r = self._apply(0, sums[1])
        self._store(self._c, z)
        self._store(self.step.buffers.reset, r * self._previous())
        return z

    def _mix(self, fresh: Expr, z: Expr) -> Expr:
        """h = (1 - z) g + z h"""
        context = self.step.layer.work.context
        kept = context.bind(z)
        return (T.cast(1, self.step.layer.dtype) - kept) * fresh + kept * self._previous()
