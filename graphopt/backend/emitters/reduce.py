"""Reductions: Reduce*, ArgMax and ArgMin, global pools."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.places import Combine, Place, add
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.rows import emit_rows
from graphopt.backend.kernels.emit import register, serial
from graphopt.backend.readers.movement import axis_attr, integers, operand
from graphopt.backend.readers.scalars import cast_to, countable, is_float, quotient, widen
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Node


def lowest(dtype: str) -> Expr:
    """The neutral element of a maximum."""
    return tirx.const(-math.inf, dtype) if "float" in dtype else tirx.const(int(np.iinfo(dtype).min), dtype)


def highest(dtype: str) -> Expr:
    """The neutral element of a minimum."""
    return tirx.const(math.inf, dtype) if "float" in dtype else tirx.const(int(np.iinfo(dtype).max), dtype)


@dataclass(frozen=True)
class Fold:
    """A reduction: what each element becomes, how two combine, what the result becomes."""

    combine: Combine
    identity: Callable[[str], Expr]
    before: Callable[[Expr], Expr] = lambda x: x
    after: Callable[[Expr], Expr] = lambda x: x


def _zero(dtype: str) -> Expr:
    return tirx.const(0, dtype)


def _one(dtype: str) -> Expr:
    return tirx.const(1, dtype)


def _square(x: Expr) -> Expr:
    return x * x


def _absolute(x: Expr) -> Expr:
    return x if type_of(x).startswith("uint") else tirx.abs(x)


def _in_float(function: Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    """The function, through float64 where the argument is an integer."""

    def apply(x: Expr) -> Expr:
        return function(x) if is_float(x) else function(x.astype("float64")).astype(type_of(x))

    return apply


FOLDS: dict[str, Fold] = {
    "ReduceSum": Fold(add, _zero),
    "ReduceMean": Fold(add, _zero),
    "ReduceMax": Fold(tirx.max, lowest),
    "ReduceMin": Fold(tirx.min, highest),
    "ReduceProd": Fold(lambda x, y: x * y, _one),
    "ReduceSumSquare": Fold(add, _zero, before=_square),
    "ReduceL1": Fold(add, _zero, before=_absolute),
    "ReduceL2": Fold(add, _zero, before=_square, after=_in_float(tirx.sqrt)),
    "ReduceLogSum": Fold(add, _zero, after=_in_float(tirx.log)),
}


def reduced_axes(work: Work, node: Node) -> frozenset[int]:
    """The axes that a Reduce* operator folds."""
    rank = len(shape_of(operand(node, 0)))
    axes = integers(work.context, node, 1, ())
    if not axes:
        return frozenset() if node.attrs.get("noop_with_empty_axes", 0) else frozenset(range(rank))
    return frozenset(axis % rank for axis in axes)


def kept_indices(indices: Sequence[Expr], axes: frozenset[int], keepdims: bool) -> list[Expr]:
    """Where the result of the row that holds the element at ``indices`` goes."""
    zero = tirx.IntImm("int64", 0)
    return [
        zero if axis in axes else index for axis, index in enumerate(indices) if keepdims or axis not in axes
    ]


def element_of(work: Work, node: Node) -> Callable[[Place], Expr]:
    """The elements of a node's first input, 16-bit floats as float32."""
    value = operand(node, 0)
    return lambda place: work.context.closed(
        lambda: widen(countable(work.context.read(value, place.indices)))
    )


