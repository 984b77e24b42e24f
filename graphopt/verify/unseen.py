"""Regions that no sample runs: the branch of an If that is not taken, the body of a Loop without trips.

What decides is turned, for a node as it was and as it is alike, and what depends on it is computed anew. All else
stays, so that the region runs on values that the model really has; where an input has a part in both, maybe not on
all of them at once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Region
from graphopt.ir.tensor import Array
from graphopt.verify.cone import applications_behind
from graphopt.verify.expressions import Application, Expressions, Leaf
from graphopt.verify.values import Values

_TRIPS = 2
_MOST_TRIPS = 100
"""A constant count of more trips is no bound for a loop whose condition is turned."""
_SHOWN = 160


@dataclass(frozen=True)
class Unseen:
    """A region that no sample runs.

    Attributes:
        region: the attribute that holds it.
        node: label of its node.
        turned: what the node must read, by number, to run it; empty where it might then run without an end.
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
    held = {number: [np.reshape(item, -1)[0] > 0 for item in values.of(number)] for number in deciding}
    runs = [all(of_sample) for of_sample in zip(*held.values(), strict=True)]
    wrong = [number for number in deciding if not all(held[number])]
    if made.op == "If":
        if len(set(runs)) > 1:
            return None
        region = "else_branch" if all(runs) else "then_branch"
        new: dict[int, Any] = {deciding[0]: not all(runs)}
    elif not wrong or any(runs):
        return None
    else:
        region = "body"
        new = _bounded(made, wrong, values)
    if not all(values.expressions.varies(number) for number in (new or wrong)):
        return None
    turned = {number: np.full_like(values.of(number)[0], item) for number, item in new.items()}
    return Unseen(region, made.label, turned)


def _bounded(made: Application, wrong: Sequence[int], values: Values) -> dict[int, Any]:
    """What makes a loop run, and end; empty where nothing is known to."""
    count, condition = made.operands[:2]
    if count is None:
        return {}
    if not values.expressions.varies(count) and values.of(count)[0] > _MOST_TRIPS:
        return {}
    trips = {count: _TRIPS} if values.expressions.varies(count) else {}
    return {**trips, **{number: True for number in wrong if number == condition}}


def changed(old: Application, new: Application | Leaf) -> set[str]:
    """The regions of a node that a pass changed; all of them where it put something else in the node's place."""
    if not isinstance(new, Application) or new.op != old.op:
        return set(old.region_keys)
    return {name for name, key in old.region_keys.items() if new.region_keys.get(name) != key}


def affected(found: Unseen, wanted: Iterable[int], values: Values) -> list[Application]:
    """What depends on what is turned, of all that computes ``wanted``, operands first."""
    changed = set(found.turned)
    depending = []
    for made in applications_behind(values.expressions, wanted, found.turned):
        if not changed.isdisjoint(made.sources):
            changed.update(made.numbers)
            depending.append(made)
    return depending


def turned(found: Unseen, stale: Iterable[Application], values: Values) -> Values:
    """Values that are the same but for what must be turned; those of ``stale`` are yet to be found."""
    dropped = {number for made in stale for number in made.numbers}
    known = {number: items for number, items in values.found.items() if number not in dropped}
    known.update({number: [array] * len(values.samples) for number, array in found.turned.items()})
    return Values(values.expressions, values.samples, values.opset, known)


def is_possible(found: Unseen, wanted: Iterable[int], expressions: Expressions) -> bool:
    """Whether inputs can surely be such that ``wanted`` is computed from what is turned and all else as it is.

    It may not be so where an input has a part both in what is turned and in the rest: of ``x > 0`` and ``x``.
    """
    deciding = _inputs_behind(expressions, found.turned, ())
    return deciding.isdisjoint(_inputs_behind(expressions, wanted, found.turned))


def _inputs_behind(expressions: Expressions, wanted: Iterable[int], known: Container[int]) -> set[int]:
    wanted = list(wanted)
    read = [n for made in applications_behind(expressions, wanted, known) for n in made.sources]
    leaves = [n for n in (*wanted, *read) if n not in known and isinstance(expressions.table[n], Leaf)]
    return set(filter(expressions.varies, leaves))


def may_not_end(made: Application) -> bool:
    """Whether a node, on numbers that it never gets, might run without an end."""
    regions = made.regions.regions if made.regions is not None else ()
    return made.op == "Loop" or any(holds_control_flow(made, region) for region in regions)


def obstacle(found: Unseen, new: Application | Leaf) -> str:
    """Why the region can't be made to run in what took the node's place; empty where it can."""
    if not isinstance(new, Application) or found.region not in new.region_keys:
        return "the pass put something else in its node's place"
    if not found.turned:
        return "made to run it might not end"
    if not found.turned.keys() <= set(new.operands[:2]):
        return "the pass changed what decides on it"
    return ""


def told(found: Unseen, why: str) -> str:
    """That the region is not compared, in words."""
    return f"{found}: no sample runs it, and {textwrap.shorten(why, _SHOWN, placeholder='...')}"


def holds_control_flow(made: Application | Leaf, region: str) -> bool:
    """Whether this region of a node, if it has it, holds control flow itself."""
    node = made.regions if isinstance(made, Application) else None
    return node is not None and region in node.regions and _any_inside(node.regions[region])


def _any_inside(region: Region) -> bool:
    return any(node.regions and (not node.is_fused or _any_inside(node.body)) for node in region)
