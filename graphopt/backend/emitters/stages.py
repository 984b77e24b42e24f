"""The same operators as tensor expressions, for targets whose loops a schedule shapes (CUDA).

Emitters describe what they compute by rows: folds, kept values, walks. Here each of these becomes a
stage, a `te.compute` over all rows, instead of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.backend.emitters.places import Place
from graphopt.backend.symbolic import Expr
from graphopt.errors import CompileError

_ZERO = tirx.IntImm("int64", 0)


class Stages:
    """The stages of one kernel; results of an operator are captured from what its sinks are given."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        """For each output of the operator that is being emitted, its tensor."""
        self._captured: dict[int, tuple[Expr, tuple[Expr, ...]]] = {}
        self._shapes: dict[int, list[Expr]] = {}
        self._count = 0

    def begin(self, shapes: dict[int, list[Expr]]) -> dict[int, Callable[[Expr, Sequence[Expr]], None]]:
        """Sinks for an operator whose wanted outputs have these shapes."""
        self.results, self._shapes = {}, shapes
        return {output: self._sink(output) for output in shapes}

    def compute(self, shape: Sequence[Expr], function: Callable[..., Expr]) -> Any:
        """A new stage."""
        self._count += 1
        return te.compute(tuple(shape), function, name=f"stage_{self._count}")

    def walk(
        self, rank: int, body: Callable[[Place], None], position: Callable[[Sequence[Expr]], Expr]
    ) -> None:
        """Makes a stage of each result that ``body`` hands to a sink.

        Raises:
            CompileError: a result's indices are not those of the walk in some order.
        """
        variables = tuple(tirx.Var(f"i{axis}", "int64") for axis in range(rank))
        self._captured = {}
        body(Place(variables, position(variables), _ZERO))
        for output, (_, indices) in list(self._captured.items()):
            axes = [_axis(index, variables) for index in indices]
            self.results[output] = self.compute(
                self._shapes[output], self._element_of(output, axes, rank, body, position)
            )

    def _element_of(
        self,
        output: int,
        axes: list[int | None],
        rank: int,
        body: Callable[[Place], None],
        position: Callable[[Sequence[Expr]], Expr],
    ) -> Callable[..., Expr]:
        def element(*at: Expr) -> Expr:
            indices: list[Expr] = [_ZERO] * rank
            for axis, index in zip(axes, at, strict=True):
                if axis is not None:
                    indices[axis] = index.astype("int64")
            self._captured = {}
            body(Place(tuple(indices), position(indices), _ZERO))
            return self._captured[output][0]

        return element

    def _sink(self, output: int) -> Callable[[Expr, Sequence[Expr]], None]:
        def store(element: Expr, indices: Sequence[Expr]) -> None:
            self._captured[output] = element, tuple(indices)

        return store


def _axis(index: Expr, variables: Sequence[Expr]) -> int | None:
    for axis, variable in enumerate(variables):
        if index.same_as(variable):
            return axis
    if isinstance(index, tirx.IntImm) and index.value == 0:
        return None
    raise CompileError("this operator's results are stored in an order that has no GPU kernel yet")
