"""What a rewriter tells of its work: transactions and the events in them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from graphopt.ir.graph import Node, Value


class OutOfFuel(Exception):
    """The rewriter may not begin another transaction; the pass ends here."""


class Relation(enum.Enum):
    """How a replacement relates to what it replaces."""

    EQUAL = "equal"
    QUANTIZED = "quantized"


class EventKind(enum.Enum):
    INSERTED = "inserted"
    ERASED = "erased"
    CHANGED = "changed"
    REPLACED = "replaced"
    RETYPED = "retyped"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. ``node`` for INSERTED, ERASED and CHANGED (inputs, attributes, place, regions);
    ``value`` for RETYPED and RELEASED (it lost a use, or is an erased constant); ``value`` by ``new``
    under ``relation`` for REPLACED."""

    kind: EventKind
    node: Node | None = None
    value: Value | None = None
    new: Value | None = None
    relation: Relation = Relation.EQUAL


@dataclass(slots=True)
class Transaction:
    """One application of a rule: what it is rooted at and what it did, in order."""

    rule: str
    root: Node | None
    index: int
    events: list[Event] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)
    made: set[Node | None] = field(default_factory=set)

    @property
    def inserted(self) -> int:
        return sum(event.kind is EventKind.INSERTED for event in self.events)

    @property
    def erased(self) -> int:
        return sum(event.kind is EventKind.ERASED for event in self.events)


class Listener(Protocol):
    """Hears of every finished transaction."""

    def committed(self, transaction: Transaction) -> None: ...
