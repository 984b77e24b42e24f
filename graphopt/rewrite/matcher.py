"""Finds the rules that match at a node.

Rules are indexed by root operator, and narrowed by the *heads* of the node's inputs (which
operators compute them): the answer for each combination of heads is remembered, so that a node
where nothing can match costs one dictionary look-up however many rules there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.ir.graph import Node, Region, Value
from graphopt.rewrite.patterns import (
    ABSENT,
    CONST,
    INPUT,
    Const,
    Heads,
    Match,
    OneOf,
    Op,
    Opt,
    Output,
    ValuePattern,
    Var,
)
from graphopt.rewrite.rule import Rule

Candidates = tuple[tuple[Rule, Op], ...]


class RuleIndex:
    """The rules of a pass, indexed."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_op: dict[str, list[tuple[Rule, Op]]] = {}
        for rule in self.rules:
            for root in rule.roots:
                for name in sorted(root.ops):
                    self._by_op.setdefault(name, []).append((rule, root))
        self._width = {
            name: 1 + max(len(root.inputs) for _, root in rules) for name, rules in self._by_op.items()
        }
        self._memo: dict[tuple[str, ...], Candidates] = {}

    def candidates(self, node: Node) -> Candidates:
        """Rules whose root and its inputs' operators fit ``node``, in the order of the rules."""
        name = node.op if not node.domain else node.op_type
        width = self._width.get(name)
        if width is None:
            return ()
        key = (name, *[_head(value) for value in node.inputs[:width]])
        found = self._memo.get(key)
        if found is None:
            found = tuple((rule, root) for rule, root in self._by_op[name] if _possible(root, key[1:]))
            self._memo[key] = found
        return found


def _head(value: Value | None) -> str:
    if value is None:
        return ABSENT
    owner = value.owner
    if owner.__class__ is Node:
        return owner.op_type if owner.domain else owner.op
    return CONST if owner is None else INPUT


def _accepts(heads: Heads, head: str) -> bool:
    return head != ABSENT if heads is None else head in heads


def _possible(root: Op, heads: tuple[str, ...]) -> bool:
    if len(heads) > len(root.inputs) and not root.more_inputs:
        return False
    padded = heads + (ABSENT,) * (len(root.inputs) - len(heads))
    for order in _orders(root):
        pairs = zip(order, padded, strict=False)  # `...` allows more inputs
        if all((isinstance(p, Opt) and h == ABSENT) or _accepts(p.heads, h) for p, h in pairs):
            return True
    return False


def _orders(pattern: Op) -> Iterator[tuple[ValuePattern, ...]]:
    yield pattern.inputs
    if pattern.commutative:
        yield pattern.inputs[::-1]


_Goals = tuple[tuple[ValuePattern, "Value | None"], "_Goals"] | None


