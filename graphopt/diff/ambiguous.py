"""Items that keys can't tell apart: duplicates, and parts of a graph that are symmetric.

They fall into components, which hang together only by what is matched already. Components that look
alike are interchangeable; inside one, networkx finds which item is which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

from graphopt.diff.flat import Flat, Item, Port

_ROUNDS = 4
"""Refinements of colours; keys have seen all that lies before and after an item already."""
_SMALL = 24
"""Items of a component that is searched for an isomorphism; in a larger one a single pair is fixed."""

_LARGE = 400
"""Items of a component above which all of one colour are fixed at once, so that time stays bounded."""

Place = Callable[[int, Item], object]
Colours = dict[int, int]


def resolve(
    sides: tuple[Flat, Flat],
    free: tuple[list[int], list[int]],
    keys: Sequence[Sequence[Hashable]],
    place: Place,
) -> list[tuple[int, int]]:
    """Pairs of items that equal each other in their keys, where several do.

    Args:
        free: the items without a partner.
        keys: both keys of all items.
        place: the bodies that an item stands in.
    """
    shared = {keys[0][i] for i in free[0]} & {keys[1][j] for j in free[1]}
    if not shared:
        return []
    numbers: dict[Hashable, int] = {}
    colours = [
        {i: _number(numbers, (keys[side][i], place(side, sides[side].items[i]))) for i in free[side]}
        for side in (0, 1)
    ]
    for side in (0, 1):
        colours[side] = {i: c for i, c in colours[side].items() if keys[side][i] in shared}
    for _ in range(_ROUNDS):
        before = len(set(colours[0].values()))
        colours = [_refined(sides[side], colours[side], numbers) for side in (0, 1)]
        if len(set(colours[0].values())) == before:
            break
    groups = [_by_signature(sides[side], colours[side]) for side in (0, 1)]
    found: list[tuple[int, int]] = []
    for signature, components in groups[0].items():
        for one, other in zip(components, groups[1].get(signature, ()), strict=False):
            found += _inside(sides, one, other, colours)
    return found


def _number(numbers: dict[Hashable, int], thing: Hashable) -> int:
    return numbers.setdefault(thing, len(numbers))


def _neighbours(item: Item) -> Iterator[tuple[int, int, int, bool]]:
    """Index, output, slot and direction of all that an item is linked to."""
    for slot, operand in enumerate(item.operands):
        if isinstance(operand, Port):
            yield operand.item, operand.out, slot, False
    for out, user, slot in item.links:
        yield user, out, slot, True


def _refined(flat: Flat, colours: Colours, numbers: dict[Hashable, int]) -> Colours:
    return {
        index: _number(
            numbers,
            (
                colour,
                tuple(
                    sorted(
                        (out, slot, ahead, colours[other])
                        for other, out, slot, ahead in _neighbours(flat.items[index])
                        if other in colours
                    )
                ),
            ),
        )
        for index, colour in colours.items()
    }


def _by_signature(flat: Flat, colours: Colours) -> dict[tuple[int, ...], list[list[int]]]:
    """Connected components by the colours in them."""
    groups: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    seen: set[int] = set()
    for start in colours:
        if start in seen:
            continue
        seen.add(start)
        component, pending = [], [start]
        while pending:
            index = pending.pop()
            component.append(index)
            for other, *_ in _neighbours(flat.items[index]):
                if other in colours and other not in seen:
                    seen.add(other)
                    pending.append(other)
        component.sort()
        groups[tuple(sorted(colours[index] for index in component))].append(component)
    return groups


def _inside(
    sides: tuple[Flat, Flat], one: list[int], other: list[int], colours: Sequence[Colours]
) -> list[tuple[int, int]]:
    """Pairs of two components with the same colours."""
    by_colour = {colours[1][j]: j for j in other}
    if len(by_colour) == len(other):
        return [(i, by_colour[colours[0][i]]) for i in one]
    if len(one) <= _SMALL:
        mapping = _isomorphism(sides, one, other, colours)
        if mapping is not None:
            return mapping
    counts: dict[int, int] = defaultdict(int)
    for i in one:
        counts[colours[0][i]] += 1
    first = next(i for i in one if counts[colours[0][i]] > 1)
    colour = colours[0][first]
    if len(one) <= _LARGE:
        return [(first, by_colour[colour])]
    ours, theirs = (
        [i for i in part if of[i] == colour] for part, of in zip((one, other), colours, strict=True)
    )
    return list(zip(ours, theirs, strict=True))


def _isomorphism(
    sides: tuple[Flat, Flat], one: list[int], other: list[int], colours: Sequence[Colours]
) -> list[tuple[int, int]] | None:
    """Which item is which by VF2 (Cordella et al., 2004); None where the components differ."""
    import networkx as nx

    def drawn(side: int, component: list[int]) -> nx.DiGraph:
        graph = nx.DiGraph()
        inside = set(component)
        for index in component:
            graph.add_node(index, colour=colours[side][index])
        for index in component:
            edges: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for out, user, slot in sides[side].items[index].links:
                if user in inside:
                    edges[user].append((out, slot))
            for user, slots in edges.items():
                graph.add_edge(index, user, slots=sorted(slots))
        return graph

    matcher = nx.algorithms.isomorphism.DiGraphMatcher(
        drawn(0, one),
        drawn(1, other),
        node_match=lambda x, y: x["colour"] == y["colour"],
        edge_match=lambda x, y: x["slots"] == y["slots"],
    )
    return sorted(matcher.mapping.items()) if matcher.is_isomorphic() else None
