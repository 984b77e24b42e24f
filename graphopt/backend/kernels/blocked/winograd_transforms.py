"""Transforms of minimal filtering, made from interpolation points in exact arithmetic.

F(m, r) computes m neighbouring outputs of a filter with r taps by a = m + r - 1 products instead of
m * r (S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin, S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2016, nests it over two axes):

    y = A^T ((G g) * (B^T d))

Cook and Toom multiply polynomials by interpolation: evaluate both at a - 1 points and at infinity,
multiply, interpolate by Lagrange's formula. With the Vandermonde matrix V of the points, that is
s = V^-1 ((V_m u) * (V_r g)); filtering is its transpose in u, so A = V_m, G = V_r and B^T is the
transpose of V^-1. The denominators of Lagrange's polynomials are moved from B^T into G, which is
applied at compile time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Matrix = tuple[tuple[Fraction, ...], ...]

# Pairs of opposite points share half of their transforms' work. The points are those of few bits with
# the least `amplification`, by search; few bits make the data's transforms exact in float32.
_PAIRS = ((), ("1",), ("3/4", "3/2"), ("1/2", "1", "2"), ("1/2", "3/4", "5/4", "5/2"))
MOST_PRODUCTS = 2 * len(_PAIRS)


def _points(count: int) -> list[Fraction]:
    """`count` points: 0 and pairs of opposite ones; the last pair may lack one."""
    pairs = [Fraction(text) for text in _PAIRS[count // 2]]
    return [Fraction(0), *(sign * point for point in pairs for sign in (1, -1))][:count]


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, r), with a = m + r - 1."""

    output: Matrix
    """A^T, m rows of a."""
    weights: Matrix
    """G, a rows of r."""
    data: Matrix
    """B^T, a rows of a."""

    @functools.cached_property
    def amplification(self) -> float:
        """How much larger rounding errors are than those of direct filtering, for data and weights
        of independent elements of one variance: the root of the summed variances of the products
        that make an output, divided by that of the output."""
        g, d = ([sum(c * c for c in row) for row in matrix] for matrix in (self.weights, self.data))
        worst = max(sum(c * c * p * q for c, p, q in zip(row, g, d, strict=True)) for row in self.output)
        return math.sqrt(worst / len(self.weights[0]))


@functools.cache
def transforms(m: int, r: int) -> Transforms:
    """The transforms of F(m, r).

    Raises:
        ValueError: m or r is below 1, or m + r - 1 is above `MOST_PRODUCTS`.
    """
    a = m + r - 1
    if m < 1 or r < 1 or a > MOST_PRODUCTS:
        raise ValueError(f"no transforms of F({m}, {r}): at most {MOST_PRODUCTS} products")
    points = _points(a - 1)
    evaluate = [[point**k for k in range(a)] for point in points]
    others = [[q for q in points if q != point] for point in points]
    numerators = [_from_roots(roots) for roots in others] + [_from_roots(points)]
    divisors = [
        math.prod((p - q for q in roots), start=Fraction(1)) for p, roots in zip(points, others, strict=True)
    ]
    infinity = [[Fraction(k == size - 1) for k in range(size)] for size in (m, r)]
    output = [row[:m] for row in evaluate] + [infinity[0]]
    weights = [[c / divisor for c in row[:r]] for row, divisor in zip(evaluate, divisors, strict=True)]
    return Transforms(
        tuple(zip(*output, strict=True)),
        tuple(map(tuple, [*weights, infinity[1]])),
        tuple(tuple(row + [Fraction(0)] * (a - len(row))) for row in numerators),
    )


def _from_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients


Sum = tuple[tuple[float, int], ...]
"""A sum of values: pairs of a factor and the number of a value."""


@dataclass(frozen=True)
class Program:
    """A matrix-vector product as sums that share parts: values 0 to `inputs` - 1 are the vector's
    elements, each of `sums` makes the next value, `outputs` tells which values are the product."""

    inputs: int
    sums: tuple[Sum, ...]
    outputs: tuple[int, ...]

    @property
    def operations(self) -> int:
        """Additions and multiply-adds."""
        return sum(len(terms) - 1 + (abs(terms[0][0]) != 1) for terms in self.sums)


@dataclass(frozen=True)
class Programs:
    """How F(m, r) transforms data and sums of products."""

    data: Program
    output: Program


@functools.cache
def programs(m: int, r: int) -> Programs:
    """The programs of F(m, r); see `transforms`."""
    matrices = transforms(m, r)
    return Programs(program(matrices.data), program(matrices.output))


def program(matrix: Matrix) -> Program:
    """The product with `matrix`; rows or columns that differ in signs alone are computed as sum and
    difference of two parts."""
    builder = _Builder(len(matrix[0]))
    vector = list(range(len(matrix[0])))
    rows = _pairs(matrix)
    if not rows:
        matrix, vector = _pair_columns(builder, matrix, vector)
    outputs = [-1] * len(matrix)
    for i, j in rows:
        same = [c if c == d else Fraction(0) for c, d in zip(matrix[i], matrix[j], strict=True)]
        other = [c if c != d else Fraction(0) for c, d in zip(matrix[i], matrix[j], strict=True)]
        parts = [builder.dot(part, vector) for part in (same, other)]
        outputs[i], outputs[j] = (builder.add([(1.0, parts[0]), (sign, parts[1])]) for sign in (1.0, -1.0))
    for i, row in enumerate(matrix):
        if outputs[i] < 0:
            outputs[i] = builder.dot(row, vector)
    return Program(builder.inputs, tuple(builder.sums), tuple(outputs))


class _Builder:
    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.sums: list[Sum] = []

    def add(self, terms: Sequence[tuple[float, int]]) -> int:
        """The number of the sum of `terms`; a factor 1 comes first, which saves a product."""
        ordered = tuple(sorted(terms, key=lambda term: (term[0] != 1, term[1])))
        if len(ordered) == 1 and ordered[0][0] == 1:
            return ordered[0][1]
        self.sums.append(ordered)
        return self.inputs + len(self.sums) - 1

    def dot(self, row: Sequence[Fraction], vector: Sequence[int]) -> int:
        return self.add([(float(c), value) for c, value in zip(row, vector, strict=True) if c])


def _pairs(matrix: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Disjoint pairs of rows that differ in signs alone, and differ."""
    pairs: list[tuple[int, int]] = []
    free = list(range(len(matrix)))
    while free:
        i = free.pop(0)
        for j in free:
            same_size = all(abs(c) == abs(d) for c, d in zip(matrix[i], matrix[j], strict=True))
            if same_size and matrix[i] != matrix[j]:
                pairs.append((i, j))
                free.remove(j)
                break
    return pairs


def _pair_columns(builder: _Builder, matrix: Matrix, vector: list[int]) -> tuple[Matrix, list[int]]:
    """The same product, of sums and differences of the elements whose columns make pairs."""
    columns = [list(column) for column in zip(*matrix, strict=True)]
    for i, j in _pairs(columns):
        first, second = columns[i], columns[j]
        columns[i] = [c if c == d else Fraction(0) for c, d in zip(first, second, strict=True)]
        columns[j] = [c if c != d else Fraction(0) for c, d in zip(first, second, strict=True)]
        pair = vector[i], vector[j]
        vector[i], vector[j] = (builder.add([(1.0, pair[0]), (sign, pair[1])]) for sign in (1.0, -1.0))
    return tuple(zip(*columns, strict=True)), vector
