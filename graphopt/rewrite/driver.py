"""The worklist driver: applies rules until none matches."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Sequence

from graphopt.errors import FAULT_HINT, GraphoptError, PassError, raised_at
from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import EventKind, OutOfFuel, Transaction
from graphopt.rewrite.matcher import Matcher, RuleIndex
from graphopt.rewrite.patterns import Match, Op, depth
from graphopt.rewrite.rule import Refusal, Rule
from graphopt.rewrite.stats import RuleStats

_FEW = 16


def apply_rules(rewriter: Rewriter, rules: Sequence[Rule], stats: RuleStats | None = None) -> int:
    """Applies ``rules`` everywhere until none matches; the number of applications.

    Nodes are visited in program order, those in regions of control flow too, bodies of fused
    nodes not; after an application the nodes near to the change are visited again. At a node, rules
    are tried in the given order.

    Raises:
        PassError: there were more applications than ``rewriter.max_rewrites``, a rule raised something that is not a GraphoptError, or its
            rewrite neither returned a replacement nor changed anything.
        OutOfFuel: the rewriter's fuel is spent.
    """
    driver = _Driver(rewriter, rules, stats or RuleStats())
    rewriter.listeners.append(driver)
    try:
        return driver.run()
    finally:
        rewriter.listeners.remove(driver)


class _Driver:
    def __init__(self, rewriter: Rewriter, rules: Sequence[Rule], stats: RuleStats) -> None:
        self.rewriter = rewriter
        self.stats = stats
        self.index = RuleIndex(rules)
        self.reach = max((depth(root) for rule in rules for root in rule.roots), default=1)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        for rule in rules:
            stats.of(rule.name).source = rule.source

    def run(self) -> int:
        self._add(_visitable(self.rewriter))
        hits = 0
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.erased:
                continue
            rule = self._visit(node)
            if rule is None:
                continue
            hits += 1
            if not node.erased:
                self._add([node])
        return hits

    def committed(self, transaction: Transaction) -> None:
        """Queues what a change may have made to match (rewriter listener)."""
        for event in transaction.events:
            node, value = event.node, event.value
            if node is not None and event.kind is not EventKind.ERASED:
                self._add([node])
                self._add_users(node.outputs, self.reach)
            elif node is not None:
                self._add_users([v for v in node.inputs if v is not None and _few_uses(v)], self.reach)
            elif value is not None and event.kind is EventKind.RETYPED:
                self._add([value.producer] if value.producer else [])
                self._add_users([value], self.reach)
            elif value is not None and _few_uses(value):
                self._add_users([value], self.reach)

    def _add(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self.queued and not node.erased and not (node.parent and node.parent.is_isolated):
                self.queued.add(node)
                self.queue.append(node)

    def _add_users(self, values: Sequence[Value], reach: int) -> None:
        if reach <= 0:
            return
        for value in values:
            for user in value.users:
                if user not in self.queued:
                    self._add([user])
                    self._add_users(user.outputs, reach - 1)

    def _visit(self, node: Node) -> Rule | None:
        for rule, root in self.index.candidates(node):
            count = self.stats.of(rule.name)
            count.attempts += 1
            begin = time.perf_counter()
            try:
                if self._attempt(rule, root, node):
                    count.hits += 1
                    return rule
            except OutOfFuel:
                raise
            except GraphoptError as error:
                if rule.source and rule.source not in error.message:
                    error.message = f"{error.message} ({_line(error, rule)})"
                raise
            except (Exception, SystemExit) as error:
                raise PassError(
                    f'rule "{rule.name}" failed at {node.label}: {type(error).__name__}: {error}'
                    f" ({_line(error, rule)})",
                    hint=FAULT_HINT,
                ) from error
            finally:
                count.seconds += time.perf_counter() - begin
        return None

    def _attempt(self, rule: Rule, root: Op, node: Node) -> bool:
        found = Matcher(root).match(node)
        if found is None:
            return False
        refusal = rule.check(found) if rule.check is not None else None
        if refusal is not None:
            if not isinstance(refusal, Refusal | str):
                raise PassError(
                    f'rule "{rule.name}" matched {node.label}, and its check returned {refusal!r} ({rule.source})',
                    hint="return None to go ahead, or refuse(...) with the reason not to",
                )
            self.stats.of(rule.name).refused(refusal)
            return False
        with self.rewriter.rewrite(rule.name, node) as transaction:
            replacement = rule.rewrite(self.rewriter, found)
            if replacement is not None:
                values = _values(rule, replacement)
                values += [None] * (len(node.outputs) - len(values))
                self.rewriter.replace_node(node, values)
            if not transaction.events:
                raise PassError(
                    f'rule "{rule.name}" matched {node.label}, and its rewrite changed nothing ({rule.source})',
                    hint="return what replaces the root; to leave a match alone, refuse it in check",
                )
            _erase_unused(self.rewriter, found)
        return True


def _line(error: BaseException, rule: Rule) -> str:
    """File and line of a fault in a rule: in its file, else where its rewrite begins."""
    file = rule.source.rpartition(":")[0]
    found = raised_at(error, file)
    return found if not file or found.startswith(f"{file}:") else rule.source


def _values(rule: Rule, replacement: Value | Sequence[Value | None]) -> list[Value | None]:
    values = [replacement] if isinstance(replacement, Value) else replacement
    if not isinstance(values, list | tuple) or not all(v is None or isinstance(v, Value) for v in values):
        raise PassError(
            f'the rewrite of rule "{rule.name}" returned {type(replacement).__name__} ({rule.source})',
            hint="return a value, such as rewriter.create(...).output, or a list of values",
        )
    return list(values)


def _few_uses(value: Value) -> bool:
    """Whether losing one user can have made ``value`` fit inside a pattern, where all its users must lie."""
    return value.producer is not None and value.num_uses <= _FEW


def _visitable(rewriter: Rewriter) -> list[Node]:
    return [n for n in rewriter.graph.walk() if n.parent is not None and not n.parent.is_isolated]


def _erase_unused(rewriter: Rewriter, match: Match) -> None:
    """Erases matched nodes that lost their users, and constants that only erased nodes used."""
    # Against program order, whichever way the pattern was walked: users go before what they use.
    for node in sorted(match.interior, key=functools.cmp_to_key(_against_program_order)):
        if not node.erased and not any(output.num_uses for output in node.outputs):
            rewriter.erase(node)
    erased = [node for node in (match.root, *match.interior) if node.erased]
    for value in dict.fromkeys(value for node in erased for value in node.inputs):
        # The rewrite itself may have erased it already.
        if value is not None and rewriter.graph.constants.get(value.name) is value and not value.num_uses:
            rewriter.erase_constant(value)


def _against_program_order(a: Node, b: Node) -> int:
    return 1 if a.is_before(b) else -1
