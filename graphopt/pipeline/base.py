"""What a pass is."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.errors import PassError
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Array
from graphopt.pipeline.options import format_value, options_of
from graphopt.rewrite import Assumes, Rule, RuleStats, apply_rules
from graphopt.verify.tolerance import Effect

if TYPE_CHECKING:
    from graphopt.targets import Target


@dataclass
class Context:
    """What a pass may ask for beyond its options.

    Attributes:
        target: the machine to compile for; None when that is open.
        inputs: samples of the model's inputs for calibration and numeric verification, each a
            mapping from input name to array; empty: passes generate their own.
        seed: of all generated data.
        stats: where rules count their attempts.
        notes: facts that the current pass wants in the report (counts, ranges), JSON-like.
    """

    target: Target | None = None
    inputs: Sequence[Mapping[str, Array]] = ()
    seed: int = 0
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("graphopt"))
    stats: RuleStats = field(default_factory=RuleStats)
    notes: dict[str, Any] = field(default_factory=dict)


class Pass(abc.ABC):
    """A step of a pipeline: a frozen dataclass whose fields are its options.

    Every field has a default and is an int, float, bool, str, enum, a tuple of str, or one of
    these or None; its metadata may hold ``help``, and ``min`` and ``max`` of a number. A subclass
    that checks more in ``__post_init__`` raises ValueError and calls this one. The first line of
    the docstring is its summary. Registered by :func:`~graphopt.pipeline.register_pass`, which sets
    :attr:`name`.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect] = Effect.EXACT
    assumes: ClassVar[tuple[Assumes, ...]] = ()
    """What it takes for granted of floats; of a pass made of rules each says so for itself."""

    def __post_init__(self) -> None:
        """Checks the ranges of the options.

        Raises:
            OptionError: a value lies outside.
        """
        for option in options_of(type(self)):
            option.check(getattr(self, option.name))

    @abc.abstractmethod
    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Changes ``rewriter.graph`` in transactions."""

    def assumed(self, rules: Iterable[str] | None = None) -> tuple[Assumes, ...]:
        """What is taken for granted of floats where ``rules`` were applied; None: all there are."""
        return self.assumes

    def __str__(self) -> str:
        parts = []
        for option in options_of(type(self)):
            value = getattr(self, option.name)
            if value != option.default or type(value) is not type(option.default):
                parts.append(f"{option.name}={format_value(value)}")
        return f"{self.name}{{{' '.join(parts)}}}" if parts else self.name


class PatternPass(Pass):
    """A pass that is a list of rules."""

    @abc.abstractmethod
    def rules(self) -> Sequence[Rule]:
        """The rules, tried in this order at each node."""

    def assumed(self, rules: Iterable[str] | None = None) -> tuple[Assumes, ...]:
        """What the rules of these names, or all, take for granted of floats, in the order of :class:`Assumes`."""
        applied = None if rules is None else set(rules)
        found = {
            a
            for rule in self.checked_rules()
            if applied is None or rule.name in applied
            for a in rule.assumes
        }
        return tuple(each for each in Assumes if each in found or each in self.assumes)

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Applies the rules until none matches."""
        apply_rules(rewriter, self.checked_rules(), context.stats)

    def checked_rules(self) -> Sequence[Rule]:
        """The rules.

        Raises:
            PassError: what :meth:`rules` returned are none.
        """
        rules: object = self.rules()
        if not isinstance(rules, list | tuple) or not all(isinstance(rule, Rule) for rule in rules):
            code = type(self).rules.__code__
            raise PassError(
                f"rules() returned {_described(rules)}, not a list of rules ({code.co_filename}:{code.co_firstlineno})",
                hint="return [Rule(...), ...]",
            )
        return rules


def _described(rules: object) -> str:
    kinds = {type(rule).__name__ for rule in rules} if isinstance(rules, list | tuple) else ()
    return f"{type(rules).__name__} of {', '.join(sorted(kinds))}" if kinds else type(rules).__name__
