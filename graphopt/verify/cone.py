"""Graphs of what must be run: everything behind some numbers, up to those whose values are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType, Type
from graphopt.verify.expressions import Application, Expressions, Leaf, is_native
from graphopt.verify.tolerance import Path

Operand = Callable[[int], Value]
Shape = Callable[[int], tuple[int, ...]]
_PRODUCTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""Operators that sum over all but the first axis of an operand, and which that is."""
_LAST_AXIS = frozenset(
    {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Softmax", "LogSoftmax", "Attention"}
)
_NORMALIZING = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
)
_LARGE = 1 << 16
"""Constants of more bytes are passed in: that takes no copy, and a model with them takes several."""


@dataclass(frozen=True)
class Cone:
    """A graph to run.

    Attributes:
        graph: its inputs are ``feeds``, its outputs ``results``, in order.
        feeds: numbers whose values are passed in.
        results: numbers whose values come out.
    """

    graph: Graph
    feeds: tuple[int, ...]
    results: tuple[int, ...]


def applications_behind(
    expressions: Expressions, wanted: Iterable[int], known: Container[int]
) -> list[Application]:
    """What computes ``wanted`` from known values, inputs and constants, operands first."""
    found: dict[Application, None] = {}
    pending: list[tuple[int, bool]] = [(number, False) for number in wanted]
    while pending:
        number, ready = pending.pop()
        entry = expressions.table[number]
        if isinstance(entry, Leaf) or entry in found:
            continue
        if ready:
            found[entry] = None
            continue
        pending.append((number, True))
        pending += [(source, False) for source in entry.sources if source not in known]
    return list(found)


def cone_of(
    expressions: Expressions,
    wanted: Iterable[int],
    known: Container[int],
    opset: dict[str, int],
    *,
    everything: bool,
) -> Cone:
    """The graph that computes ``wanted``; with ``everything`` it gives out all that it computes on the way.

    A wanted value that is an input or a constant goes through an Identity.
    """
    wanted = list(dict.fromkeys(wanted))
    graph = Graph("cone")
    graph.opset = dict(opset)
    builder = Builder(graph)
    values: dict[int, Value] = {}
    feeds: list[int] = []

    def operand(number: int) -> Value:
        if number not in values:
            entry = expressions.table[number]
            data = entry.data if isinstance(entry, Leaf) else None
            if data is not None and (data.nbytes <= _LARGE or not is_native(data.type)):
                values[number] = builder.constant(data, f"c{number}")
            else:
                feeds.append(number)
                values[number] = builder.input(f"v{number}", _unranked(expressions.type_of(number)))
        return values[number]

    results: dict[int, Value] = {}
    for made in applications_behind(expressions, wanted, known):
        outputs = _apply(builder, made, operand)
        for index, value in enumerate(outputs):
            number = made.first + index
            values.setdefault(number, value)
            if number in wanted or (everything and made.used[index] and is_native(made.types[index])):
                results[number] = value
    for number in wanted:
        if number not in results:
            source = operand(number)
            results[number] = builder.node("Identity", [source], [(f"v{number}_out", source.type)]).output
    builder.outputs(list(results.values()))
    graph.output_names = [value.name for value in results.values()]
    return Cone(graph, tuple(feeds), tuple(results))


def _apply(builder: Builder, made: Application, operand: Operand) -> tuple[Value, ...]:
    inputs = [None if number is None else operand(number) for number in made.operands]
    if made.regions is not None:
        mapping = {stand_in: operand(number) for stand_in, number in made.captured}
        mapping.update(
            {
                old: new
                for old, new in zip(made.regions.inputs, inputs, strict=True)
                if old is not None and new is not None
            }
        )
        return copy_node(made.regions, builder, mapping).outputs
    outputs: list[tuple[str, Type]] = [(f"v{made.first + i}", type) for i, type in enumerate(made.types)]
    return builder.node(made.op, inputs, outputs, made.attrs, domain=made.domain, name=made.name).outputs  # type: ignore[arg-type]


def _unranked(type: Type) -> Type:
    """Shapes are those of the arrays that are passed in, whatever a faulty pass says of them."""
    return (
        replace(type, shape=None, layout=None) if isinstance(type, TensorType) and is_native(type) else type
    )


def path_between(expressions: Expressions, number: int, leaves: Container[int], shape: Shape) -> Path:
    """The longest path behind a number, not going on behind ``leaves``; ``shape`` gives those of values."""
    longest: dict[Application, int] = {}
    terms = 1
    for made in applications_behind(expressions, [number], leaves):
        sources = [expressions.table[source] for source in made.sources if source not in leaves]
        before = [longest.get(entry, 0) for entry in sources if isinstance(entry, Application)]
        longest[made] = max(before, default=0) + 1
        terms = max(terms, _terms(made, shape))
    return Path(max(longest.values(), default=0), terms)


def _terms(made: Application, shape: Shape) -> int:
    """How many terms the sums have that an operator makes."""
    place = _PRODUCTS.get(made.op, 0)
    operands = [number for number in made.operands if number is not None]
    if made.domain or len(operands) <= place:
        return 1
    if place:
        return math.prod(shape(operands[place])[1:])
    if made.op in _LAST_AXIS:
        return (shape(operands[0]) or (1,))[-1]
    if made.op.startswith("Reduce") or made.op in _NORMALIZING or "AveragePool" in made.op:
        results = 1 if made.op in _NORMALIZING else math.prod(shape(made.first))
        return max(1, math.prod(shape(operands[0])) // max(results, 1))
    return 1
