"""The graph: values, nodes, regions.

A :class:`Graph` is one root :class:`Region` and the constants, which all live at the root. A
region holds its nodes in program order, which is a topological order. Regions of control flow
(If, Loop, Scan) may use values from outside; the body of a fused node is isolated: it sees only
its own inputs. Values are in SSA form: one producer, any number of uses in a stable order.

Everything here is read-only for callers. A graph is made by a
:class:`~graphopt.ir.builder.Builder` and changed by a :class:`~graphopt.ir.rewriter.Rewriter`;
the methods with a leading underscore are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Union

from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import TensorType, Type

FUSED_DOMAIN = "graphopt"
FUSED_OP = "fused"
_ORDER_GAP = 1 << 24
_NONE: Mapping[str, Any] = MappingProxyType({})


class RefAttr(NamedTuple):
    """A reference to an attribute of the enclosing function (``ref_attr_name`` in ONNX)."""

    name: str
    kind: str


class TypeAttr(NamedTuple):
    """An attribute that holds a type (``TypeProto`` in ONNX)."""

    type: Type


Attr = Union[int, float, str, bytes, Tensor, TypeAttr, RefAttr, tuple[object, ...]]
"""The value of an attribute. A tuple holds elements of one of the other kinds."""


class Use(NamedTuple):
    """One place where a value is used: an input of a node, or an output of a region."""

    user: Node | Region
    index: int  # type: ignore[assignment]


class Value:
    """A value in SSA form: the output of a node, an input of a region, or a constant."""

    __slots__ = ("_uses", "const", "doc", "index", "metadata", "name", "owner", "type")

    def __init__(self, name: str, type: Type, owner: Node | Region | None, index: int) -> None:
        self.name = name
        self.type = type
        self.owner = owner
        self.index = index
        self.const: Tensor | None = None
        self.metadata: Mapping[str, str] = {}
        self.doc = ""
        self._uses: dict[Use, None] = {}

    @property
    def producer(self) -> Node | None:
        """The node that computes the value; None for inputs and constants."""
        return self.owner if isinstance(self.owner, Node) else None

    @property
    def is_input(self) -> bool:
        """Whether it is an input of a region. An input of the root with ``const`` has that default."""
        return isinstance(self.owner, Region)

    @property
    def is_constant(self) -> bool:
        """Whether it is a constant of the graph (not an input with a default)."""
        return self.const is not None and self.owner is None

    @property
    def uses(self) -> tuple[Use, ...]:
        """All uses in the order in which they were made."""
        return tuple(self._uses)

    @property
    def num_uses(self) -> int:
        return len(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use the value, each once, in order of use."""
        return tuple(dict.fromkeys(use.user for use in self._uses if isinstance(use.user, Node)))

    @property
    def is_output(self) -> bool:
        """Whether it is an output of some region."""
        return any(isinstance(use.user, Region) for use in self._uses)

    @property
    def tensor(self) -> TensorType:
        """The type, for values that must be tensors; an unknown tensor type otherwise."""
        return self.type if isinstance(self.type, TensorType) else TensorType(None, None)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """An operation. ``attrs`` holds immutable values, ``regions`` the sub-graphs by attribute name."""

    __slots__ = (
        "_attrs", "_domain", "_erased", "_inputs", "_next", "_op", "_order", "_outputs", "_prev", "_regions",
        "doc", "metadata", "name", "origin", "parent",
    )  # fmt: skip

    def __init__(self, op: str, domain: str, name: str) -> None:
        self.name = name
        self.metadata: Mapping[str, str] = {}
        self.doc = ""
        self.origin: tuple[str, ...] = ()
        self.parent: Region | None = None
        self._op = op
        self._domain = domain
        self._inputs: tuple[Value | None, ...] = ()
        self._outputs: tuple[Value, ...] = ()
        self._attrs: Mapping[str, Attr] = _NONE
        self._regions: Mapping[str, Region] = _NONE
        self._prev: Node | None = None
        self._next: Node | None = None
        self._order = 0
        self._erased = False

    @property
    def op(self) -> str:
        return self._op

    @property
    def domain(self) -> str:
        """The operator's domain, "" for that of ONNX itself."""
        return self._domain

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self._outputs

    @property
    def attrs(self) -> Mapping[str, Attr]:
        return self._attrs

    @property
    def regions(self) -> Mapping[str, Region]:
        return self._regions

    @property
    def output(self) -> Value:
        """The only output.

        Raises:
            ValueError: there is not exactly one.
        """
        (value,) = self.outputs
        return value

    @property
    def op_type(self) -> str:
        """The operator with its domain, e.g. ``Conv`` or ``com.microsoft.Gelu``."""
        return f"{self._domain}.{self._op}" if self._domain else self._op

    @property
    def label(self) -> str:
        """How messages name the node: operator, then its own name or that of its first output."""
        name = self.name or next((v.name for v in self.outputs if v.name), "")
        return f'{self.op_type} "{name}"' if name else self.op_type

    @property
    def is_fused(self) -> bool:
        return self._op == FUSED_OP and self._domain == FUSED_DOMAIN

    @property
    def body(self) -> Region:
        """The region of a fused node."""
        return self.regions["body"]

    @property
    def erased(self) -> bool:
        """Whether it was removed from its graph."""
        return self._erased

    def input(self, index: int) -> Value | None:
        """Input ``index``, None when it is absent or left out at the end."""
        return self._inputs[index] if index < len(self._inputs) else None

    def is_before(self, other: Node) -> bool:
        """Whether it stands before ``other`` in the region that holds both."""
        return self._order < other._order

    def __repr__(self) -> str:
        return f"<{self.label}>"


