"""Rules on sizes as the runtime checks them."""

from __future__ import annotations

import pytest

from graphopt.errors import InputError
from graphopt.runtime.sizes import Relation, SizeRule, check_rule


@pytest.mark.parametrize(
    ("relation", "fitting", "not_fitting"),
    [
        ("equal", [(3, 3), (0, 0)], [(1, 3), (3, 1), (0, 1)]),
        ("broadcast", [(3, 3), (1, 3), (3, 1), (0, 1), (1, 0)], [(2, 3), (0, 2), (2, 0)]),
        ("fits", [(3, 3), (1, 3), (1, 0)], [(3, 1), (0, 1), (2, 3)]),
        ("at least", [(3, 3), (4, 3), (0, -1)], [(2, 3), (-1, 0)]),
    ],
)
def test_relations(
    relation: Relation, fitting: list[tuple[int, int]], not_fitting: list[tuple[int, int]]
) -> None:
    rule = SizeRule('Add "a"', relation, "n + 0*m - 1 + 1", "2*m")
    for n, m in fitting:
        check_rule(SizeRule('Add "a"', relation, "n", "m"), {"n": n, "m": m})
    for n, m in not_fitting:
        with pytest.raises(InputError, match=f'^Add "a": n = {n} .*m = {m}'):
            check_rule(SizeRule('Add "a"', relation, "n", "m"), {"n": n, "m": m})
    check_rule(rule, {"n": 2, "m": 1})


def test_expressions_and_numbers() -> None:
    rule = SizeRule('Conv "c"', "at least", "2*h - 1", 5)
    check_rule(rule, {"h": 3})
    with pytest.raises(InputError, match=r'Conv "c": 2\*h - 1 = 3 must be at least 5'):
        check_rule(rule, {"h": 2})


def test_what_has_no_value_is_passed_over() -> None:
    check_rule(SizeRule("Add", "equal", "n", "unknown"), {"n": 2})
    check_rule(SizeRule("Reshape", "equal", "floordiv(n, m)", 3), {"n": 2, "m": 0})
