"""From a pass that changed numbers to the one rewrite that did it, and a small graph that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphopt.errors import GraphoptError, PassError
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph, Node
from graphopt.ir.printer import Printer
from graphopt.ir.transaction import EventKind, Transaction
from graphopt.verify.check import Checker, Mismatch
from graphopt.verify.fault import NumericFault, Reproducer, Rewrite
from graphopt.verify.reduce import reduced
from graphopt.verify.tolerance import Effect

Replay = Callable[[Graph, int | None], list[Transaction]]
"""replay(graph, fuel) runs the pass on a graph, in place, and gives the transactions that it committed;
PassError where it does not come to its end, whatever it raised."""
_LINES = 8
_WIDTH = 180
CAN_NOT_RUN = "the graph ran before this pass and does not run after it"


@dataclass(frozen=True)
class Trial:
    """A part of a pass, replayed on a copy of the graph before it."""

    graph: Graph
    transactions: list[Transaction]
    reason: str
    mismatches: tuple[Mismatch, ...] = ()


def first_bad(count: int, is_bad: Callable[[int], bool]) -> int:
    """The least ``n`` from 1 to ``count`` for which ``is_bad(n)``, if every larger one is bad too;
    ``is_bad(count)`` is taken for granted."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_bad(middle) else (middle, high)
    return high


def locate(
    before: Graph,
    replay: Replay,
    checker: Checker,
    effect: Effect,
    *,
    count: int,
    mismatches: Sequence[Mismatch],
    reason: str,
    pipeline: str,
    options: Sequence[str] = (),
) -> NumericFault:
    """The error to raise for a pass that made ``count`` rewrites and a fault.

    Args:
        before: the graph before the pass; it does not change.
        checker: has its values.
        mismatches: what differed after the pass; none when it could not be run, which is then tried.
        reason: what is wrong, in words.
        pipeline: text of the pass alone.
        options: what the command line needs besides to run it.
    """

    def trial(fuel: int) -> Trial:
        return attempt(copy_graph(before), replay, checker, effect, fuel)

    guilty = first_bad(count, lambda fuel: bool(trial(fuel).reason))
    found = trial(guilty)
    if not found.reason or not found.transactions:
        return NumericFault(reason, mismatches=tuple(mismatches))
    good = trial(guilty - 1).graph
    rewrite = described(found.transactions[-1], good)
    reproducer = None
    small = reduced(
        good, found.transactions[-1], found.mismatches, checker, lambda g: fails(g, replay, effect)
    )
    if small is not None:
        reproducer = Reproducer(*small, pipeline, tuple(options))
    return NumericFault(found.reason, mismatches=found.mismatches, rewrite=rewrite, reproducer=reproducer)


def attempt(graph: Graph, replay: Replay, checker: Checker, effect: Effect, fuel: int | None) -> Trial:
    """Replays a pass on ``graph``, in place, and compares; a pass that fails in another way shows nothing."""
    ids = checker.number(graph)
    outputs = [ids[value] for value in graph.outputs]
    try:
        transactions = replay(graph, fuel)
    except PassError:
        return Trial(graph, [], "")
    try:
        outcome = checker.compare(graph, ids, outputs, transactions, effect)
    except GraphoptError as error:
        return Trial(graph, transactions, f"{CAN_NOT_RUN}: {error.message}")
    found = tuple(outcome.mismatches)
    return Trial(graph, transactions, str(found[0]) if found else "", found)


def fails(sample: tuple[Graph, dict[str, object]], replay: Replay, effect: Effect) -> bool:
    """Whether the pass goes wrong on a graph, alone, with these inputs."""
    graph, inputs = sample
    try:
        checker = Checker(graph, [inputs])
    except GraphoptError:
        return False
    return bool(attempt(graph, replay, checker, effect, None).reason)


def described(transaction: Transaction, good: Graph) -> Rewrite:
    """What a transaction did, in ``.gir`` text; ``good`` is a graph on which it was not done."""
    events = transaction.events
    changed = [e.node for e in events if e.kind is EventKind.CHANGED and e.node is not None]
    erased = [e.node for e in events if e.kind is EventKind.ERASED and e.node is not None]
    made = [
        e.node for e in events if e.kind is EventKind.INSERTED and e.node is not None and not e.node.erased
    ]
    root = transaction.root
    # Users of a replaced value count as changed, which says little of what was done.
    mine = [node for node in changed if node is root or not (made or erased)]
    old = [name for node in (*erased, *mine) for name in _names(node)]
    was = dict.fromkeys(
        value.producer
        for name in old
        if good.has_value(name) and (value := good.value(name)).producer is not None
    )
    return Rewrite(
        transaction.index,
        transaction.rule,
        root.label if root is not None else "",
        _lines(node for node in was if node is not None),
        _lines(dict.fromkeys(node for node in (*made, *mine) if not node.erased)),
    )


def _names(node: Node) -> list[str]:
    return [value.name for value in node.outputs]


def _lines(nodes: Iterable[Node]) -> tuple[str, ...]:
    printer = Printer(None, lenient=True)
    for node in nodes:
        printer.node(node, 0)
    lines = [line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in printer.lines]
    more = len(lines) - _LINES
    return tuple(lines) if more <= 1 else (*lines[:_LINES], f"... and {more} more lines")
