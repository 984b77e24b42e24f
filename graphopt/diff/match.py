"""Matches two graphs: from what is equal in every way to what only stands at the same place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from graphopt.diff.alignment import SHORTEST, align
from graphopt.diff.flat import Flat, Item, Kind, Port
from graphopt.diff.growth import grow
from graphopt.diff.labels import Grade, Labels
from graphopt.diff.matching import Matching
from graphopt.ir.graph import Node, Region, Value

_MANY = 2
"""Elements from which a constant can tell its user from others."""
_MOST_ROUNDS = 32
"""Times that new pairs may tell apart what stood at places alike before; a round takes time for the whole graph."""


def match(a: Flat, b: Flat, labels: Labels, *, names: bool) -> Matching:
    """The matching of two graphs.

    Args:
        names: inputs and outputs of the graphs are matched by name, else by position.
    """
    best = _attempt(Matching(a, b, labels), names)
    if best.cost:
        # Where what comes before a node speaks for one partner and what comes after it for another, either may
        # give the shorter story.
        other = _attempt(Matching(a, b, labels, forward_first=False), names)
        best = min(best, other, key=lambda matching: matching.cost)
    _match_regions(best)
    return best


def _attempt(matching: Matching, names: bool) -> Matching:
    """Matches all items, the surest first."""
    _match_ends(matching, names)
    for grade in (Grade.EXACT, Grade.UNTYPED, Grade.WEIGHTLESS, Grade.OPERATOR):
        matching.settle(grade)
        while not matching.is_done and (
            _anchor(matching, grade) or matching.see_through(grade) or grow(matching, grade)
        ):
            matching.settle(grade)
    for shortest in (SHORTEST, 1):
        while not matching.is_done and align(matching, shortest):
            matching.settle(Grade.OPERATOR)
            grow(matching, Grade.OPERATOR)
        _match_places(matching)
    _match_leftover_ends(matching)
    return matching


def _match_ends(matching: Matching, names: bool) -> None:
    a, b = matching.sides
    keys: list[tuple[Sequence[object], Sequence[object], list[Item], list[Item]]] = [
        ([v.name for v in a.graph.inputs], [v.name for v in b.graph.inputs], a.inputs, b.inputs),
        (a.graph.output_names, b.graph.output_names, a.outputs, b.outputs),
    ]
    for names_a, names_b, items_a, items_b in keys:
        if not names:
            names_a, names_b = range(len(items_a)), range(len(items_b))
        others = dict(zip(names_b, items_b, strict=False))
        for name, item in zip(names_a, items_a, strict=False):
            if name in others:
                matching.pair(item.index, others.pop(name).index)


def _match_leftover_ends(matching: Matching) -> None:
    """Inputs and outputs that lost their names and have no other likeness go by their position."""
    for kind in (Kind.INPUT, Kind.OUTPUT):
        left, right = (
            [i for i in matching.free(side) if matching.item(side, i).kind is kind] for side in (0, 1)
        )
        if len(left) == len(right):
            matching.match_all(zip(left, right, strict=True))


def _anchor(matching: Matching, grade: Grade) -> bool:
    """Matches items that are unique by themselves and their neighbours, or by the data of their weights."""
    if grade > Grade.UNTYPED:
        return False
    around: list[list[object]] = []
    weights: list[list[object]] = []
    for side in (0, 1):
        labels = matching.labels.at(side, grade)
        items = matching.sides[side].items
        keys: list[object] = [("free", side, index) for index in range(len(items))]
        data: list[object] = list(keys)
        for index in matching.free(side):
            item = items[index]
            if item.kind is not Kind.NODE:
                continue
            before = tuple(labels[p.item] if isinstance(p, Port) else 0 for p in item.operands)
            after = tuple(sorted((out, labels[user], slot) for out, user, slot in item.links))
            if any(before) and after:
                keys[index] = (labels[index], before, after)
            if any(isinstance(p, Value) and p.const and p.const.size >= _MANY for p in item.operands):
                data[index] = labels[index]
        around.append(keys)
        weights.append(data)
    found = matching.match_unique(around[0], around[1])
    return matching.match_unique(weights[0], weights[1]) or found


def _match_places(matching: Matching) -> None:
    """Matches nodes that differ even in their operator, but stand between the same neighbours."""

    def stands(side: int, index: int) -> bool:
        item, partner = matching.item(side, index), matching.partner[side]
        return (
            item.kind is Kind.NODE
            and bool(item.links)
            and any(isinstance(p, Port) and partner[p.item] >= 0 for p in item.operands)
        )

    def admits(i: int, j: int) -> bool:
        return stands(0, i) and stands(1, j)

    for _ in range(_MOST_ROUNDS):
        if matching.is_done:
            return
        both = [list(zip(*matching.keys(side, Grade.PLACE), strict=True)) for side in (0, 1)]
        if not matching.match_unique(both[0], both[1], admits):
            return


def _match_regions(matching: Matching) -> None:
    """Matches fused regions by the nodes that they share, the most first."""
    shared: Counter[tuple[Node, Node]] = Counter()
    for i, j in enumerate(matching.partner[0]):
        if j >= 0 and matching.item(0, i).kind is Kind.NODE:
            ours, theirs = _holders(matching.item(0, i).region), _holders(matching.item(1, j).region)
            shared.update((x, y) for depth, x in ours.items() for y in [theirs.get(depth)] if y is not None)
    taken: set[Node] = set()
    for (x, y), _ in shared.most_common():
        if x not in matching.of_region and y not in taken:
            matching.of_region[x] = y
            taken.add(y)
    _match_empty_regions(matching, taken)


def _holders(region: Region) -> dict[int, Node]:
    """The fused regions around, by how many other bodies lie between."""
    found: dict[int, Node] = {}
    depth = 0
    parent: Node | None = region.parent
    while parent is not None and parent.parent is not None:
        if parent.is_fused:
            found[depth] = parent
        depth += 1
        parent = parent.parent.parent
    return found


def _match_empty_regions(matching: Matching, taken: set[Node]) -> None:
    """Regions that hold nothing that was matched: by what they read, in order."""
    others: dict[object, list[Node]] = defaultdict(list)
    for node in matching.sides[1].fused:
        if node not in taken:
            others[_reads(matching, 1, node)].append(node)
    for node in matching.sides[0].fused:
        if node not in matching.of_region and len(node.body) == 0:
            alike = others[_reads(matching, 0, node)]
            if alike and len(alike[0].body) == 0:
                matching.of_region[node] = alike.pop(0)


def _reads(matching: Matching, side: int, node: Node) -> object:
    """What a fused region reads, as pairs."""
    found: list[object] = []
    for value in node.inputs:
        source = value if value is None or value.is_constant else matching.sides[side].source.get(value)
        if isinstance(source, Port):
            pair = matching.partner[0][source.item] if side == 0 else source.item
            found.append((pair, source.out))
        else:
            found.append(None if source is None else matching.labels.constant(source))
    return tuple(found)
