"""All rows of a value as stages of tensor expressions, in place of loops over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.backend.emitters.places import Combine, Element, Place, View, add
from graphopt.backend.emitters.registry import Work
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.stages import Stages
from graphopt.backend.readers import flat_offset
from graphopt.backend.symbolic import Expr

_ZERO = tirx.IntImm("int64", 0)
_REDUCERS: list[tuple[Any, Any]] = [(add, te.sum), (tirx.max, te.max), (tirx.min, te.min)]


class StagedRow(Row):
    """All rows at once, as stages."""

    def __init__(self, work: Work, view: View, axes: frozenset[int], stages: Stages) -> None:
        super().__init__(work, view, {}, [], sorted(axes), None, 1)
        self.axes = axes
        self.stages = stages
        self.kept_axes = [axis for axis in range(len(view.shape)) if axis not in axes]

    def count(self) -> Expr:
        """Elements in one row."""
        total: Expr = tirx.IntImm("int64", 1)
        for axis in self.reduced:
            total = total * self.view.shape[axis]
        return total

    def fold(self, combine: Combine, identity: Expr, element: Element) -> Callable[[Place], Expr]:
        """A stage that combines ``element`` over every row."""
        reducer = _reducer(combine, identity)

        def total(*at: Expr) -> Expr:
            indices: list[Expr] = [_ZERO] * len(self.view.shape)
            for axis, index in zip(self.kept_axes, at, strict=False):
                indices[axis] = index.astype("int64")
            folded = [te.reduce_axis((_ZERO, self.view.shape[axis])) for axis in self.reduced]
            for axis, iteration in zip(self.reduced, folded, strict=True):
                indices[axis] = iteration.var
            return reducer(element(Place(tuple(indices), self._position(indices), _ZERO)), axis=folded)

        shape = [self.view.shape[axis] for axis in self.kept_axes] or [tirx.IntImm("int64", 1)]
        stage = self.stages.compute(shape, total)
        return lambda place: stage(*([place.indices[axis] for axis in self.kept_axes] or [_ZERO]))

    def keep(self, dtype: str, element: Element) -> Callable[[Place], Expr]:
        """A stage of all elements."""

        def make(*at: Expr) -> Expr:
            indices = [index.astype("int64") for index in at]
            return element(Place(tuple(indices), self._position(indices), _ZERO))

        stage = self.stages.compute(self.view.shape, make)
        return lambda place: stage(*place.indices)

    def each(self, body: Callable[[Place], None]) -> None:
        """A stage for each result of ``body``, over all elements."""
        self.stages.walk(len(self.view.shape), body, self._position)

    def once(self, body: Callable[[Place], None]) -> None:
        """A stage for each result of ``body``, over all rows."""

        def at_first(place: Place) -> None:
            indices = tuple(_ZERO if axis in self.axes else index for axis, index in enumerate(place.indices))
            body(Place(indices, _ZERO, _ZERO))

        self.stages.walk(len(self.view.shape), at_first, self._position)

    def _position(self, indices: Sequence[Expr]) -> Expr:
        return flat_offset(
            [indices[axis] for axis in self.reduced], [self.view.shape[axis] for axis in self.reduced]
        )


def _reducer(combine: Combine, identity: Expr) -> Any:
    for known, reducer in _REDUCERS:
        if combine is known:
            return reducer
    return te.comm_reducer(combine, lambda _: identity)
