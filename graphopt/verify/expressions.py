"""Numbers for values, equal for values that are computed in the same way.

Hash-consing of the graph: a value's number stands for its operator, attributes and the numbers of its
operands. What two graphs have in common has the same numbers in both, so it is evaluated once: after a
pass only what has a new number need be run. Bodies of fused nodes count as if they stood in the
node's place, and an Identity is what it copies; so passes that only regroup or drop nodes change no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.captures import captures
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType, Type

_SMALL = 1024
"""Constants of up to so many bytes are compared by content, larger ones by identity."""
Reason = Callable[[Node], str]
"""reason(node): why nothing that depends on the node can be compared; empty where it can."""
Settle = Callable[[Value, int], int]
"""settle(value, number): the number under which users of ``value`` shall know it."""


@dataclass(eq=False)
class Application:
    """One operator applied to numbered operands; ``first`` is the number of its first output.

    ``regions`` is a copy of the node where it holds regions, in which ``captured`` stand for values from
    outside; ``region_keys`` are equal for regions that compute the same. ``used`` says which outputs somebody
    reads, ``varies`` whether they depend on an input, and ``opaque`` why they can't be compared; it is empty
    where they can.
    """

    op: str
    domain: str
    attrs: Mapping[str, object]
    operands: tuple[int | None, ...]
    types: tuple[Type, ...]
    name: str
    used: tuple[bool, ...]
    first: int = 0
    regions: Node | None = None
    captured: tuple[tuple[Value, int], ...] = ()
    region_keys: Mapping[str, Hashable] = field(default_factory=dict)
    varies: bool = False
    opaque: str = ""

    @property
    def label(self) -> str:
        """As :attr:`graphopt.ir.graph.Node.label`."""
        op = f"{self.domain}.{self.op}" if self.domain else self.op
        return f'{op} "{self.name}"' if self.name else op

    @property
    def numbers(self) -> range:
        """Those of its outputs."""
        return range(self.first, self.first + len(self.types))

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """All numbers that it reads, captured ones too."""
        plain = [operand for operand in self.operands if operand is not None]
        return tuple(dict.fromkeys([*plain, *(number for _, number in self.captured)]))


@dataclass(frozen=True)
class Leaf:
    """An input of the graph by name, or a constant."""

    type: Type
    name: str
    data: Tensor | None = None


@dataclass
class Expressions:
    """The table of numbers; it only grows."""

    reason: Reason = lambda node: ""
    table: list[Application | Leaf] = field(default_factory=list)
    _known: dict[Hashable, int] = field(default_factory=dict)

    def number(self, graph: Graph, settle: Settle | None = None) -> dict[Value, int]:
        """The numbers of all values outside of control flow; ``settle`` may give a value another one."""
        ids: dict[Value, int] = {}
        keep: Settle = settle or (lambda value, number: number)
        for value in graph.inputs:
            ids[value] = self._enter(("input", value.name), Leaf(value.type, value.name))
        self._region(graph.body, ids, keep)
        for value in graph.outputs:
            self._of(value, ids, keep)
        return ids

    def _region(self, region: Region, ids: dict[Value, int], settle: Settle) -> None:
        for node in region:
            operands = tuple([None if v is None else self._of(v, ids, settle) for v in node.inputs])
            if node.is_fused:
                for inner, number in zip(node.body.inputs, operands, strict=True):
                    if number is not None:
                        ids[inner] = number
                self._region(node.body, ids, settle)
                found = [self._of(value, ids, settle) for value in node.body.outputs]
            elif node.op == "Identity" and not node.domain and operands[0] is not None:
                found = [operands[0]]
            else:
                first = self._apply(node, operands, ids, settle)
                found = list(range(first, first + len(node.outputs)))
            for value, number in zip(node.outputs, found, strict=True):
                ids[value] = settle(value, number)

    def _of(self, value: Value, ids: dict[Value, int], settle: Settle) -> int:
        if value not in ids:
            assert value.const is not None, f"%{value.name} is used before it is defined"
            key = ("constant", _tensor_key(value.const))
            ids[value] = settle(value, self._enter(key, Leaf(value.type, value.name, value.const)))
        return ids[value]

    def _apply(
        self, node: Node, operands: tuple[int | None, ...], ids: dict[Value, int], settle: Settle
    ) -> int:
        captured: dict[Value, int] = {}
        regions: dict[str, Hashable] = {}
        for name, region in node.regions.items():
            for _, value in captures(region):
                captured[value] = self._of(value, ids, settle)
            regions[name] = _region_key(region, captured)
        key = (
            node.op, node.domain, _attrs_key(node.attrs), operands, len(node.outputs), tuple(regions.items()),
        )  # fmt: skip
        known = self._known.get(key)
        if known is not None:
            made = self.table[known]
            assert isinstance(made, Application)
            if node.regions == {} and any(v.num_uses for v in node.outputs):
                used = zip(made.used, node.outputs, strict=True)
                made.used = tuple([old or v.num_uses > 0 for old, v in used])
            return known
        made = Application(
            node.op, node.domain, node.attrs, operands, tuple(v.type for v in node.outputs),
            node.name or (node.outputs[0].name if node.outputs else ""),
            tuple(v.num_uses > 0 for v in node.outputs), len(self.table),
        )  # fmt: skip
        if node.regions:
            made.regions, made.captured = _snapshot(node, captured)
            made.region_keys = regions
        made.varies = any(map(self.varies, made.sources))
        made.opaque = self.reason(node) or next(filter(None, map(self.opaque, made.sources)), "")
        self._known[key] = made.first
        self.table += [made] * len(node.outputs)
        return made.first

    def _enter(self, key: Hashable, leaf: Leaf) -> int:
        if key not in self._known:
            self._known[key] = len(self.table)
            self.table.append(leaf)
        return self._known[key]

    def opaque(self, number: int) -> str:
        """Why a numbered value can't be compared; empty where it can."""
        entry = self.table[number]
        return entry.opaque if isinstance(entry, Application) else ""

    def varies(self, number: int) -> bool:
        """Whether a numbered value depends on an input."""
        entry = self.table[number]
        return entry.data is None if isinstance(entry, Leaf) else entry.varies

    def type_of(self, number: int) -> Type:
        """The type of a numbered value."""
        entry = self.table[number]
        return entry.type if isinstance(entry, Leaf) else entry.types[number - entry.first]