class Region:
    """Nodes in program order between inputs and outputs."""

    __slots__ = ("_count", "_first", "_last", "doc", "inputs", "metadata", "name", "outputs", "parent")

    def __init__(self, name: str = "", parent: Node | None = None) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.metadata: Mapping[str, str] = {}
        self.doc = ""
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0

    def __iter__(self) -> Iterator[Node]:
        """Nodes in program order; erasing or inserting while iterating is allowed."""
        node = self._first
        while node is not None:
            if not node._erased and node.parent is self:
                yield node
            node = node._next

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True  # an empty region is a region: `region or default` must not pass over it

    @property
    def nodes(self) -> list[Node]:
        """A snapshot of the nodes in program order."""
        return list(self)

    @property
    def last(self) -> Node | None:
        return self._last

    @property
    def first(self) -> Node | None:
        return self._first

    @property
    def is_isolated(self) -> bool:
        """Whether nodes inside may use only values of this region (body of a fused node)."""
        return self.parent is not None and self.parent.is_fused

    def _insert(self, node: Node, before: Node | None) -> None:
        after = self._last if before is None else before._prev
        node.parent, node._prev, node._next, node._erased = self, after, before, False
        if after is None:
            self._first = node
        else:
            after._next = node
        if before is None:
            self._last = node
        else:
            before._prev = node
        self._count += 1
        low = after._order if after is not None else (before._order - 2 * _ORDER_GAP if before else 0)
        high = before._order if before is not None else low + 2 * _ORDER_GAP
        node._order = (low + high) // 2
        if not low < node._order < high:
            self._renumber()

    def _renumber(self) -> None:
        node, order = self._first, 0
        while node is not None:
            order += _ORDER_GAP
            node._order = order
            node = node._next

    def _remove(self, node: Node) -> None:
        # The removed node keeps its links, so that an iteration that stands on it can go on.
        if node._prev is None:
            self._first = node._next
        else:
            node._prev._next = node._next
        if node._next is None:
            self._last = node._prev
        else:
            node._next._prev = node._prev
        node._erased = True
        self._count -= 1


class Graph:
    """A model: the root region, its constants, and what ONNX says about the whole.

    ``output_names`` are the names of the outputs to the outside; the values behind them may be
    named and replaced freely. Inputs are named by their values.

    ``unverifiable`` are operators of ONNX's own domain that the model brought along and the
    canonical opset lacks, or has in an older form only: they are carried through.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.body = Region(name)
        self.output_names: list[str] = []
        self.opset: dict[str, int] = {"": CANONICAL_OPSET}
        self.unverifiable: tuple[str, ...] = ()
        self.metadata: dict[str, str] = {}
        self.doc = ""
        self.producer: tuple[str, str] = ("", "")
        self.model_domain = ""
        self.model_version = 0
        self._values: dict[str, Value] = {}
        self._counters: dict[str, int] = {}
        self._constants: dict[str, Value] = {}
        self._constant_count = 0
        self._constants_in_order = True

    @property
    def constants(self) -> Mapping[str, Value]:
        """All constants by name, in the order in which they were made."""
        if not self._constants_in_order:
            # A renamed one was put last: sorting when someone looks keeps many renamings linear.
            self._constants = dict(sorted(self._constants.items(), key=lambda item: item[1].index))
            self._constants_in_order = True
        return self._constants

    @property
    def inputs(self) -> Sequence[Value]:
        return self.body.inputs

    @property
    def outputs(self) -> Sequence[Value]:
        return self.body.outputs

    @property
    def nodes(self) -> list[Node]:
        """A snapshot of the root's nodes in program order."""
        return self.body.nodes

    def walk(self) -> Iterator[Node]:
        """Every node, those in regions too; a node comes before what its regions hold."""
        yield from _walk(self.body)

    def value(self, name: str) -> Value:
        """The value with this name, in whichever region.

        Raises:
            KeyError: there is none.
        """
        return self._values[name]

    def has_value(self, name: str) -> bool:
        """Whether a value has this name."""
        return name in self._values

    def fresh_name(self, hint: str) -> str:
        """A name that no value has: ``hint``, else ``hint_1``, ``hint_2``, ..."""
        name = hint or "v"
        while name in self._values:
            count = self._counters.get(hint, 0) + 1
            self._counters[hint] = count
            name = f"{hint or 'v'}_{count}"
        return name

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.body)} nodes, {len(self.constants)} constants>"


def _walk(region: Region) -> Iterator[Node]:
    for node in region:
        yield node
        for inner in node.regions.values():
            yield from _walk(inner)


def dominates(value: Value, node: Node) -> bool:
    """Whether ``value`` is defined before ``node`` on every path and visible there.

    Constants are visible everywhere but in isolated regions. O(depth of nesting).
    """
    position: Node | None = node
    while position is not None:
        region = position.parent
        if region is None:
            return False
        if value.owner is region:
            return True
        producer = value.producer
        if producer is not None and producer.parent is region:
            return not producer._erased and producer.is_before(position)
        if region.is_isolated:
            return False
        position = region.parent
    return value.is_constant
