"""The dimension algebra, against Python's integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import TextError
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.dims import (
    Dim,
    broadcast,
    ceildiv,
    evaluate,
    floordiv,
    maximum,
    minimum,
    mod,
    substitute,
    sym,
    symbols,
)

NAMES = ["n", "h", "batch size", "sym", "0"]
VALUES = st.fixed_dictionaries({name: st.integers(0, 50) for name in NAMES})


def _extend(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    positive = st.integers(1, 6)
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, positive).map(lambda p: floordiv(p[0], p[1])),
        st.tuples(inner, positive).map(lambda p: ceildiv(p[0], p[1])),
        st.tuples(inner, positive).map(lambda p: mod(p[0], p[1])),
        st.tuples(inner, inner).map(lambda p: minimum(p[0], p[1])),
        st.tuples(inner, inner).map(lambda p: maximum(p[0], p[1])),
    )


DIMS = st.recursive(st.integers(-9, 9) | st.sampled_from(NAMES).map(sym), _extend, max_leaves=6)


@given(DIMS, DIMS, st.integers(1, 7), VALUES)
def test_operations_agree_with_integers(a: Dim, b: Dim, k: int, values: dict[str, int]) -> None:
    x, y = evaluate(a, values), evaluate(b, values)
    assert evaluate(a + b, values) == x + y
    assert evaluate(a - b, values) == x - y
    assert evaluate(a * b, values) == x * y
    assert evaluate(floordiv(a, k), values) == x // k
    assert evaluate(floordiv(a, -k), values) == x // -k
    assert evaluate(ceildiv(a, k), values) == -(-x // k)
    assert evaluate(mod(a, k), values) == x % k
    assert evaluate(minimum(a, b), values) == min(x, y)
    assert evaluate(maximum(a, b), values) == max(x, y)


@given(DIMS)
def test_text_parses_back(dim: Dim) -> None:
    assert parse_dim(str(dim)) == dim


@given(DIMS, VALUES)
def test_symbols_are_what_a_value_needs(dim: Dim, values: dict[str, int]) -> None:
    names = set(symbols(dim))
    assert evaluate(dim, {name: values[name] for name in names}) == evaluate(dim, values)


@given(DIMS, st.integers(0, 20))
def test_substitution_leaves_other_symbols(dim: Dim, n: int) -> None:
    assert set(symbols(substitute(dim, {"n": n}))) <= set(symbols(dim)) - {"n"}


def test_equal_dimensions_are_equal() -> None:
    n, h = sym("n"), sym("h")
    assert 2 * (n + 1) == n + n + 2
    assert (n + h) * (n - h) == n * n - h * h
    assert floordiv(2 * n + 3, 2) == n + 1
    assert floordiv(floordiv(n + 1, 2) + 1, 2) == floordiv(n + 3, 4)
    assert floordiv(6 * n * h, 3 * h) == 2 * n
    assert mod(4 * n + 3, 4) == 3
    assert n - n == 0
    assert maximum(n + 1, n) == n + 1


@pytest.mark.parametrize(
    "text", ["", "n +", "f(n)", "n.m", "1.5", "True", "n // 0", "(" * 500, "sym(3)", "n if n else 1"]
)
def test_what_is_no_dimension(text: str) -> None:
    with pytest.raises(TextError):
        parse_dim(text)


def test_products_of_many_sums_are_refused() -> None:
    text = "*".join(f"(a{i} + b{i})" for i in range(40))
    with pytest.raises(TextError):
        parse_dim(text)


@pytest.mark.parametrize(
    ("a", "b", "together"), [(4, 4, 4), (1, 4, 4), (4, 1, 4), (0, 1, 0), (1, 0, 0), (1, 1, 1)]
)
def test_broadcasting(a: int, b: int, together: int) -> None:
    values = {"n": a, "m": b, "k": together}
    n, m, k = sym("n"), sym("m"), sym("k")
    assert evaluate(broadcast(n, m), values) == evaluate(broadcast(m, n), values) == together
    assert evaluate(broadcast(broadcast(n, m), k), values) == together


def test_broadcasting_is_canonical() -> None:
    n, m = sym("n"), sym("m")
    both = broadcast(n, m)
    assert both == broadcast(m, n) == broadcast(both, n) == broadcast(m, both)
    assert broadcast(n, 1) == broadcast(1, n) == broadcast(n, n) == n
    assert broadcast(n, 3) == broadcast(3, n) == 3
    # min(n, 512) differs from n only above 512, and then fits it not.
    assert broadcast(minimum(n, 512), n) == broadcast(n, minimum(512, n)) == n
    assert broadcast(minimum(n, 0), n) != n
    assert parse_dim(str(both)) == both
