"""Analyses: facts about a graph that are computed once and kept until a rewrite may have changed them."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self, TypeVar

from graphopt.ir.graph import Graph
from graphopt.ir.transaction import EventKind, Transaction


class Analysis(abc.ABC):
    """The result of looking at a whole graph, such as its liveness. Ask for one by
    :meth:`Rewriter.analysis <graphopt.ir.rewriter.Rewriter.analysis>`; it must not change the graph.

    ``invalidated_by``: after which events the result may no longer hold, by default after any. What it
    says of nodes that were erased since counts for nothing, so few have to name ERASED.
    """

    invalidated_by: ClassVar[frozenset[EventKind]] = frozenset(EventKind)

    @classmethod
    @abc.abstractmethod
    def of(cls, graph: Graph) -> Self:
        """Computes it."""


A = TypeVar("A", bound=Analysis)


class Analyses:
    """Those analyses of a graph that were asked for and still hold. It outlives the rewriters of single passes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._kept: dict[type[Analysis], Any] = {}

    def get(self, kind: type[A]) -> A:
        """The kept result, or a new one."""
        if kind not in self._kept:
            self._kept[kind] = kind.of(self.graph)
        found: A = self._kept[kind]
        return found

    def committed(self, transaction: Transaction) -> None:
        """Drops what a transaction may have changed."""
        if self._kept:
            events = {event.kind for event in transaction.events}
            self._kept = {
                kind: found for kind, found in self._kept.items() if not kind.invalidated_by & events
            }
