"""A transform of Winograd's as code: one axis after the other, every value in a register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.winograd_transforms import Program
from graphopt.backend.kernels.emit import Buffer, Expr, lanes_of, register, serial, store_lanes

Reader = Callable[[tuple[Expr, ...]], Expr]
"""The vector of inputs at a position within a patch."""


Write = Callable[[Expr, Expr], None]
"""write(index, value): takes result number `index` of a transform over all axes."""


@dataclass(frozen=True)
class Stages:
    """A transform along the active axes, the first axis first; between them values wait in `middle`."""

    active: tuple[int, ...]
    lanes: int
    middle: Buffer
    programs: list[Program]
    extents: tuple[int, ...]
    """Sizes of what is read."""

    def first(self, read: Reader, write: Write) -> None:
        """The first stage, which is all where one axis is active."""
        steps, active, lanes = self.programs[0], self.active, self.lanes
        if len(active) == 1:
            inputs = [read(self._place(k)) for k in range(steps.inputs)]
            for k, value in enumerate(_emit_program(self.lanes, steps, inputs)):
                write(k, value)
            return
        width = self.extents[active[1]]
        with serial(_opaque(width)) as column:
            inputs = [read(self._place(k, column)) for k in range(steps.inputs)]
            for k, value in enumerate(_emit_program(self.lanes, steps, inputs)):
                store_lanes(self.middle, (k * width + column) * lanes, lanes, value)

    def second(self, write: Write) -> None:
        """The second stage, if there is one."""
        if len(self.programs) == 1:
            return
        first, second = self.programs
        lanes = self.lanes
        with serial(_opaque(len(first.outputs))) as row:
            start = row * second.inputs
            inputs = [lanes_of(self.middle, (start + k) * lanes, lanes) for k in range(second.inputs)]
            for k, value in enumerate(_emit_program(self.lanes, second, inputs)):
                write(row * len(second.outputs) + k, value)

    def _place(self, *coordinates: Expr) -> tuple[Expr, ...]:
        position: list[Expr] = [0] * len(self.extents)
        for axis, coordinate in zip(self.active, coordinates, strict=True):
            position[axis] = coordinate
        return tuple(position)


def _opaque(extent: int) -> Expr:
    """`extent`, hidden from LLVM, which would unroll a loop of it: large code, registers spilled."""
    fenced = T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", T.float32(extent))
    return T.Bind(fenced.astype("int64"))


def _emit_program(lanes: int, steps: Program, inputs: list[Expr]) -> list[Expr]:
    """The outputs of `steps`; every value gets a register of its own."""

    def keep(value: Expr) -> Expr:
        kept = register(lanes, "float32")
        store_lanes(kept, 0, lanes, value)
        return lanes_of(kept, 0, lanes)

    values = [keep(value) for value in inputs]
    for terms in steps.sums:
        total: Expr = None
        for factor, index in terms:
            value = values[index]
            if total is None:
                total = value if factor == 1 else value * T.broadcast(T.float32(factor), lanes)
            elif abs(factor) == 1:
                total = total + value if factor > 0 else total - value
            else:
                total = total + value * T.broadcast(T.float32(factor), lanes)
        values.append(keep(total))
    return [values[index] for index in steps.outputs]
