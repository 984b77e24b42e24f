"""A layered layout of directed acyclic graphs, small and quick enough for thousands of nodes.

Nodes get layers by their longest path, long edges get points on the way, sweeps order each layer by the
barycentres of its neighbours, and a last pass moves nodes to the median of their neighbours
(Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

GAP_X = 22.0
GAP_Y = 34.0
_SWEEPS = 6
_LONGEST_ROUTED = 40
"""Layers over which an edge may reach and still be led around the nodes between; longer ones go straight."""

Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """Centres of nodes, for each edge the points between its ends, and the size of the whole."""

    centres: list[tuple[float, float]]
    routes: list[list[tuple[float, float]]]
    width: float
    height: float


def layered(sizes: Sequence[Size], edges: Sequence[tuple[int, int]]) -> Layout:
    """Places nodes in layers from top to bottom.

    Args:
        sizes: width and height of each node, in an order in which edges only go forward.
        edges: pairs of indices.
    """
    return _Layers(sizes, edges).layout()


class _Layers:
    """Vertices are the nodes, then the points that long edges pass through."""

    def __init__(self, sizes: Sequence[Size], edges: Sequence[tuple[int, int]]) -> None:
        self.sizes = list(sizes)
        self.edges = edges
        self.layer = _layers(len(sizes), edges)
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.chains = [self._chain(a, b) for a, b in edges]
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for vertex, layer in enumerate(self.layer):
            self.rows[layer].append(vertex)
        self.x = [0.0] * len(self.sizes)

    def _chain(self, a: int, b: int) -> list[int]:
        """The points of an edge between its ends, one for each layer that it passes."""
        start, stop = self.layer[a], self.layer[b]
        if stop - start > _LONGEST_ROUTED:
            return []
        chain = []
        last = a
        for layer in range(start + 1, stop):
            vertex = len(self.sizes)
            self.sizes.append((6.0, 0.0))
            self.layer.append(layer)
            self.above.append([last])
            self.below.append([])
            self.below[last].append(vertex)
            chain.append(vertex)
            last = vertex
        self.below[last].append(b)
        self.above[b].append(last)
        return chain

    def layout(self) -> Layout:
        for sweep in range(_SWEEPS):
            self._order(down=sweep % 2 == 0)
        for row in self.rows:
            self._spread(row, [0.0] * len(row))
        for sweep in range(_SWEEPS):
            self._straighten(down=sweep % 2 == 0)
        heights = [max((self.sizes[v][1] for v in row), default=0.0) for row in self.rows]
        tops, top = [], 0.0
        for height in heights:
            tops.append(top)
            top += height + GAP_Y
        left = min((self.x[v] - self.sizes[v][0] / 2 for v in range(len(self.sizes))), default=0.0)
        right = max((self.x[v] + self.sizes[v][0] / 2 for v in range(len(self.sizes))), default=0.0)
        middle = [tops[layer] + heights[layer] / 2 for layer in self.layer]
        count = len(self.sizes) - sum(map(len, self.chains))
        return Layout(
            [(self.x[v] - left, middle[v]) for v in range(count)],
            [[(self.x[v] - left, middle[v]) for v in chain] for chain in self.chains],
            right - left,
            max(top - GAP_Y, 0.0),
        )

    def _order(self, *, down: bool) -> None:
        """Orders each layer by the mean place of its neighbours in the layer before."""
        place = [0.0] * len(self.sizes)
        for row in self.rows:
            for index, vertex in enumerate(row):
                place[vertex] = (index + 0.5) / len(row)
        for row in self.rows if down else reversed(self.rows):
            for vertex in row:
                near = self.above[vertex] if down else self.below[vertex]
                if near:
                    place[vertex] = sum(place[v] for v in near) / len(near)
            row.sort(key=place.__getitem__)
            for index, vertex in enumerate(row):
                place[vertex] = (index + 0.5) / len(row)

    def _straighten(self, *, down: bool) -> None:
        """Moves nodes towards the median of their neighbours, as far as their order allows."""
        for row in self.rows if down else reversed(self.rows):
            wanted = []
            for vertex in row:
                near = sorted(self.x[v] for v in (self.above[vertex] if down else self.below[vertex]))
                middle = len(near) // 2
                if not near:
                    wanted.append(self.x[vertex])
                elif len(near) % 2:
                    wanted.append(near[middle])
                else:
                    wanted.append((near[middle - 1] + near[middle]) / 2)
            self._spread(row, wanted)

    def _spread(self, row: list[int], wanted: list[float]) -> None:
        """Places a layer as near to ``wanted`` as its widths allow: the mean of pushing right and pushing left."""
        widths = [self.sizes[v][0] for v in row]
        gaps = [(a + b) / 2 + GAP_X for a, b in itertools.pairwise(widths)]
        rightwards, leftwards = list(wanted), list(wanted)
        for i, gap in enumerate(gaps):
            rightwards[i + 1] = max(rightwards[i + 1], rightwards[i] + gap)
        for i in range(len(gaps) - 1, -1, -1):
            leftwards[i] = min(leftwards[i], leftwards[i + 1] - gaps[i])
        for vertex, a, b in zip(row, rightwards, leftwards, strict=True):
            self.x[vertex] = (a + b) / 2


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path to each node; a node that nothing leads to stands right above its first user."""
    layer = [0] * count
    below: list[list[int]] = [[] for _ in range(count)]
    has_above = [False] * count
    for a, b in edges:
        below[a].append(b)
        has_above[b] = True
    for a in range(count):
        for b in below[a]:
            layer[b] = max(layer[b], layer[a] + 1)
    for a in range(count):
        if not has_above[a] and below[a]:
            layer[a] = min(layer[b] for b in below[a]) - 1
    return layer