@emitter(*FOLDS)
def _reduce(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    axes = reduced_axes(work, node)
    emit_fold(
        work, node, sinks[0], axes, bool(node.attrs.get("keepdims", 1)), FOLDS[node.op], "Mean" in node.op
    )


def emit_fold(
    work: Work, node: Node, sink: Sink, axes: frozenset[int], keepdims: bool, fold: Fold, mean: bool
) -> None:
    """Folds a node's first input over ``axes``; ``mean`` divides by how many elements there were."""
    element = element_of(work, node)
    wanted = dtype_of(node.outputs[0])
    dtype = {"float16": "float32", "bfloat16": "float32", "bool": "int8"}.get(wanted, wanted)

    def row(row: Row) -> None:
        identity = fold.identity(dtype)
        if wanted == "bool":
            identity = tirx.const(int(node.op == "ReduceMin"), dtype)
        result = row.fold(fold.combine, identity, lambda place: fold.before(element(place)))

        def finish(place: Place) -> None:
            total = fold.after(result(place))
            if mean:
                count = row.count().astype(dtype)
                # Of no floats the mean is not a number; of no integers it is 0.
                total = (
                    quotient(total, count)
                    if "float" in dtype
                    else tirx.truncdiv(total, tirx.max(count, _one(dtype)))
                )
            sink(cast_to(total, wanted), kept_indices(place.indices, axes, keepdims))

        row.once(finish)

    emit_rows(
        work,
        operand(node, 0),
        axes,
        row,
        work.touch({0: sink}, node, lambda indices: kept_indices(indices, axes, keepdims)),
    )


@emitter("ReduceLogSumExp")
def _log_sum_exp(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    axes, keepdims = reduced_axes(work, node), bool(node.attrs.get("keepdims", 1))
    element = element_of(work, node)
    wanted = dtype_of(node.outputs[0])
    if "float" not in wanted:
        raise refuse(node, f"it is compiled for floats, not for {wanted}")
    dtype = "float64" if wanted == "float64" else "float32"
    context = work.context

    def row(row: Row) -> None:
        top = row.fold(tirx.max, lowest(dtype), element)
        total = row.fold(
            add, _zero(dtype), lambda p: context.closed(lambda: context.math("exp", element(p) - top(p)))
        )

        def finish(place: Place) -> None:
            result = context.closed(lambda: context.math("log", total(place)) + top(place))
            sinks[0](result.astype(wanted), kept_indices(place.indices, axes, keepdims))

        row.once(finish)

    touch = work.touch(sinks, node, lambda indices: kept_indices(indices, axes, keepdims))
    emit_rows(work, operand(node, 0), axes, row, touch, cost=16)


GLOBAL_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@emitter(*GLOBAL_POOLS)
def _global_pool(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    axes = frozenset(range(2, len(shape_of(operand(node, 0)))))
    fold = FOLDS[GLOBAL_POOLS[node.op]]
    emit_fold(work, node, sinks[0], axes, True, fold, node.op == "GlobalAveragePool")


@emitter("GlobalLpPool")
def _global_lp_pool(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    axes = frozenset(range(2, len(shape_of(operand(node, 0)))))
    emit_fold(work, node, sinks[0], axes, True, power_fold(cast(int, node.attrs.get("p", 2))), False)


def power_fold(p: int) -> Fold:
    """The p-norm."""
    if p == 1:
        return FOLDS["ReduceL1"]
    if p == 2:
        return FOLDS["ReduceL2"]
    return Fold(
        add,
        _zero,
        before=lambda x: functools.reduce(lambda a, b: a * b, [tirx.abs(x)] * p),
        after=lambda x: tirx.pow(x, tirx.const(1 / p, type_of(x))),
    )


@emitter("ArgMax", "ArgMin")
def _arg_extremum(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    value = operand(node, 0)
    axis = axis_attr(node, len(shape_of(value)))
    axes, keepdims = frozenset({axis}), bool(node.attrs.get("keepdims", 1))
    element = element_of(work, node)
    dtype = dtype_of(value)
    dtype = "float32" if dtype in ("float16", "bfloat16") else dtype
    last = bool(node.attrs.get("select_last_index", 0))

    def better(x: Expr, best: Expr) -> Expr:
        left, right = (x, best) if node.op == "ArgMax" else (best, x)
        wins = left >= right if last else left > right
        if not is_float(x):
            return wins
        # What is not a number counts as the extremum, and the first (or last) of it is found.
        odd = tirx.isnan(x)
        return tirx.any(wins, odd if last else tirx.all(odd, tirx.Not(tirx.isnan(best))))

    def row(row: Row) -> None:
        best, index = register(row.lanes, dtype), register(row.lanes, "int64")

        def start(place: Place) -> None:
            T.buffer_store(best, element(place), [place.lane])
            T.buffer_store(index, tirx.IntImm("int64", 0), [place.lane])

        row.once(start)
        with serial(row.count()) as k:

            def step(place: Place) -> None:
                moved = list(place.indices)
                moved[axis] = k
                x = work.context.bind(element(Place(tuple(moved), k, place.lane)))
                wins = better(x, best[place.lane])
                T.buffer_store(index, tirx.Select(wins, k, index[place.lane]), [place.lane])
                T.buffer_store(best, tirx.Select(wins, x, best[place.lane]), [place.lane])

            row.once(step)
        row.once(lambda place: sinks[0](index[place.lane], kept_indices(place.indices, axes, keepdims)))

    emit_rows(
        work, value, axes, row, work.touch(sinks, node, lambda indices: kept_indices(indices, axes, keepdims))
    )
