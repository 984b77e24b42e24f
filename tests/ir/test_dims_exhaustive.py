"""The algebra of dimensions, all expressions up to a size, held against integers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dims import Dim, broadcast, ceildiv, evaluate, floordiv, maximum, minimum, mod, sym

VALUES = [(n, m) for n in range(4) for m in (0, 1, 2, 5)]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Expression = tuple[Dim, Numbers, Any]

OPERATIONS: dict[str, tuple[Callable[[Any, Any], Dim], Callable[[Numbers, Numbers], Numbers]]] = {
    "+": (lambda a, b: a + b, np.add),
    "-": (lambda a, b: a - b, np.subtract),
    "*": (lambda a, b: a * b, np.multiply),
    "//": (floordiv, np.floor_divide),
    "ceil": (ceildiv, lambda a, b: -np.floor_divide(-a, b)),
    "%": (mod, np.mod),
    "min": (minimum, np.minimum),
    "max": (maximum, np.maximum),
}


def _leaves() -> list[Expression]:
    numbers = np.array(VALUES, np.int64)
    ones, sure = np.ones(len(VALUES), np.int64), np.ones(len(VALUES), bool)
    symbols = [(sym("n"), numbers[:, 0], sure), (sym("m"), numbers[:, 1], sure)]
    return [*symbols, *((c, c * ones, sure) for c in (-2, 0, 1, 2, 3))]


def _combined(left: list[Expression], right: list[Expression]) -> list[Expression]:
    """Every operation on every pair, with the numbers that integers give, and where they are defined."""
    found: list[Expression] = []
    for (a, x, ok_a), (b, y, ok_b) in itertools.product(left, right):
        for name, (symbolic, exact) in OPERATIONS.items():
            divides = name in ("//", "ceil", "%")
            if divides and isinstance(b, int) and b == 0:
                continue
            defined = ok_a & ok_b & (y != 0) if divides else ok_a & ok_b
            found.append((symbolic(a, b), exact(x, np.where(divides & (y == 0), 1, y)), defined))
    return found


def test_all_expressions_of_two_operations() -> None:
    leaves = _leaves()
    pairs = _combined(leaves, leaves)
    known: dict[Dim, list[int | None]] = {}
    checked = 0
    for dim, wanted, defined in (*pairs, *_combined(pairs, leaves), *_combined(leaves, pairs)):
        given = known.get(dim)
        if given is None:
            given = known[dim] = [_number(dim, n, m) for n, m in VALUES]
        for place, ok in enumerate(defined):
            # A form that is simpler may be defined where the original divides by zero, never the other way.
            assert not ok or given[place] == wanted[place], f"{dim} at n, m = {VALUES[place]}"
        checked += 1
    assert checked > 30_000


def _number(dim: Dim, n: int, m: int) -> int | None:
    try:
        return evaluate(dim, {"n": n, "m": m})
    except ZeroDivisionError:
        return None


def test_broadcasting_of_all_small_sizes() -> None:
    """Whatever form it takes symbolically, it is NumPy's wherever the sizes broadcast."""
    n, m = sym("n"), sym("m")
    dims: list[Dim] = [n, m, 0, 1, 2, minimum(n, 2), maximum(n, 1), broadcast(n, m), n + 1]
    for a, b in itertools.product(dims, dims):
        together = broadcast(a, b)
        for x, y in VALUES:
            sizes = {"n": x, "m": y}
            # The atom broadcast(n, m) itself stands only for sizes that broadcast.
            if x != y and 1 not in (x, y):
                continue
            left, right = evaluate(a, sizes), evaluate(b, sizes)
            if left == right or 1 in (left, right):
                assert evaluate(together, sizes) == (right if left == 1 else left), f"{a} with {b} at {sizes}"
