"""The semantic diff of graphs: what differs, whatever the names and the order.

:func:`diff` matches two graphs by their structure and says what was added, removed, changed or moved.
"""

from __future__ import annotations

import sys
from types import ModuleType

from graphopt.diff.changes import Change, Distance, Move, NodeChange, Weights
from graphopt.diff.result import GraphDiff
from graphopt.errors import ArgumentError, require
from graphopt.ir.graph import Graph

__all__ = ["Change", "Distance", "GraphDiff", "Move", "NodeChange", "Weights", "diff"]


def diff(
    a: Graph, b: Graph, *, names: bool = True, weights: Weights = "exact", metadata: bool = False
) -> GraphDiff:
    """The differences of two graphs, independent of internal names and of the order of nodes.

    Args:
        a: the graph before.
        b: the graph after.
        names: names of the graphs' inputs and outputs count; else they are compared by position.
        weights: ``"exact"``; ``"shape"``: the data of float weights does not count; or a number: it may differ
            by so much of the largest magnitude in the constant. Integers, which may be indices, booleans and
            strings always count to the last bit.
        metadata: metadata, documentation and the producer count too.

    Raises:
        ArgumentError: an argument is of the wrong type.
    """
    from graphopt.diff.compare import compare
    from graphopt.diff.flat import Flat
    from graphopt.diff.labels import Labels

    require("a", a, Graph, hint="graphopt.load(path) reads one")
    require("b", b, Graph, hint="graphopt.load(path) reads one")
    if weights not in ("exact", "shape") and (
        isinstance(weights, bool | str) or not isinstance(weights, int | float) or not weights >= 0
    ):
        raise ArgumentError(f"weights must be 'exact', 'shape' or a number from 0 up, not {weights!r}")
    sides = Flat(a), Flat(b)
    return compare(a, b, Labels(*sides, weights=weights), sides, names=names, metadata=metadata)


class _Callable(ModuleType):
    """The module can be called as :func:`diff` can: once it is imported, it is what ``graphopt.diff`` names."""

    __call__ = staticmethod(diff)


sys.modules[__name__].__class__ = _Callable
