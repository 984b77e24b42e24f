"""Weights: which constants multiply activations, and how names choose among them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Node, Region, Use, Value

_WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, 0), "MatMul": (1, 0)}
_SHOWN = 8

L = TypeVar("L")


def weight_uses(graph: Graph) -> Iterator[tuple[Use, Value]]:
    """Where a constant of floats is the weight of a Conv, ConvTranspose, Gemm or MatMul, in program order.

    Biases are no weights; neither are operands of rank 1. A weight of a node inside a fused node is
    given where the fused node takes it.
    """
    for node in graph.walk():
        for index in () if node.domain else _WEIGHT_INPUTS.get(node.op, ()):
            use, value = _outside(Use(node, index), node.input(index))
            if value is not None and value.is_constant and is_matrix_of_floats(value):
                yield use, value
                break


def _outside(use: Use, value: Value | None) -> tuple[Use, Value | None]:
    region = value.owner if value is not None else None
    if value is None or not isinstance(region, Region) or not region.is_isolated:
        return use, value
    assert region.parent is not None
    return Use(region.parent, value.index), region.parent.inputs[value.index]


def is_matrix_of_floats(value: Value) -> bool:
    """Whether ``value`` is of floats and of rank 2 or more."""
    kind = value.tensor
    return kind.dtype is not None and kind.dtype.is_float and kind.dtype.bits >= 16 and (kind.rank or 0) >= 2


def chosen(
    layers: Sequence[L],
    of: Callable[[L], tuple[Node, Value]],
    include: Sequence[str],
    exclude: Sequence[str],
    logger: logging.Logger,
) -> list[L]:
    """The layers that shell patterns choose by the name of the node, of its output or of the weight.

    Args:
        of: a layer's node and weight.
        logger: is warned of a pattern of ``exclude`` that matches no layer.

    Raises:
        PassError: a pattern of ``include`` matches no layer.
    """
    names = [(node.name, node.outputs[0].name, weight.name) for node, weight in map(of, layers)]
    for pattern in include:
        if pattern != "*" and not any(_matches(each, [pattern]) for each in names):
            raise PassError(f"include={pattern} matches no layer", hint=_listing(names))
    for pattern in exclude:
        if not any(_matches(each, [pattern]) for each in names):
            logger.warning("exclude=%s matches no layer; %s", pattern, _listing(names))
    return [
        layer
        for layer, each in zip(layers, names, strict=True)
        if _matches(each, include) and not _matches(each, exclude)
    ]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _listing(names: Sequence[tuple[str, str, str]]) -> str:
    if not names:
        return "the graph has no such layers"
    first = ", ".join(node or output for node, output, _ in names[:_SHOWN])
    return f"the layers are {first}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
