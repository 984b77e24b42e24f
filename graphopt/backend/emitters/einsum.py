"""Einsum as a fold over the labels that the result lacks."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from graphopt.backend.emitters.convolve import fold_view
from graphopt.backend.emitters.places import View
from graphopt.backend.emitters.registry import Sink, Work, emitter
from graphopt.backend.readers.movement import operand
from graphopt.backend.readers.padding import text_attr
from graphopt.backend.readers.scalars import widen
from graphopt.backend.refusal import refuse
from graphopt.backend.region import dtype_of, shape_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node

_ZERO = tirx.IntImm("int64", 0)


def subscripts(node: Node) -> tuple[list[str], str]:
    """Labels of the operands and of the result, one letter for each axis, ellipses spelled out."""
    equation = text_attr(node, "equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    ranks = [len(shape_of(operand(node, i))) for i in range(len(terms))]
    spare = [c for c in map(chr, range(ord("A"), ord("z") + 1)) if c.isalpha() and c not in equation]
    widths = [
        rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term
    ]
    whole = "".join(spare[: max(widths, default=0)])
    spelled = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", whole[len(whole) - width :]) if "..." in term else term)
    if arrow:
        return spelled, right.replace("...", whole)
    letters = "".join(spelled)
    once = sorted(c for c in set(letters) - set(whole) if letters.count(c) == 1)
    return spelled, whole + "".join(once)


@emitter("Einsum")
def _einsum(work: Work, node: Node, sinks: dict[int, Sink]) -> None:
    terms, result = subscripts(node)
    context = work.context
    sizes: dict[str, Dim] = {}
    for position, term in enumerate(terms):
        shape = shape_of(operand(node, position))
        if len(shape) != len(term):
            raise refuse(node, f"operand {position} has rank {len(shape)}, its subscript is {term!r}")
        for label, dim in zip(term, shape, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = dim
    summed = [label for label in sizes if label not in result]
    # The last label of the result stays innermost, so that it can be walked in vectors.
    order = [*result[:-1], *summed, *result[-1:]]

    def read(at: Sequence[Expr]) -> Expr:
        index = dict(zip(order, at, strict=True))
        total: Expr = None
        for position, term in enumerate(terms):
            shape = shape_of(operand(node, position))
            place = [
                _ZERO if dim == 1 and sizes[label] != 1 else index[label]
                for label, dim in zip(term, shape, strict=True)
            ]
            x = widen(context.read(operand(node, position), place))
            total = x if total is None else total * x
        return total

    view = View([context.extent(sizes[label]) for label in order], read, dtype_of(node.outputs[0]))
    axes = frozenset(order.index(label) for label in summed)
    fold_view(work, node, sinks[0], view, axes)
