"""Patterns: what a rule looks for, written as the expression it stands for.

::

    x, w = var("x"), const("w")
    pattern = op("Relu", op("Conv", x, w, opt(var("b")), name="conv"))

Operators are named as :attr:`Node.op_type` prints them (``"Conv"``, ``"com.microsoft.Gelu"``). The
same variable twice means the same value, the same ``op`` object twice means the same node. A node
inside a pattern may have no users outside of it unless it is marked ``shared=True``, and lies in
the same region as the root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Union

from graphopt.ir.graph import Node, Value

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Operators whose two inputs a pattern tries in both orders."""

CONST, INPUT, ABSENT = "#const", "#input", "#absent"
"""Heads of values that no node computes; those of the others are operators."""

Heads = Union[frozenset[str], None]
"""The heads that a value pattern can accept; None for any but absent."""


@dataclass(frozen=True, eq=False)
class Var:
    """Any value that passes ``where``."""

    name: str
    where: Callable[[Value], bool] | None = None

    @property
    def heads(self) -> Heads:
        return None


@dataclass(frozen=True, eq=False)
class Const:
    """A constant of the graph; with ``value``, one whose elements all equal it."""

    name: str = ""
    value: float | None = None
    where: Callable[[Value], bool] | None = None

    @property
    def heads(self) -> Heads:
        return frozenset({CONST})


@dataclass(frozen=True, eq=False)
class Opt:
    """An input that may be absent; the names inside are then unbound."""

    pattern: ValuePattern

    @property
    def heads(self) -> Heads:
        inner = self.pattern.heads
        return None if inner is None else inner | {ABSENT}


@dataclass(frozen=True, eq=False)
class OneOf:
    """The first alternative that matches."""

    alternatives: tuple[ValuePattern, ...]

    @property
    def heads(self) -> Heads:
        all_heads = [alternative.heads for alternative in self.alternatives]
        return None if None in all_heads else frozenset().union(*(h for h in all_heads if h is not None))


@dataclass(frozen=True, eq=False)
class Op:
    """Output 0 of a node; ``pattern[1]`` is its output 1."""

    ops: frozenset[str]
    inputs: tuple[ValuePattern, ...]
    more_inputs: bool
    name: str
    attrs: Mapping[str, object]
    commutative: bool
    shared: bool
    where: Callable[[Node], bool] | None

    def __getitem__(self, index: int) -> Output:
        return Output(self, index)

    @property
    def heads(self) -> Heads:
        return self.ops


@dataclass(frozen=True, eq=False)
class Output:
    """Output ``index`` of a node."""

    op: Op
    index: int

    @property
    def heads(self) -> Heads:
        return self.op.ops


ValuePattern = Union[Var, Const, Opt, OneOf, Op, Output]


def var(name: str, where: Callable[[Value], bool] | None = None) -> Var:
    """Any value that passes ``where``, bound to ``name``."""
    return Var(name, where)


def const(
    name: str = "", *, value: float | None = None, where: Callable[[Value], bool] | None = None
) -> Const:
    """A constant, bound to ``name`` if given; ``value``: all its elements are this number."""
    return Const(name, value, where)


def opt(pattern: ValuePattern) -> Opt:
    """``pattern``, or an absent input."""
    return Opt(pattern)


def one_of(*alternatives: ValuePattern) -> OneOf:
    """The first of ``alternatives`` that matches; as the root of a rule each must be an ``op``."""
    return OneOf(alternatives)


def op(
    ops: str | Sequence[str],
    *inputs: ValuePattern | EllipsisType,
    name: str = "",
    attrs: Mapping[str, object] | None = None,
    commutative: bool | None = None,
    shared: bool = False,
    where: Callable[[Node], bool] | None = None,
) -> Op:
    """A node whose operator is one of ``ops``.

    Args:
        ops: operators as :attr:`Node.op_type` gives them.
        inputs: patterns of the inputs in order; ``...`` at the end allows any further ones.
        name: binds the node.
        attrs: what attributes must be: a value to equal, or a predicate that gets the value (None
            when the attribute is absent).
        commutative: try both orders of the two inputs; by default as the operator is.
        shared: the node may have users outside the pattern (it then stays in the graph).
        where: a predicate on the node.
    """
    names = frozenset({ops}) if isinstance(ops, str) else frozenset(ops)
    more = bool(inputs) and inputs[-1] is ...
    patterns = tuple(p for p in inputs if not isinstance(p, EllipsisType))
    if len(patterns) != len(inputs) - more:
        raise ValueError("... stands at the end of the inputs")
    if commutative is None:
        commutative = names <= COMMUTATIVE
    both = commutative and len(patterns) == 2
    return Op(names, patterns, more, name, attrs or {}, both, shared, where)


@dataclass(slots=True)
class Match:
    """What a pattern was found to stand for: ``match["x"]`` is a value, ``match.node("conv")`` a node."""

    root: Node
    values: dict[str, Value] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    interior: list[Node] = field(default_factory=list)
    """Matched nodes but the root and shared ones."""

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def get(self, name: str) -> Value | None:
        """The value bound to ``name``, None when it is an absent optional input."""
        return self.values.get(name)

    def node(self, name: str) -> Node:
        """The node bound to ``name``."""
        return self.nodes[name]

    def array(self, name: str) -> Any:
        """The data of the constant bound to ``name``, a read-only NumPy array."""
        tensor = self.values[name].const
        assert tensor is not None
        return tensor.numpy()


def depth(pattern: ValuePattern) -> int:
    """Nodes on the longest path down the pattern."""
    match pattern:
        case Op():
            return 1 + max((depth(p) for p in pattern.inputs), default=0)
        case Output():
            return depth(pattern.op)
        case Opt():
            return depth(pattern.pattern)
        case OneOf():
            return max(depth(p) for p in pattern.alternatives)
    return 0
