"""Which value after a pass stands for which value before it, by the events of the pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.ir.graph import Value
from graphopt.ir.transaction import EventKind, Relation, Transaction


@dataclass
class Provenance:
    """What the transactions of a pass claim.

    Attributes:
        equal: for a value, the numbers of those before the pass that it was said to be equal to, in order.
        quantized: values that stand for another one up to the steps of their grid, with that one.
    """

    equal: dict[Value, list[int]] = field(default_factory=dict)
    quantized: list[tuple[Value, Value]] = field(default_factory=list)


def provenance(transactions: Sequence[Transaction], before: Mapping[Value, int]) -> Provenance:
    """Follows the replacements of a pass; ``before`` numbers the values that there were.

    A value that was made by the pass, and replaced by it again, hands on what it was said to be.
    """
    found = Provenance()
    for transaction in transactions:
        for event in transaction.events:
            if event.kind is not EventKind.REPLACED or event.value is None or event.new is None:
                continue
            if event.relation is not Relation.EQUAL:
                found.quantized.append((event.new, event.value))
                continue
            own = [before[event.value]] if event.value in before else []
            claims = found.equal.setdefault(event.new, [])
            claims += [n for n in (*own, *found.equal.get(event.value, ())) if n not in claims]
    return found
