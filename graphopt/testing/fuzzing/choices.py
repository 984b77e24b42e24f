"""Where a random graph takes its decisions from, and how a failing one is made smaller.

A graph is a function of the numbers that were drawn for it. Drawn from a generator they are written down,
and read back they give the same graph; fewer and smaller numbers give a smaller graph (MacIver and
Donaldson, "Test-case reduction via test-case generation", 2020).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Draw = Callable[[int, int], int]
"""(low, high) -> an integer between them, both included."""

_MOST_ATTEMPTS = 400


class Recorder:
    """Draws at random and writes down what it drew, counted from the low end."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.drawn: list[int] = []

    def __call__(self, low: int, high: int) -> int:
        value = self._random.randint(low, high)
        self.drawn.append(value - low)
        return value


class Replay:
    """Gives what was written down; what is too large becomes the largest, and after the end the lowest."""

    def __init__(self, drawn: Sequence[int]) -> None:
        self._drawn = iter(drawn)

    def __call__(self, low: int, high: int) -> int:
        return min(low + next(self._drawn, 0), high)


def shrink(drawn: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """A sequence, shorter and of smaller numbers, for which ``fails`` still holds.

    Args:
        drawn: for which it holds.
        fails: takes a sequence; asked at most some hundred times.
    """
    best = list(drawn)
    left = _MOST_ATTEMPTS
    seen: set[tuple[int, ...]] = set()

    def accept(candidate: list[int]) -> bool:
        nonlocal best, left
        while candidate and not candidate[-1]:
            candidate = candidate[:-1]  # What is missing at the end is read as zeros.
        if left <= 0 or tuple(candidate) in seen:
            return False
        seen.add(tuple(candidate))
        left -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    progress = True
    while progress and left > 0:
        before = best
        size = max(len(best) // 2, 1)
        while size:
            at = len(best) - size
            while at >= 0:
                accept(best[:at] + best[at + size :])
                at -= size
            size //= 2
        for at in range(len(best) - 1, -1, -1):
            if at < len(best) and best[at]:
                accept([*best[:at], 0, *best[at + 1 :]]) or accept(
                    [*best[:at], best[at] // 2, *best[at + 1 :]]
                )
        progress = best != before
    return best
