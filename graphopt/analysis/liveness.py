"""When values are needed: from the node that makes them to the last that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from graphopt.analysis.cost import bytes_of
from graphopt.analysis.flow import open_regions, reader
from graphopt.ir.analyses import Analysis
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.transaction import EventKind


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes that are needed at once, and at which node; None: already the inputs are as much."""

    bytes: int
    node: Node | None


@dataclass(frozen=True)
class Liveness(Analysis):
    """``dying[node]``: the values that no node after ``node`` reads. Those that nothing reads die where they are
    made; outputs of a region, inputs that nobody reads, and constants never die.

    What is read inside control flow is read, for the region around it, by the node that holds it.
    """

    invalidated_by: ClassVar = frozenset(
        {EventKind.INSERTED, EventKind.ERASED, EventKind.CHANGED, EventKind.REPLACED}
    )
    body: Region
    dying: Mapping[Node, Sequence[Value]]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Looks at every use once."""
        dying: dict[Node, list[Value]] = {}
        for region in open_regions(graph):
            for value in region.inputs:
                _note(value, region, None, dying)
            for node in region:
                for value in node.outputs:
                    _note(value, region, node, dying)
        return cls(graph.body, dying)

    def peak(self, sizes: Mapping[str, int]) -> Peak | None:
        """The most memory that values take at once when the nodes run in program order, each value in a buffer
        of its own; constants don't count.

        Args:
            sizes: numbers for the symbolic dimensions.

        Returns:
            None when a size is not known, or depends on data.
        """
        try:
            return self._peak(self.body, sizes)
        except (KeyError, ZeroDivisionError):
            return None

    def _peak(self, region: Region, sizes: Mapping[str, int]) -> Peak:
        live = sum(bytes_of(value, sizes) for value in region.inputs)
        most = Peak(live, None)
        for node in region:
            live += sum(bytes_of(value, sizes) for value in node.outputs)
            inner = [self._peak(held, sizes) for held in node.regions.values() if not held.is_isolated]
            most = max(most, Peak(live + max((p.bytes for p in inner), default=0), node), key=_bytes)
            live -= sum(bytes_of(value, sizes) for value in self.dying.get(node, ()))
        return most


def _bytes(peak: Peak) -> int:
    return peak.bytes


def _note(value: Value, home: Region, producer: Node | None, dying: dict[Node, list[Value]]) -> None:
    last = producer
    for use in value.uses:
        node = reader(use, home)
        if node is None:
            return
        if last is None or last.is_before(node):
            last = node
    if last is not None:
        dying.setdefault(last, []).append(value)
