"""Which item of the one graph is which of the other.

An item is known by two keys. The forward key says how it is computed: its label and the keys of its
operands; the backward key says what it is for: its label and the keys of its users. Keys end at items
that are matched already, which stand for themselves. So what lies before a change is found by forward keys,
what lies after it by backward keys, and the next round starts from there: no change hides what is
beyond it. (Weisfeiler and Lehman's refinement, in the two directions of a directed acyclic graph.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from graphopt.diff.ambiguous import resolve
from graphopt.diff.flat import Flat, Item, Kind, Link, Port
from graphopt.diff.labels import Grade, Labels
from graphopt.ir.graph import Node

Keys = Sequence[int]


class Matching:
    """Pairs of items of two graphs.

    Attributes:
        partner: for each side the partner's index of each item, -1 where there is none.
        of_region: partners of nodes of the first graph that are fused regions.
    """

    def __init__(self, a: Flat, b: Flat, labels: Labels, *, forward_first: bool = True) -> None:
        self.sides = (a, b)
        self.labels = labels
        self._forward_first = forward_first
        self.partner: tuple[list[int], list[int]] = ([-1] * len(a.items), [-1] * len(b.items))
        self.of_region: dict[Node, Node] = {}
        self._transparent: tuple[set[int], set[int]] = (set(), set())

    def item(self, side: int, index: int) -> Item:
        return self.sides[side].items[index]

    def free(self, side: int) -> list[int]:
        """The items without a partner, in order."""
        return [index for index, partner in enumerate(self.partner[side]) if partner < 0]

    def pair(self, i: int, j: int) -> None:
        """Makes partners of two items, and of the parameters of their bodies."""
        self.partner[0][i], self.partner[1][j] = j, i
        x, y = self.item(0, i), self.item(1, j)
        if x.kind is Kind.NODE and x.owner is not None and y.owner is not None and x.owner.regions:
            others = {(p.attr, p.slot): p for p in self.sides[1].params.get(y.owner, ())}
            for param in self.sides[0].params.get(x.owner, ()):
                other = others.get((param.attr, param.slot))
                if other is not None and self.partner[0][param.index] == self.partner[1][other.index] == -1:
                    self.partner[0][param.index], self.partner[1][other.index] = other.index, param.index

    def settle(self, grade: Grade) -> None:
        """Matches all that keys of this grade can tell, and what is alike in every way."""
        while not self.is_done and (self._unique(grade) or self._alike(grade)):
            pass

    @property
    def is_done(self) -> bool:
        """Whether one of the graphs has no item left without a partner."""
        return any(-1 not in partner for partner in self.partner)

    def keys(self, side: int, grade: Grade) -> tuple[Keys, Keys]:
        """Forward and backward keys of the items without a partner; 0 for the others."""
        items, partner = self.sides[side].items, self.partner[side]
        transparent = self._transparent[side]
        labels, intern = self.labels.at(side, grade), self.labels.intern
        # What stands for an item in the keys of its neighbours: the pair that it belongs to, or its key.
        pairs = partner if side == 0 else range(len(items))
        forward, backward = [0] * len(items), [0] * len(items)
        ahead = [~pairs[i] if partner[i] >= 0 else 0 for i in range(len(items))]
        behind = list(ahead)
        free = [index for index, other in enumerate(partner) if other < 0]
        for index in free:
            key: list[object] = [labels[index]]
            for operand in items[index].operands:
                if operand.__class__ is Port:
                    if transparent:
                        operand = self._behind(side, operand)
                    key += (ahead[operand.item], operand.out)
                else:
                    key.append((self.labels.operand(operand, grade),))
            forward[index] = ahead[index] = intern(tuple(key))
        for index in reversed(free):
            links = [(out, behind[user], slot) for out, user, slot in self._links(side, index)]
            links.sort()
            backward[index] = behind[index] = intern((labels[index], tuple(links)))
        return forward, backward

    def see_through(self, grade: Grade) -> bool:
        """From now on, looks through nodes whose operator no other node has that is left on the other side:
        they can't be matched, so what is around them may be. Whether there are any that were not so before."""
        if grade < Grade.WEIGHTLESS:
            return False
        operators = [
            {self.labels.parts[side][i].operator for i in self.free(side) if self._is_node(side, i)}
            for side in (0, 1)
        ]
        found = False
        for side in (0, 1):
            alone = {
                i
                for i in self.free(side)
                if self._is_node(side, i)
                and self.labels.parts[side][i].operator not in operators[1 - side]
                and any(isinstance(p, Port) for p in self.item(side, i).operands)
            }
            found = found or not alone <= self._transparent[side]
            self._transparent[side].update(alone)
        return found

    def _is_node(self, side: int, index: int) -> bool:
        return self.item(side, index).kind is Kind.NODE

    def _behind(self, side: int, port: Port) -> Port:
        """What a port is when nodes that are looked through are left out: their first operand."""
        while port.item in self._transparent[side]:
            port = next(p for p in self.item(side, port.item).operands if isinstance(p, Port))
        return port

    def _links(self, side: int, index: int) -> Sequence[Link]:
        """The uses of an item, past nodes that are looked through."""
        links = self.item(side, index).links
        transparent = self._transparent[side]
        if not transparent or not any(link.user in transparent for link in links):
            return links
        found, pending = [], [(link.out, link) for link in links]
        while pending:
            out, link = pending.pop()
            if link.user not in transparent:
                found.append(Link(out, link.user, link.slot))
                continue
            operands = self.item(side, link.user).operands
            if next(slot for slot, p in enumerate(operands) if isinstance(p, Port)) == link.slot:
                pending += [(out, further) for further in self.item(side, link.user).links]
        return found

    def _unique(self, grade: Grade) -> bool:
        """Matches items whose keys are unique on both sides: both keys, else one of them."""
        (forward_a, backward_a), (forward_b, backward_b) = self.keys(0, grade), self.keys(1, grade)
        both_a = list(zip(forward_a, backward_a, strict=True))
        both_b = list(zip(forward_b, backward_b, strict=True))
        found = self.match_unique(both_a, both_b)
        if found:
            return True  # Keys from the new pairs say more than one of these alone.
        ways = [(forward_a, forward_b), (backward_a, backward_b)]
        for keys_a, keys_b in ways if self._forward_first else ways[::-1]:
            found = self.match_unique(keys_a, keys_b) or found
        return found

    def match_unique(
        self,
        keys_a: Sequence[object],
        keys_b: Sequence[object],
        admits: Callable[[int, int], bool] | None = None,
    ) -> bool:
        """Matches the items without a partner whose key no other such item of their graph has, operands before
        their users.

        Args:
            admits: asked of each pair when those before it have been made.
        """
        singles = self._singles(0, keys_a)
        others = self._singles(1, keys_b)
        found = False
        for key, i in singles.items():
            j = others.get(key)
            # A node with bodies that was matched just now has taken its parameters with it.
            if j is None or not self.partner[0][i] == self.partner[1][j] == -1:
                continue
            if admits is None or admits(i, j):
                self.pair(i, j)
                found = True
        return found

    def _singles(self, side: int, keys: Sequence[object]) -> dict[object, int]:
        seen: dict[object, int] = {}
        twice: set[object] = set()
        for index in self.free(side):
            key = keys[index]
            if key in seen:
                twice.add(key)
            seen[key] = index
        return {key: index for key, index in seen.items() if key not in twice}

    def _alike(self, grade: Grade) -> bool:
        """Matches items that several others equal in both keys."""
        keys = [list(zip(*self.keys(side, grade), strict=True)) for side in (0, 1)]
        found = resolve(self.sides, (self.free(0), self.free(1)), keys, self._place)
        return self.match_all(found)

    def _place(self, side: int, item: Item) -> object:
        """In which bodies an item stands: a pair of nodes where they are matched, else the body's name."""
        path: list[object] = []
        region = item.region
        while region.parent is not None:
            holder = self.sides[side].of_node.get(region.parent)
            pair = -1
            if holder is not None:
                pair = self.partner[0][holder.index] if side == 0 else holder.index
                pair = pair if self.partner[side][holder.index] >= 0 else -1
            path.append((pair, next(n for n, r in region.parent.regions.items() if r is region)))
            assert region.parent.parent is not None
            region = region.parent.parent
        return tuple(path)

    def _body(self, side: int, item: Item) -> object:
        """The body that an item stands in, fused regions seen through; None for that of the graph."""
        region = item.region
        while region.parent is not None and region.parent.is_fused and region.parent.parent is not None:
            region = region.parent.parent
        if region.parent is None:
            return None
        holder = self.sides[side].of_node[region.parent].index
        attr = next(name for name, body in region.parent.regions.items() if body is region)
        return (self.partner[0][holder] if side == 0 else holder), attr

    def match_all(self, pairs: Iterable[tuple[int, int]]) -> bool:
        """Matches pairs as far as both are still without a partner."""
        found = False
        for i, j in pairs:
            if self.partner[0][i] == self.partner[1][j] == -1:
                self.pair(i, j)
                found = True
        return found

    @property
    def cost(self) -> int:
        """How much is left to report: items without a partner, then labels, bodies and edges that disagree."""
        cost = 2 * (len(self.free(0)) + len(self.free(1)))
        for i, j in enumerate(self.partner[0]):
            if j < 0:
                continue
            a, b = self.labels.parts[0][i], self.labels.parts[1][j]
            cost += (a.operator != b.operator) + (a.attrs != b.attrs) + (a.constants != b.constants)
            cost += self._body(0, self.item(0, i)) != self._body(1, self.item(1, j))
            for p, q in zip(self.item(0, i).operands, self.item(1, j).operands, strict=False):
                if isinstance(p, Port) and isinstance(q, Port):
                    known = self.partner[0][p.item] >= 0 and self.partner[1][q.item] >= 0
                    cost += known and (self.partner[0][p.item], p.out) != tuple(q)
                else:
                    cost += isinstance(p, Port) != isinstance(q, Port)
        return cost
