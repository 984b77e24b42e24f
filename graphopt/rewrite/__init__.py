"""Pattern rewriting: declare a pattern, a check that may refuse with a reason, and a rewrite."""

from graphopt.rewrite.driver import apply_rules
from graphopt.rewrite.matcher import match_at
from graphopt.rewrite.patterns import Match, const, one_of, op, opt, var
from graphopt.rewrite.rule import Assumes, Refusal, Rule, refuse
from graphopt.rewrite.stats import RuleStats

__all__ = [
    "Assumes",
    "Match",
    "Refusal",
    "Rule",
    "RuleStats",
    "apply_rules",
    "const",
    "match_at",
    "one_of",
    "op",
    "opt",
    "refuse",
    "var",
]
