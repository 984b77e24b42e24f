"""What differs between two graphs whose nodes were matched."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.diff.changes import Change, Distance, Move, NodeChange, Rewired
from graphopt.diff.describe import attribute_text, constant_text, value_text
from graphopt.diff.distance import distance
from graphopt.diff.flat import Flat, Item, Kind, Operand, Port
from graphopt.diff.labels import STRUCTURAL, Labels, attributes, is_tolerant
from graphopt.diff.match import match
from graphopt.diff.matching import Matching
from graphopt.diff.result import GraphDiff
from graphopt.diff.symbols import Pairing
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.tensor import Tensor


class Comparison:
    """Compares two graphs; :meth:`diff` gives the result.

    Args:
        names: names of the graphs' inputs and outputs count.
        metadata: metadata and documentation count.
    """

    def __init__(
        self, a: Graph, b: Graph, labels: Labels, matching: Matching, *, names: bool, metadata: bool
    ):
        self.graphs = (a, b)
        self.labels = labels
        self.matching = matching
        self.names = names
        self.metadata = metadata
        self.symbols = Pairing(labels.fixed if names else ())
        self.rewired: list[Rewired] = []
        self.followed = 0
        self._odd_types: set[Port] = set()
        self._weights: set[tuple[Value, Value]] = set()

    def diff(self) -> GraphDiff:
        pairs = [
            (self.matching.item(0, i), self.matching.item(1, j))
            for i, j in enumerate(self.matching.partner[0])
            if j >= 0
        ]
        self.symbols.learn(types for x, y in pairs for types in zip(x.types, y.types, strict=False))
        signature = [*self._whole(), *self._ends(Kind.INPUT)]
        changes: dict[Node, tuple[Node, list[Change]]] = {}
        for x, y in pairs:
            if x.kind is Kind.INPUT:
                signature += self._input(x, y)
            elif x.kind is Kind.OUTPUT:
                signature += self._output(x, y)
            elif x.owner is not None and y.owner is not None:
                found = self._param(x, y) if x.kind is Kind.PARAM else self._node(x, y)
                if found:
                    changes.setdefault(x.owner, (y.owner, []))[1].extend(found)
        told = {*changes, *self._alone()}
        for fused, other in self.matching.of_region.items():
            found = self._fused(fused, other, told)
            if found:
                changes[fused] = (other, found)
        signature += self._ends(Kind.OUTPUT)
        partners = self._partners()
        taken = set(partners.values())
        order = {node: index for index, node in enumerate(self.graphs[0].walk())}
        return GraphDiff(
            *self.graphs,
            removed=tuple(node for node in self.graphs[0].walk() if node not in partners),
            added=tuple(node for node in self.graphs[1].walk() if node not in taken),
            changed=tuple(
                NodeChange(node, *changes[node][:1], tuple(changes[node][1]))
                for node in sorted(changes, key=order.__getitem__)
            ),
            moved=tuple(
                Move(node, partners[node])
                for node in self.graphs[0].walk()
                if node in partners and self._is_moved(node, partners)
            ),
            signature=tuple(signature),
            rewired=tuple(self.rewired),
            followed=self.followed,
            partners=partners,
        )

    def _partners(self) -> dict[Node, Node]:
        found = dict(self.matching.of_region)
        for i, j in enumerate(self.matching.partner[0]):
            x = self.matching.item(0, i)
            if j >= 0 and x.kind is Kind.NODE and x.owner is not None:
                other = self.matching.item(1, j).owner
                assert other is not None
                found[x.owner] = other
        return found

    @staticmethod
    def _is_moved(node: Node, partners: dict[Node, Node]) -> bool:
        ours, theirs = node.parent, partners[node].parent
        assert ours is not None and theirs is not None
        if ours.parent is None or theirs.parent is None:
            return ours.parent is not theirs.parent
        return partners.get(ours.parent) is not theirs.parent or _attr(ours) != _attr(theirs)

    # --- the graph itself ---------------------------------------------------------------------

    def _whole(self) -> Iterator[Change]:
        a, b = self.graphs
        for domain in sorted(a.opset.keys() & b.opset.keys()):
            if a.opset[domain] != b.opset[domain]:
                name = f"opset {domain}".strip()
                yield Change("metadata", name, str(a.opset[domain]), str(b.opset[domain]))
        if self.metadata:
            for field in ("metadata", "doc", "producer", "model_domain", "model_version"):
                before, after = getattr(a, field), getattr(b, field)
                if before != after:
                    yield Change("metadata", field, str(before), str(after))
        if self.names:
            for what, ours, theirs in (
                ("inputs", [v.name for v in a.inputs], [v.name for v in b.inputs]),
                ("outputs", a.output_names, b.output_names),
            ):
                if ours != theirs and sorted(ours) == sorted(theirs):
                    order = "input" if what == "inputs" else "output"
                    yield Change(order, f"order of {what}", ", ".join(ours), ", ".join(theirs))  # type: ignore[arg-type]

    def _ends(self, kind: Kind) -> Iterator[Change]:
        """Inputs or outputs of one graph only."""
        what = "input" if kind is Kind.INPUT else "output"
        for side in (0, 1):
            for index in self.matching.free(side):
                item = self.matching.item(side, index)
                if item.kind is kind:
                    text = self._end_text(side, item)
                    before, after = (text, "") if side == 0 else ("", text)
                    yield Change(what, f'graph {what} "{self._end_name(side, item)}"', before, after)  # type: ignore[arg-type]

    def _end_name(self, side: int, item: Item) -> str:
        graph = self.graphs[side]
        if item.kind is Kind.INPUT:
            return graph.inputs[item.slot].name
        return graph.output_names[item.slot] if item.slot < len(graph.output_names) else str(item.slot)

    def _end_text(self, side: int, item: Item) -> str:
        graph = self.graphs[side]
        return str((graph.inputs if item.kind is Kind.INPUT else graph.outputs)[item.slot].type)

    def _input(self, x: Item, y: Item) -> Iterator[Change]:
        before, after = self._end_name(0, x), self._end_name(1, y)
        if self.names and before != after:
            yield Change("input", f'name of graph input "{before}"', before, after)
        where = f'graph input "{before}"'
        ours, theirs = x.types[0], y.types[0]
        if not self.symbols.equal(ours, theirs) or (self.names and str(ours) != str(theirs)):
            yield Change("type", where, str(ours), str(theirs))
        if not self.symbols.equal(ours, theirs):
            self._odd_types.add(Port(x.index, 0))
        default, other = x.values[0].const, y.values[0].const
        if default is not None and other is not None:
            yield from self._data(f"default of {where}", default, other)
        elif default is not other:
            ours_text, theirs_text = ("" if c is None else attribute_text(c) for c in (default, other))
            yield Change("input", f"default of {where}", ours_text, theirs_text)

    def _output(self, x: Item, y: Item) -> Iterator[Change]:
        before, after = self._end_name(0, x), self._end_name(1, y)
        if self.names and before != after:
            yield Change("output", f'name of graph output "{before}"', before, after)
        yield from self._operands(x, y, [f'graph output "{before}"'], "")

    # --- nodes --------------------------------------------------------------------------------

    def _node(self, x: Item, y: Item) -> list[Change]:
        a, b = x.owner, y.owner
        assert a is not None and b is not None
        found: list[Change] = []
        if (a.domain, a.op) != (b.domain, b.op):
            found.append(Change("operator", "operator", a.op_type, b.op_type))
        ours, theirs = self.labels.parts[0][x.index], self.labels.parts[1][y.index]
        if ours.attrs != theirs.attrs or self.labels.weights not in ("exact", "shape"):
            found += self._attributes(a, b)
        own = max(x.own, y.own)
        names = [f"input {slot}" for slot in range(own)]
        found += self._operands(_part(x, 0, x.own), _part(y, 0, y.own), names, b.label)
        found += self._bodies(x, y)
        found += self._types(x, y, bool(found))
        if self.metadata and (dict(a.metadata), a.doc) != (dict(b.metadata), b.doc):
            found.append(
                Change("metadata", "metadata", f"{dict(a.metadata)} {a.doc}", f"{dict(b.metadata)} {b.doc}")
            )
        return found

    def _attributes(self, a: Node, b: Node) -> Iterator[Change]:
        ours, theirs = attributes(a), attributes(b)
        if a.op_type != b.op_type:
            ours, theirs = dict(a.attrs), dict(b.attrs)
        for name in dict.fromkeys([*ours, *theirs]):
            before, after = ours.get(name), theirs.get(name)
            if name in ours and name in theirs:
                if isinstance(before, Tensor) and isinstance(after, Tensor):
                    yield from self._data(name, before, after, "attribute")
                    continue
                if self.labels.attribute(before) == self.labels.attribute(after):
                    continue
            old, new = (attribute_text(of[name]) if name in of else "" for of in (ours, theirs))
            yield Change("attribute", name, old, new)

    def _bodies(self, x: Item, y: Item) -> Iterator[Change]:
        assert x.owner is not None and y.owner is not None
        at, other_at = x.own, y.own
        regions, others = dict(sorted(x.owner.regions.items())), dict(sorted(y.owner.regions.items()))
        for attr in sorted(regions.keys() | others.keys()):
            ours, theirs = regions.get(attr), others.get(attr)
            if ours is None or theirs is None:
                yield Change(
                    "attribute", attr, "" if ours is None else "a body", "" if theirs is None else "a body"
                )
            else:
                if len(ours.inputs) != len(theirs.inputs):
                    yield Change("input", f"inputs of {attr}", str(len(ours.inputs)), str(len(theirs.inputs)))
                given = max(len(ours.outputs), len(theirs.outputs))
                yield from self._operands(
                    _part(x, at, at + len(ours.outputs)),
                    _part(y, other_at, other_at + len(theirs.outputs)),
                    [f"{attr} output {slot}" for slot in range(given)],
                    y.owner.label,
                )
            at += len(ours.outputs) if ours is not None else 0
            other_at += len(theirs.outputs) if theirs is not None else 0

    def _types(self, x: Item, y: Item, changed: bool) -> Iterator[Change]:
        """Types of outputs that differ of themselves, not because an operand's does."""
        if len(x.types) != len(y.types):
            yield Change("output", "outputs", str(len(x.types)), str(len(y.types)))
        follows = not changed and any(
            (isinstance(p, Port) and p in self._odd_types) or self._is_implied(p, q)
            for p, q in zip(x.operands, y.operands, strict=False)
        )
        for out, (a, b) in enumerate(zip(x.types, y.types, strict=False)):
            if self.symbols.equal(a, b):
                continue
            self._odd_types.add(Port(x.index, out))
            if follows:
                self.followed += 1
            else:
                where = f"{x.attr} input {x.slot}" if x.kind is Kind.PARAM else f"output {out}"
                yield Change("type", where, str(a), str(b))

    def _param(self, x: Item, y: Item) -> list[Change]:
        return list(self._types(x, y, False))

    # --- operands -----------------------------------------------------------------------------

    def _operands(self, x: Item, y: Item, names: list[str], user: str) -> Iterator[Change]:
        """Differences of the operands of two items; ``names`` says what each is called."""
        length = len(names)
        ours = [*x.operands, *[None] * length][:length]
        theirs = [*y.operands, *[None] * length][:length]
        odd = [slot for slot in range(length) if not self._same_source(ours[slot], theirs[slot])]
        if len(odd) == 2 and all(self._same_source(ours[s], theirs[t]) for s, t in (odd, odd[::-1])):
            before, after = (
                [self._text(side, of[slot]) for slot in odd] for side, of in ((0, ours), (1, theirs))
            )
            yield Change("input", f"{names[odd[0]]} and {odd[1]}", ", ".join(before), ", ".join(after))
            return
        for slot in odd:
            p, q = ours[slot], theirs[slot]
            if isinstance(p, Value) and isinstance(q, Value):
                yield from self._weight(names[slot], p, q)
            elif self._is_implied(p, q):
                self.rewired.append(
                    Rewired(
                        user,
                        names[slot],
                        self._text(0, p),
                        self._text(1, q),
                        self._single(0, p),
                        self._single(1, q),
                    )
                )
            else:
                yield Change(
                    "input" if x.kind is Kind.NODE else "output",
                    names[slot],
                    self._text(0, p),
                    self._text(1, q),
                )

    def _same_source(self, p: Operand, q: Operand) -> bool:
        if isinstance(p, Port) and isinstance(q, Port):
            return p.out == q.out and self.matching.partner[0][p.item] == q.item
        if isinstance(p, Value) and isinstance(q, Value):
            return self.symbols.equal(p.type, q.type) and self._same_data(p, q)
        return p is None and q is None

    def _same_data(self, p: Value, q: Value) -> bool:
        assert p.const is not None and q.const is not None
        return self._equal_data(p.const, q.const)

    def _equal_data(self, p: Tensor, q: Tensor) -> bool:
        weights = self.labels.weights
        if p.dtype is q.dtype and p.shape == q.shape and is_tolerant(p.dtype) and weights != "exact":
            if weights == "shape" or p.same(q):
                return True
            gap = distance(p, q)
            return gap is not None and gap.relative <= weights
        return p.same(q)

    def _is_implied(self, p: Operand, q: Operand) -> bool:
        """Whether one end of a changed edge is a node that was removed or added."""
        return self._single(0, p) is not None or self._single(1, q) is not None

    def _single(self, side: int, operand: Operand) -> Node | None:
        """The node that gives an operand, if it has no partner."""
        if isinstance(operand, Port) and self.matching.partner[side][operand.item] < 0:
            return self.matching.item(side, operand.item).owner
        return None

    def _text(self, side: int, operand: Operand) -> str:
        if operand is None:
            return ""
        if isinstance(operand, Value):
            return constant_text(operand)
        item = self.matching.item(side, operand.item)
        return value_text(item, operand.out)

    def _weight(self, where: str, p: Value, q: Value) -> Iterator[Change]:
        """A constant that differs, told once however many use it."""
        if (p, q) not in self._weights:
            self._weights.add((p, q))
            assert p.const is not None and q.const is not None
            if p.const.dtype in STRUCTURAL:
                yield Change("constant", where, constant_text(p), constant_text(q))
                return
            gap = distance(p.const, q.const) if self.symbols.equal(p.type, q.type) else None
            yield Change("weight", where, constant_text(p), constant_text(q), gap)

    def _data(self, where: str, before: Tensor, after: Tensor, what: str = "weight") -> Iterator[Change]:
        if not self._equal_data(before, after):
            gap: Distance | None = distance(before, after)
            yield Change(what, where, attribute_text(before), attribute_text(after), gap)  # type: ignore[arg-type]

    # --- fused regions ------------------------------------------------------------------------

    def _alone(self) -> set[Node]:
        """Nodes of either graph that have no partner."""
        items = (self.matching.item(side, i) for side in (0, 1) for i in self.matching.free(side))
        return {item.owner for item in items if item.kind is Kind.NODE and item.owner is not None}

    def _fused(self, a: Node, b: Node, told: set[Node]) -> list[Change]:
        """What differs about a region itself: what it holds is compared node by node, and what it reads too.

        Args:
            told: nodes of which something is told; what a region with such a node reads and gives follows.
        """
        found = list(self._attributes(a, b))
        if not told.isdisjoint([*a.body, *b.body]):
            return found
        for what, ours, theirs in (
            ("input", self._unread(0, a), self._unread(1, b)),
            ("output", self._given(0, a), self._given(1, b)),
        ):
            if sorted(map(repr, ours.values())) != sorted(map(repr, theirs.values())):
                texts = [", ".join(of) for of in (ours, theirs)]
                found.append(Change(what, f"unused {what}s" if what == "input" else "outputs", *texts))  # type: ignore[arg-type]
        return found

    def _unread(self, side: int, node: Node) -> dict[str, object]:
        """What a region is handed and does not look at, by name."""
        pairs = zip(node.inputs, node.body.inputs, strict=False)
        return {
            f"%{v.name}": self._pair(side, v) for v, inner in pairs if v is not None and not inner.num_uses
        }

    def _given(self, side: int, node: Node) -> dict[str, object]:
        """What a region gives and nobody outside reads, by name."""
        pairs = zip(node.outputs, node.body.outputs, strict=False)
        return {f"%{v.name}": self._pair(side, inner) for v, inner in pairs if not v.num_uses}

    def _pair(self, side: int, value: Value) -> object:
        source = value if value.is_constant else self.matching.sides[side].source.get(value)
        if isinstance(source, Port):
            if self._single(side, source) is not None:
                return ("single",)
            return (self.matching.partner[0][source.item] if side == 0 else source.item, source.out)
        return None if source is None else self.labels.constant(source)


def _part(item: Item, start: int, stop: int) -> Item:
    """An item with some of its operands."""
    return Item(item.index, item.kind, item.owner, item.region, item.operands[start:stop])


def _attr(region: Region) -> str:
    assert region.parent is not None
    return next(name for name, inner in region.parent.regions.items() if inner is region)


def compare(
    a: Graph, b: Graph, labels: Labels, sides: tuple[Flat, Flat], *, names: bool, metadata: bool
) -> GraphDiff:
    """Matches two graphs and compares them."""
    matching = match(*sides, labels, names=names)
    return Comparison(a, b, labels, matching, names=names, metadata=metadata).diff()
