"""What lies between two changes: long stretches of nodes that repeat, found by their order.

Keys tell the layers of a repetitive network apart by their distance from something matched. Between two
insertions they can't. There, the operators are put in an order that follows from the
structure alone, and the longest common subsequence of the two orders is taken, in which nodes that are matched
equal their partners only
(Myers, "An O(ND) difference algorithm and its variations", 1986).
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.diff.flat import Flat, Kind, Port
from graphopt.diff.labels import Grade
from graphopt.diff.matching import Matching

SHORTEST = 4
"""Nodes in a row that must agree to count as the same stretch, where nothing else speaks for it."""
_MOST_EDITS = 200
"""Insertions and deletions up to which the longest subsequence is looked for; of more, the path that got furthest
by then is kept, and the search begins anew at its end. So time grows with the length, not with its square."""


def align(matching: Matching, shortest: int = SHORTEST) -> bool:
    """Matches stretches of nodes without a partner, between those that have one; whether any was found.

    Args:
        shortest: nodes in a row that must agree to count as the same stretch, matched ones beside it included.
    """
    orders = [_order(flat) for flat in matching.sides]
    sequences = []
    for side, order in enumerate(orders):
        labels, partner = matching.labels.at(side, Grade.WEIGHTLESS), matching.partner[side]
        pairs = partner if side == 0 else range(len(partner))
        sequences.append([~pairs[index] if partner[index] >= 0 else labels[index] for index in order])
    found: list[tuple[int, int]] = []
    for start_a, start_b, length in common_runs(sequences[0], sequences[1]):
        if length >= shortest:
            found += [(orders[0][start_a + k], orders[1][start_b + k]) for k in range(length)]
    return matching.match_all(found)


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
    """Stretches ``(start in a, start in b, length)`` of a common subsequence: a longest one, unless the sequences
    differ by more than :data:`_MOST_EDITS`."""
    x, y = 0, 0
    runs: list[tuple[int, int, int]] = []
    while x < len(a) and y < len(b):
        trace, width, height = _trace(a[x:], b[y:])
        runs += [(x + i, y + j, length) for i, j, length in _runs(width, height, trace)]
        x, y = x + width, y + height
    return runs


def _trace(a: Sequence[int], b: Sequence[int]) -> tuple[list[dict[int, int]], int, int]:
    """Furthest reach on each diagonal, for each number of edits; and where the path ends that got furthest."""
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
                return trace, len(a), len(b)
    last = len(trace) - 1
    ends = [(reach[k], reach[k] - k) for k in range(-last, last + 1, 2)]
    return trace, *max(((x, y) for x, y in ends if x <= len(a) and y <= len(b)), key=sum)


def _runs(x: int, y: int, trace: list[dict[int, int]]) -> list[tuple[int, int, int]]:
    """The stretches of the path that ends at ``(x, y)``."""
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
