"""One time step of a recurrent layer: blocks of hidden units, all of their gates in one register tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.activations import Activation
from graphopt.backend.emitters.recurrent_layer import Buffers, Layer, Phase, state_at, weights_at
from graphopt.backend.emitters.row import in_lanes
from graphopt.backend.kernels.emit import (
    bind,
    i64,
    lanes_of,
    loop_for,
    register,
    serial,
    store_lanes,
)
from graphopt.backend.kernels.tile import Tile, emit_sum
from graphopt.backend.symbolic import Expr

PARALLEL_STEP = 1 << 18
"""Multiply-adds of a time step from which on threads share it."""


@dataclass(frozen=True)
class Step:
    """One time step of one direction, for a span (first, count) of the batch."""

    layer: Layer
    buffers: Buffers
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
            loop = loop_for(work) if layer.directions == 1 and work >= PARALLEL_STEP else serial
            with loop(phase.blocks) as item:
                block = bind(item + self.k % 2 * (phase.blocks - 1 - 2 * item))
                self._emit_rows(phase, number, block)

    def _emit_rows(self, phase: Phase, number: int, block: Expr) -> None:
        first, count = self.span
        width = len(phase.gates) * phase.vectors
        room = self.layer.work.machine.vector_registers - 1 - width
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

    def _emit_tile(self, phase: Phase, number: int, block: Expr, b: Expr, rows: int) -> None:
        layer, buffers, lanes = self.layer, self.buffers, phase.lanes
        weights = bind(weights_at(layer, phase, self.d, block))
        states = buffers.h if number == 0 else buffers.reset
        assert states is not None
        parity = self.k % 2 if number == 0 else None
        state_rows = [bind(state_at(layer, self.d, b + m, parity)) for m in range(rows)]
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

    step: Step
    phase: Phase
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
        assert self.step.buffers.c is not None
        return self.step.buffers.c

    def _own(self, buffer: Any) -> Expr:
        """This unit's place in a buffer of states."""
        return buffer[state_at(self.step.layer, self.step.d, self.b) + self.unit]

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
        return step.buffers.h[state_at(step.layer, step.d, self.b, step.k % 2) + self.unit]

    def _store(self, buffer: Any, value: Expr) -> Expr:
        T.buffer_store(buffer, value, [state_at(self.step.layer, self.step.d, self.b) + self.unit])

    def _store_h(self, value: Expr) -> None:
        step = self.step
        place = state_at(step.layer, step.d, self.b, 1 - step.k % 2) + self.unit
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
        reset = self.step.buffers.reset
        assert reset is not None
        self._store(reset, r * self._previous())
        return z

    def _mix(self, fresh: Expr, z: Expr) -> Expr:
        """h = (1 - z) g + z h"""
        context = self.step.layer.work.context
        kept = context.bind(z)
        return (T.cast(1, self.step.layer.dtype) - kept) * fresh + kept * self._previous()
