"""What compiled code takes for granted of the sizes at a call, and the check of it.

A kernel for ``[n, 3] + [m, 3]`` is right when n and m are equal or one of them is 1. Nothing in the
shapes of the inputs says so; the manifest does, as rules on expressions of their symbols.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from graphopt.errors import InputError
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.dims import Dim, evaluate

Relation = Literal["equal", "broadcast", "fits", "at least"]

_RELATIONS: dict[str, tuple[Callable[[int, int], bool], str]] = {
    "equal": (operator.eq, "{} and {} must be equal"),
    "broadcast": (lambda a, b: a == b or 1 in (a, b), "{} and {} must be equal, or one of them 1"),
    "fits": (lambda a, b: a in (1, b), "{} must be 1 or equal to {}"),
    "at least": (operator.ge, "{} must be at least {}"),
}


class SizeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What two sizes must be to each other.

    Attributes:
        where: the node that needs it, and which sizes they are.
        relation: ``equal``; ``broadcast``: equal, or one of them 1; ``fits``: equal, or ``left`` 1;
            ``at least``: ``left`` not smaller.
        left: a number, or an expression of symbols.
        right: the same.
    """

    where: str
    relation: Relation
    left: int | str
    right: int | str


def holds(relation: Relation, left: int, right: int) -> bool:
    """Whether two numbers are to each other as they must be."""
    return _RELATIONS[relation][0](left, right)


def explain(where: str, relation: Relation, left: str, right: str) -> str:
    """The sentence that two sizes don't fit together."""
    return f"{where}: {_RELATIONS[relation][1].format(left, right)}"


def check_rule(rule: SizeRule, values: Mapping[str, int]) -> None:
    """Check a rule for these values of the symbols; one about other symbols is passed over.

    Raises:
        InputError: the sizes don't fit together.
    """
    dims = [_dim(size) for size in (rule.left, rule.right)]
    try:
        left, right = (evaluate(dim, values) for dim in dims)
    except (KeyError, ZeroDivisionError):
        return  # A divisor of 0 has a rule of its own.
    if holds(rule.relation, left, right):
        return
    texts = [
        str(dim) if isinstance(dim, int) else f"{dim} = {number}"
        for dim, number in zip(dims, (left, right), strict=True)
    ]
    raise InputError(explain(rule.where, rule.relation, *texts))


def _dim(size: int | str) -> Dim:
    return size if isinstance(size, int) else parse_dim(size)
