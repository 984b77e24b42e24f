"""A rule: a pattern, a check that may refuse with a reason, a rewrite."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

from graphopt.ir.graph import Value
from graphopt.ir.rewriter import Rewriter
from graphopt.rewrite.patterns import Match, OneOf, Op


class Assumes(enum.Enum):
    """What a rule takes for granted of floating point. One that assumes nothing keeps every bit, but for
    which NaN it is."""

    REASSOCIATION = "reassociation"
    """Sums and products may be rounded in another order, and what overflows on the way may be other values."""
    ROUNDED_CONSTANTS = "constants stand for the numbers that they are close to"
    NO_NAN = "no NaN"
    NO_INF = "no infinity"
    SIGN_OF_ZERO = "the sign of zero does not matter"


class Refusal:
    """Why a rule does not apply although its pattern matched; the text is made only when read."""

    __slots__ = ("args", "template")

    def __init__(self, template: str, *args: object) -> None:
        self.template = template
        self.args = args

    def __str__(self) -> str:
        return self.template.format(*self.args)


def refuse(template: str, *args: object) -> Refusal:
    """``return refuse("group is {}", group)`` in a check. Refusals are counted by template."""
    return Refusal(template, *args)


Replacement = Union[Value, Sequence[Union[Value, None]], None]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rewrite.

    Args:
        name: as reports and transactions call it.
        pattern: an ``op``, or a ``one_of`` of them.
        rewrite: makes the replacement in a transaction rooted at the match's root. A value or
            sequence that it returns replaces the root's outputs; None means that it made the change
            itself. Changing nothing is an error: ``check`` is the place to decline.
            Matched nodes that then have no users are erased by the driver, and so are their
            constants.
        check: why the match must be left alone, None to go ahead.
        assumes: what the rewrite takes for granted of floats.
    """

    name: str
    pattern: Op | OneOf
    rewrite: Callable[[Rewriter, Match], Replacement]
    check: Callable[[Match], Refusal | str | None] | None = None
    assumes: tuple[Assumes, ...] = ()

    @property
    def roots(self) -> tuple[Op, ...]:
        """The patterns to try at a node, in order.

        Raises:
            TypeError: an alternative is not an ``op``.
        """
        alternatives = (self.pattern,) if isinstance(self.pattern, Op) else self.pattern.alternatives
        roots = tuple(p for p in alternatives if isinstance(p, Op))
        if len(roots) != len(alternatives):
            raise TypeError(f'rule "{self.name}": each alternative at the root must be an op')
        return roots

    @property
    def source(self) -> str:
        """File and line of the rewrite."""
        code = getattr(self.rewrite, "__code__", None)
        return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"
