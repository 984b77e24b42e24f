"""What a diff found, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from graphopt.diff.describe import place_of
from graphopt.ir.graph import Graph, Node

What = Literal["operator", "attribute", "input", "output", "weight", "constant", "type", "metadata"]
Weights = Union[Literal["exact", "shape"], float]
"""How the data of weights counts: to the last bit, not at all, or up to a relative distance."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far the data of two constants of one type lie apart.

    Attributes:
        differing: elements that differ.
        size: elements in all.
        largest: the largest absolute difference of two elements; NaN where one is not a number and the other is.
        relative: the same by the largest magnitude in the first constant.
    """

    differing: int
    size: int
    largest: float
    relative: float

    def __str__(self) -> str:
        if not self.differing:
            return "equal by value, but not to the last bit"
        count = f"{self.differing} of {self.size} elements differ" if self.size > 1 else "differs"
        return f"{count}, by at most {self.largest:.3g} ({self.relative:.2g} of the largest)"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different about a node, or about the graph itself.

    Attributes:
        what: the kind of thing.
        where: which one: an attribute's name, ``input 0``, ``then_branch output 1``, ...
        before: what it was, as text; empty where it was absent.
        after: what it is now.
        distance: for weights whose data could be compared.
    """

    what: What
    where: str
    before: str
    after: str
    distance: Distance | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "what": self.what, "where": self.where, "before": self.before, "after": self.after,
        }  # fmt: skip
        if self.distance is not None:
            found["distance"] = {
                "differing": self.distance.differing,
                "size": self.distance.size,
                "largest": self.distance.largest,
                "relative": self.distance.relative,
            }
        return found


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node that is in both graphs and differs."""

    before: Node
    after: Node
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A node that stands in another region."""

    before: Node
    after: Node

    @property
    def source(self) -> str:
        return place_of(self.before.parent)

    @property
    def target(self) -> str:
        return place_of(self.after.parent)


@dataclass(frozen=True, slots=True)
class Rewired:
    """An operand that follows from nodes that were added or removed.

    Attributes:
        user: the node that has it, as text; empty for an output of the graph.
        where: which operand.
        before: what it was.
        after: what it is now.
        removed: the removed node that gave it before, if one did.
        added: the added node that gives it now, if one does.
    """

    user: str
    where: str
    before: str
    after: str
    removed: Node | None
    added: Node | None


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences of two graphs.

    Attributes:
        a, b: the graphs.
        removed: nodes of ``a`` that have no partner, in program order.
        added: nodes of ``b`` that have none.
        changed: nodes that are in both and differ.
        moved: nodes that are in both, but in another region.
        signature: differences of the graphs' inputs, outputs and opsets.
        rewired: operands that changed because nodes were added or removed.
        followed: values whose type is another one because an operand's is.
        partners: for each node of ``a`` that has one, its partner in ``b``.
    """

    a: Graph
    b: Graph
    removed: tuple[Node, ...] = ()
    added: tuple[Node, ...] = ()
    changed: tuple[NodeChange, ...] = ()
    moved: tuple[Move, ...] = ()
    signature: tuple[Change, ...] = ()
    rewired: tuple[Rewired, ...] = ()
    followed: int = 0
    partners: Mapping[Node, Node] = None  # type: ignore[assignment]

    @property
    def equal(self) -> bool:
        """Whether the graphs are the same up to what does not count."""
        return not (self.removed or self.added or self.changed or self.moved or self.signature)

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return not self.equal
