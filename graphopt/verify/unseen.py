"""Regions that no sample runs: the branch of an If that is not taken, the body of a Loop without trips.

What decides is turned, for a node as it was and as it is alike, and everything else stays, so that the
region runs on values that the model really has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.tensor import Array
from graphopt.verify.expressions import Application
from graphopt.verify.values import Values

_TRIPS = 2


@dataclass(frozen=True)
class Unseen:
    """A region that no sample runs.

    Attributes:
        region: the attribute that holds it.
        node: label of its node.
        turned: what the node must read, by number, to run it.
    """

    region: str
    node: str
    turned: Mapping[int, Array]

    def __str__(self) -> str:
        return f"{self.region} of {self.node}"


def unseen(made: Application, values: Values) -> Unseen | None:
    """The region of a node that no sample runs, though inputs might; there is one at most."""
    if made.regions is None or made.domain or made.op not in ("If", "Loop"):
        return None
    deciding = [number for number in made.operands[: 1 if made.op == "If" else 2] if number is not None]
    values.evaluate(deciding)
    held = {
        number: [np.asarray(item).reshape(-1)[0] > 0 for item in values.of(number)] for number in deciding
    }
    if made.op == "If":
        (taken,) = held.values()
        region = "else_branch" if all(taken) else "then_branch"
        new: dict[int, Any] = {deciding[0]: not any(taken)}
        if any(taken) and not all(taken):
            return None
    else:
        region = "body"
        new = {number: number == made.operands[1] or _TRIPS for number in deciding if not all(held[number])}
        if not new or any(all(of_sample) for of_sample in zip(*held.values(), strict=True)):
            return None
    if not all(values.expressions.varies(number) for number in new):
        return None
    like = {number: np.asarray(values.of(number)[0]) for number in new}
    turned = {number: np.full_like(like[number], item) for number, item in new.items()}
    return Unseen(region, made.label, turned)


def is_read(found: Unseen, made: Application) -> bool:
    """Whether a node reads what must be turned."""
    return found.turned.keys() <= set(made.operands[:2])


def turned(found: Unseen, nodes: Iterable[Application], values: Values) -> Values:
    """Values that are the same but for what must be turned; those of ``nodes`` are yet to be found."""
    stale = {number for made in nodes for number in made.numbers}
    known = {number: items for number, items in values.found.items() if number not in stale}
    known.update({number: [array] * len(values.samples) for number, array in found.turned.items()})
    return Values(values.expressions, values.samples, values.opset, known)


def reason(found: Unseen, error: EvaluationError | None = None) -> str:
    """Why what a pass did to the region is not compared."""
    if error is None:
        return f"{found}: no sample runs it, and the pass put something else in its node's place"
    return f"{found}: no sample runs it, and made to run it fails: {error.message}"


def holds_control_flow(made: Application) -> bool:
    """Whether the regions of a node hold control flow themselves."""
    regions = () if made.regions is None else made.regions.regions.values()
    return any(node.regions and not node.is_fused for region in regions for node in region)