def _tensor_key(tensor: Tensor) -> Hashable:
    if tensor.dtype is not DType.STR and tensor.nbytes <= _SMALL:
        return tensor.type, tensor.numpy().tobytes()
    return id(tensor)  # the table keeps it alive


def _attrs_key(attrs: Mapping[str, object]) -> Hashable:
    return tuple([(name, _attr_key(attr)) for name, attr in sorted(attrs.items())]) if attrs else ()


def _attr_key(attr: object) -> Hashable:
    if isinstance(attr, Tensor):
        return attr.digest
    if isinstance(attr, tuple):
        return tuple(_attr_key(item) for item in attr)
    return type(attr).__name__, repr(attr) if isinstance(attr, float) else attr


def _region_key(region: Region, captured: Mapping[Value, int]) -> Hashable:
    """What a region computes, values inside of it by their place."""
    places: dict[Value, Hashable] = {value: ("outer", number) for value, number in captured.items()}
    inner_places = itertools.count()

    def key(part: Region) -> Hashable:
        places.update({value: ("inner", next(inner_places)) for value in part.inputs})
        nodes = []
        for node in part:
            operands = tuple(None if v is None else places[v] for v in node.inputs)
            inner = tuple((name, key(r)) for name, r in node.regions.items())
            places.update({value: ("inner", next(inner_places)) for value in node.outputs})
            nodes.append((node.op, node.domain, _attrs_key(node.attrs), operands, inner))
        types = tuple(value.type for value in part.inputs)
        return types, tuple(nodes), tuple(places[value] for value in part.outputs)

    return key(region)


def _snapshot(node: Node, captured: Mapping[Value, int]) -> tuple[Node, tuple[tuple[Value, int], ...]]:
    """A copy of a node in a graph of its own."""
    builder = Builder(Graph("snapshot"))
    operands = dict.fromkeys(value for value in node.inputs if value is not None)
    mapping = {value: builder.input(value.name, value.type) for value in [*operands, *captured]}
    stand_ins = tuple((mapping[value], number) for value, number in captured.items())
    return copy_node(node, builder, dict(mapping)), stand_ins


def is_native(type: Type) -> bool:
    """Whether it is a tensor of an element type that both NumPy and ONNX Runtime hold."""
    if not isinstance(type, TensorType) or type.dtype is None:
        return False
    return type.dtype.numpy.kind in "fiubcO" and bool(type.dtype.numpy.isbuiltin)
