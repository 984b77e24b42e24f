"""Matches that grow along the edges of earlier ones, the most alike first.

This finds nodes that changed in more than one way: an operand and an attribute, say.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from graphopt.diff.flat import Kind, Port
from graphopt.diff.labels import Grade
from graphopt.diff.matching import Matching

_MOST_PAIRS = 16
"""Users of one value, on the two sides, that are all compared with each other; of more, those at one rank."""


def grow(matching: Matching, grade: Grade) -> bool:
    """Matches neighbours of matched items that have the same label; whether any was found."""
    growth = _Growth(matching, grade)
    found = False
    for i, j in enumerate(matching.partner[0]):
        if j >= 0:
            growth.look_around(i, j)
    for i, j in growth.best():
        matching.pair(i, j)
        growth.look_around(i, j)
        found = True
    return found


class _Growth:
    def __init__(self, matching: Matching, grade: Grade) -> None:
        self.matching = matching
        self.labels = matching.labels.at(0, grade), matching.labels.at(1, grade)
        self.heap: list[tuple[float, int, int]] = []

    def best(self) -> Iterator[tuple[int, int]]:
        """Candidates, the best first, while both are without a partner."""
        partner = self.matching.partner
        while self.heap:
            _, i, j = heapq.heappop(self.heap)
            if partner[0][i] == partner[1][j] == -1:
                yield i, j

    def look_around(self, i: int, j: int) -> None:
        """Takes up as candidates the neighbours of a new pair that stand at the same place."""
        x, y = self.matching.item(0, i), self.matching.item(1, j)
        for p, q in zip(x.operands, y.operands, strict=False):
            if isinstance(p, Port) and isinstance(q, Port):
                self._offer(p.item, q.item)
        users = self._users(0, i), self._users(1, j)
        for place, ours in users[0].items():
            theirs = users[1].get(place, [])
            if len(ours) * len(theirs) <= _MOST_PAIRS:
                for user in ours:
                    for other in theirs:
                        self._offer(user, other)
            else:
                for user, other in zip(ours, theirs, strict=False):
                    self._offer(user, other)

    def _users(self, side: int, index: int) -> dict[tuple[int, int, int], list[int]]:
        found: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for out, user, slot in self.matching.item(side, index).links:
            if self.matching.partner[side][user] < 0:
                found[out, slot, self.labels[side][user]].append(user)
        return found

    def _offer(self, i: int, j: int) -> None:
        matching = self.matching
        if matching.partner[0][i] >= 0 or matching.partner[1][j] >= 0:
            return
        if self.labels[0][i] != self.labels[1][j] or matching.item(0, i).kind in (Kind.INPUT, Kind.OUTPUT):
            return
        heapq.heappush(self.heap, (-self._likeness(i, j), i, j))

    def _likeness(self, i: int, j: int) -> float:
        """How many neighbours agree, then how much of the label."""
        matching = self.matching
        x, y = matching.item(0, i), matching.item(1, j)
        agree = 0
        for p, q in zip(x.operands, y.operands, strict=False):
            if isinstance(p, Port) and isinstance(q, Port) and p.out == q.out:
                agree += matching.partner[0][p.item] == q.item
        theirs = set(y.links)
        for out, user, slot in x.links:
            agree += (out, matching.partner[0][user], slot) in theirs
        a, b = matching.labels.parts[0][i], matching.labels.parts[1][j]
        return (
            agree
            + 0.4 * (a.attrs == b.attrs)
            + 0.3 * (a.constants == b.constants)
            + 0.2 * (a.types == b.types)
        )