class Matcher:
    """Tries one pattern at one node; :attr:`failure` says where the last attempt went wrong."""

    def __init__(self, pattern: Op) -> None:
        self.pattern = pattern
        self.failure: tuple[object, ...] = ()
        self._values: dict[str, Value] = {}
        self._nodes: dict[Op, Node] = {}
        self._trail: list[tuple[dict[object, object], object]] = []
        self._root: Node | None = None

    def match(self, node: Node) -> Match | None:
        """The first way in which the pattern matches with its root at ``node``, None if there is none."""
        self._root = node
        if not self._solve_node(self.pattern, node, None):
            return None
        named = {p.name: n for p, n in self._nodes.items() if p.name}
        interior = [n for p, n in self._nodes.items() if n is not node and not p.shared]
        return Match(node, dict(self._values), named, interior)

    def explain(self) -> str:
        """Why the last attempt failed."""
        template, *args = self.failure or ("",)
        return str(template).format(*args)

    def _fail(self, template: str, *args: object) -> bool:
        self.failure = (template, *args)
        return False

    def _solve(self, goals: _Goals) -> bool:
        if goals is None:
            return self._no_other_users()
        (pattern, value), rest = goals
        match pattern:
            case Opt():
                return self._solve(rest) if value is None else self._solve(((pattern.pattern, value), rest))
            case OneOf():
                return any(self._try(((choice, value), rest)) for choice in pattern.alternatives)
        if value is None:
            return self._fail("an input of {} is absent", pattern)
        match pattern:
            case Var() | Const():
                return self._accept(pattern, value) and self._bind(pattern.name, value) and self._solve(rest)
            case Op():
                return self._solve_output(pattern, 0, value, rest)
            case Output():
                return self._solve_output(pattern.op, pattern.index, value, rest)
        raise TypeError(f"not a pattern: {pattern!r}")

    def _try(self, goals: _Goals) -> bool:
        mark = len(self._trail)
        if self._solve(goals):
            return True
        while len(self._trail) > mark:
            table, key = self._trail.pop()
            del table[key]
        return False

    def _accept(self, pattern: Var | Const, value: Value) -> bool:
        if isinstance(pattern, Const):
            if not value.is_constant:
                return self._fail("{!r} is not a constant", value)
            if pattern.value is not None and not _all_equal(value, pattern.value):
                return self._fail("{!r} is not {} everywhere", value, pattern.value)
        if pattern.where is not None and not pattern.where(value):
            return self._fail("{!r} does not satisfy the condition of {}", value, pattern.name)
        return True

    def _bind(self, name: str, value: Value) -> bool:
        if not name:
            return True
        bound = self._values.get(name)
        if bound is None:
            self._values[name] = value
            self._trail.append((self._values, name))  # type: ignore[arg-type]
            return True
        return bound is value or self._fail("{} is {!r} and {!r}", name, bound, value)

    def _solve_output(self, pattern: Op, index: int, value: Value, rest: _Goals) -> bool:
        node = value.producer
        if node is None:
            return self._fail("{!r} is not computed by {}", value, "/".join(sorted(pattern.ops)))
        if value.index != index:
            return self._fail("{!r} is output {} of {}, not {}", value, value.index, node, index)
        return self._solve_node(pattern, node, rest)

    def _solve_node(self, pattern: Op, node: Node, rest: _Goals) -> bool:
        bound = self._nodes.get(pattern)
        if bound is not None:
            return self._solve(rest) if bound is node else self._fail("{!r} and {!r} differ", bound, node)
        if not self._fits(pattern, node):
            return False
        self._nodes[pattern] = node
        self._trail.append((self._nodes, pattern))  # type: ignore[arg-type]
        padded = [*node.inputs, *[None] * (len(pattern.inputs) - len(node.inputs))]
        for order in _orders(pattern):
            goals = rest
            for goal in reversed(list(zip(order, padded, strict=False))):
                goals = (goal, goals)
            if self._try(goals):
                return True
        return False

    def _fits(self, pattern: Op, node: Node) -> bool:
        if node.op_type not in pattern.ops:
            return self._fail("{!r} is not {}", node, "/".join(sorted(pattern.ops)))
        assert self._root is not None
        if node.parent is not self._root.parent:
            return self._fail("{!r} lies in another region", node)
        if len(node.inputs) > len(pattern.inputs) and not pattern.more_inputs:
            return self._fail("{!r} has {} inputs", node, len(node.inputs))
        for name, expected in pattern.attrs.items():
            actual = node.attrs.get(name)
            if not (expected(actual) if callable(expected) else actual == expected):
                return self._fail("attribute {} of {!r} is {!r}", name, node, actual)
        if pattern.where is not None and not pattern.where(node):
            return self._fail("{!r} does not satisfy the pattern's condition", node)
        return True

    def _no_other_users(self) -> bool:
        inside = set(self._nodes.values())
        for pattern, node in self._nodes.items():
            if node is self._root or pattern.shared:
                continue
            for output in node.outputs:
                for use in output._uses:
                    if isinstance(use.user, Region):
                        return self._fail("{!r} is an output of its region", output)
                    if use.user not in inside:
                        return self._fail("{!r} is also used by {!r}", output, use.user)
        return True


def _all_equal(value: Value, number: float) -> bool:
    assert value.const is not None
    if value.const.dtype.bits == 0 or value.const.size == 0 or value.const.size > 1 << 20:
        return False
    return bool(np.all(value.const.numpy() == number))


def match_at(rule: Rule, node: Node) -> tuple[Match | None, str]:
    """The match of ``rule`` at ``node``, or None and the reason; for tests and for `why not?`."""
    reason = ""
    for root in rule.roots:
        matcher = Matcher(root)
        found = matcher.match(node)
        if found is None:
            reason = matcher.explain()
            continue
        refusal = rule.check(found) if rule.check else None
        return (found, "") if refusal is None else (None, str(refusal))
    return None, reason
