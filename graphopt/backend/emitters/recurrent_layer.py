"""A recurrent layer that is being emitted: its sizes, the order of its gates, where its states lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphopt.backend.arguments import Array
from graphopt.backend.emitters.registry import Work
from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.emit import (
    static,
)
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.scalars import widen
from graphopt.backend.region import shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node, Value


@dataclass(frozen=True)
class Phase:
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
class Layer:
    """A recurrent layer that is being emitted."""

    work: Work
    node: Node
    arithmetic: Arithmetic
    phases: tuple[Phase, ...]
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
class Buffers:
    """What the time loop of all directions works on, flat."""

    inputs: Any
    """[row, direction, column]: products with the inputs, and biases."""
    recurrence: Any
    """[direction, phase, block, unit of the state, column of the block]: weights."""
    late: Any | None
    """[direction, unit]: bias of the product that a late reset gate is applied to, for layers with one."""
    h: Any
    """[direction, parity of the step, batch, unit]"""
    c: Any | None
    """[direction, batch, unit]: an LSTM's cell, the update gate of a GRU in two phases."""
    reset: Any | None
    """[direction, batch, unit]: the reset state of a GRU in two phases."""


def state_at(layer: Layer, d: Expr, b: Expr, parity: Expr = None) -> Expr:
    """Where a member of the batch lies in a buffer of states."""
    _, batch = layer.extents
    return ((d if parity is None else d * 2 + parity) * batch + b) * layer.padded


def weights_at(layer: Layer, phase: Phase, d: Expr, block: Expr) -> Expr:
    return (d * layer.columns + phase.first + block * phase.width) * layer.hidden
