"""What lies between two changes: long stretches of nodes that repeat, found by their order.

Keys tell the layers of a repetitive network apart by their distance from something matched. Between two
insertions they can't. There, the operators without a partner are put in an order that follows from the
structure alone, and the longest common subsequence of the two orders is taken
(Myers, "An O(ND) difference algorithm and its variations", 1986).
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.diff.flat import Flat, Kind, Port
from graphopt.diff.labels import Grade
from graphopt.diff.matching import Matching

_SHORTEST = 4
"""Nodes in a row that must agree to count as the same stretch."""
_MOST_EDITS = 400
"""Insertions and deletions up to which the subsequence is looked for."""


def align(matching: Matching) -> bool:
    """Matches stretches of nodes without a partner; whether any was found."""
    orders = [
        [index for index in _order(matching.sides[side]) if matching.partner[side][index] < 0]
        for side in (0, 1)
    ]
    labels = [matching.labels.at(side, Grade.WEIGHTLESS) for side in (0, 1)]
    sequences = [[labels[side][index] for index in orders[side]] for side in (0, 1)]
    if not all(sequences):
        return False
    pairs: list[tuple[int, int]] = []
    for start_a, start_b, length in common_runs(sequences[0], sequences[1]):
        if length >= _SHORTEST:
            pairs += [(orders[0][start_a + k], orders[1][start_b + k]) for k in range(length)]
    return matching.match_all(pairs)


def _order(flat: Flat) -> list[int]:
    """Nodes in the order in which a walk from the outputs along the operands leaves them."""
    seen: set[int] = set()
    found: list[int] = []
    ends = [item.index for item in flat.items if not item.links]
    for end in ends:
        pending = [(end, 0)]
        seen.add(end)
        while pending:
            index, slot = pending.pop()
            operands = flat.items[index].operands
            while slot < len(operands):
                operand = operands[slot]
                slot += 1
                if isinstance(operand, Port) and operand.item not in seen:
                    seen.add(operand.item)
                    pending += [(index, slot), (operand.item, 0)]
                    break
            else:
                if flat.items[index].kind is Kind.NODE:
                    found.append(index)
    return found


def common_runs(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int, int]]:
    """Stretches ``(start in a, start in b, length)`` of a longest common subsequence; none when the
    sequences differ by too much."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    trace = _trace(a[start:], b[start:])
    runs = _runs(a[start:], b[start:], trace) if trace is not None else []
    shifted = [(x + start, y + start, length) for x, y, length in runs]
    return [(0, 0, start), *shifted] if start else shifted


def _trace(a: Sequence[int], b: Sequence[int]) -> list[dict[int, int]] | None:
    """Furthest reach on each diagonal, for each number of edits."""
    reach = {1: 0}
    trace: list[dict[int, int]] = []
    for edits in range(min(len(a) + len(b), _MOST_EDITS) + 1):
        trace.append(dict(reach))
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
            x = reach[k + 1] if down else reach[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[k] = x
            if x >= len(a) and y >= len(b):
                return trace
    return None


def _runs(a: Sequence[int], b: Sequence[int], trace: list[dict[int, int]]) -> list[tuple[int, int, int]]:
    x, y = len(a), len(b)
    runs: list[tuple[int, int, int]] = []
    for edits in range(len(trace) - 1, -1, -1):
        reach = trace[edits]
        k = x - y
        down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
        before = k + 1 if down else k - 1
        x_before = reach[before] if edits else 0
        y_before = x_before - before if edits else 0
        x_start = (x_before if down else x_before + 1) if edits else 0
        if x > x_start:
            runs.append((x_start, x_start - k, x - x_start))
        x, y = x_before, y_before
    return runs[::-1]
