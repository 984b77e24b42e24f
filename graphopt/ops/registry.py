"""The table of operators: what kind each one is, and the rule that gives its output types."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ir.types import Type

Rule = Callable[[Node], list[Type]]
"""Types of the outputs of a node. A rule may give more than the node has; the rest is dropped."""


class Kind(enum.Enum):
    """What code an operator becomes: the fusion pass and the back end decide by it.

    ELEMENTWISE: one output element from the elements of the inputs at the same (broadcast) index.
    MOVEMENT: each output element is one input element (or a fill value) at a mapped index.
    REDUCTION: each output element needs many input elements, with little arithmetic on each.
    HEAVY: dominated by multiply-accumulate work.
    CONTROL: holds regions, or handles sequences and optionals.
    OTHER: none of these.
    """

    ELEMENTWISE = "elementwise"
    MOVEMENT = "movement"
    REDUCTION = "reduction"
    HEAVY = "heavy"
    CONTROL = "control"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What is known of an operator whatever its inputs.

    ``commutative``: the order of the inputs doesn't matter. ``pure``: the same inputs always give
    the same outputs, so that equal nodes may be merged; random operators are not.
    """

    name: str
    domain: str
    kind: Kind
    commutative: bool = False
    pure: bool = True


INFOS: dict[tuple[str, str], OpInfo] = {}
RULES: dict[tuple[str, str], Rule] = {}


def declare(
    kind: Kind, *names: str, domain: str = "", commutative: bool = False, pure: bool = True
) -> Callable[[Rule], Rule]:
    """Enters operators into the table; as a decorator it gives them their type rule too."""
    for name in names:
        INFOS[domain, name] = OpInfo(name, domain, kind, commutative, pure)

    def attach(rule: Rule) -> Rule:
        for name in names:
            RULES[domain, name] = rule
        return rule

    return attach


def info(node: Node) -> OpInfo | None:
    """What is known of the node's operator; None for an operator that is carried through unknown."""
    return INFOS.get((node.domain, node.op))


def is_random(node: Node) -> bool:
    """Whether the node is known to draw random numbers; what its regions hold does not count."""
    return info(node) is not None and not node.regions and not is_pure(node)


def is_pure(node: Node) -> bool:
    """Whether the node, regions included, gives the same outputs whenever its inputs are the same.

    Unknown operators count as impure, and Dropout does unless it provably does not train.
    """
    known = INFOS.get((node.domain, node.op))
    if known is None or not known.pure:
        return False
    if known.name == "Dropout" and not known.domain:
        mode = node.input(2)
        return mode is None or (mode.is_constant and mode.const is not None and not mode.const.numpy().any())
    return all(is_pure(inner) for region in node.regions.values() for inner in region)
