"""Regions: which nodes become one kernel.

A node may join the region of its consumers when *all* its uses lie in that one region. Walking
against program order, this decides dominance on the fly: the region's last node post-dominates
every member, so the region has one output, and since a member has no way out but through the
region, contracting it can't close a cycle. Each node is looked at a constant number of times.

Two sweeps:

1. *Epilogues.* Elementwise nodes of equal shape gather, and at most one heavy node (convolution,
   product, reduction) joins at their start. Its result then goes through the rest in registers.
2. *Chains.* Regions without a heavy node join the region that consumes them, through broadcasts
   and movement too. What is read several times (broadcast, gather) must be cheap, for it is
   computed at each read. Movement never joins a region with a heavy node, and nothing joins the
   inputs of a heavy node: it reads them over and over.

Views at the border of a region are left outside, where they cost nothing, and so is a Concat whose
pieces are computed by kernels of their own side by side. Nodes that depend on
constants only stay out for whoever evaluates them ahead of time, but for the cheap ones under a
gather (an int8 embedding is gathered first and widened then).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.analysis import ConstantNodes
from graphopt.ir.graph import Node, Region, Use, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt.targets import Target
from graphopt_passes.region_rules import (
    can_be_inside,
    is_cheap,
    is_elementwise,
    is_heavy,
    is_narrow_weight,
    is_view,
    joins_in_place,
    reads_data,
    rereads,
    same_shape,
    used_outputs,
)


@register_pass("fuse-regions")
@dataclass(frozen=True)
class FuseRegions(Pass):
    """Group nodes into regions, each to become one kernel: epilogues onto heavy nodes, chains together."""

    effect = Effect.EXACT
    max_ops: int = field(default=32, metadata={"help": "the most nodes in one region", "min": 1})

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Forms regions in the graph and in the regions of its control flow."""
        constant = rewriter.analysis(ConstantNodes)
        self._in_region(rewriter, context, rewriter.graph.body, constant)

    def _in_region(
        self, rewriter: Rewriter, context: Context, region: Region, constant: ConstantNodes
    ) -> None:
        nodes = region.nodes
        for node in nodes:
            for inner in node.regions.values():
                if not inner.is_isolated:
                    self._in_region(rewriter, context, inner, constant)
        for members in plan_regions(nodes, self.max_ops, constant, context.target):
            (output,) = used_outputs(members[-1])
            heavy = next((n for n in members if is_heavy(n)), members[-1])
            with rewriter.rewrite("region", members[-1]):
                rewriter.fuse(members, output, name=heavy.name)


def plan_regions(
    nodes: Sequence[Node], max_ops: int, constant: ConstantNodes, target: Target | None = None
) -> list[list[Node]]:
    """The regions of two nodes or more to form among ``nodes`` of one region, all in program order."""
    plan = _Plan(nodes, max_ops, constant, target)
    regions: list[list[Node]] = []
    for group in plan.groups():
        members = plan.members(group)
        if len(members) < 2:
            continue
        refused = target is not None and target.can_emit([n.op_type for n in members]) is not None
        if refused and max_ops > 1:
            regions += plan_regions(members, min(max_ops, len(members)) // 2, constant, target)
        elif not refused:
            regions.append(members)
    return regions


@dataclass(eq=False, slots=True)
class _Group:
    """A region to be; ``members`` against program order, ``rereading`` those computed more than once."""

    members: list[Node]
    heavy: Node | None = None
    rereading: set[Node] = field(default_factory=set)

    @property
    def sink(self) -> Node:
        return self.members[0]


class _Plan:
    def __init__(
        self, nodes: Sequence[Node], max_ops: int, constant: ConstantNodes, target: Target | None
    ) -> None:
        self.nodes = nodes
        self.max_ops = max_ops
        self.joins = {node for node in nodes if joins_in_place(node, target)}
        self.alone: dict[Node, bool] = {}
        self.place = {node: index for index, node in enumerate(nodes)}
        self.constant = constant
        self.group_of: dict[Node, _Group] = {}

    def groups(self) -> list[_Group]:
        """All groups in program order of their last nodes, less those of constants only."""
        for node in reversed(self.nodes):
            if can_be_inside(node):
                self._begin(node)
        for node in reversed(self.nodes):
            group = self.group_of.get(node)
            if group is not None and group.sink is node:
                self._merge(group)
        sinks = [n for n in self.nodes if n not in self.constant]
        return [g for n in sinks if (g := self.group_of.get(n)) is not None and g.sink is n]

    def members(self, group: _Group) -> list[Node]:
        """The members of ``group`` in program order without what costs nothing at its border."""
        kept: dict[Node, None] = {}
        for node in sorted(group.members, key=self.place.__getitem__):
            free = is_view(node) or node in self.joins
            sources = node.inputs[:1] if is_view(node) else node.inputs
            if not free or any(value is not None and value.producer in kept for value in sources):
                kept[node] = None
        while kept and is_view(last := next(reversed(kept))):
            del kept[last]
        return list(kept)

    def _begin(self, node: Node) -> None:
        """First sweep: ``node`` joins its consumers' epilogue or starts a group."""
        heavy = node if is_heavy(node) else None
        group = self._consumer(node)
        if group is None or not self._joins_epilogue(node, group):
            self.group_of[node] = _Group([node], heavy)
            return
        group.members.append(node)
        group.heavy = heavy or group.heavy
        self.group_of[node] = group

    def _joins_epilogue(self, node: Node, group: _Group) -> bool:
        if node in self.constant or len(group.members) >= self.max_ops:
            return False
        if not (is_elementwise(node) or (is_heavy(node) and group.heavy is None)):
            return False
        outputs = used_outputs(node)
        return len(outputs) == 1 and all(
            user is not group.heavy and is_elementwise(user) and same_shape(outputs[0], user.outputs[0])
            for user in outputs[0].users
        )

    def _merge(self, group: _Group) -> None:
        """Second sweep: the whole ``group`` joins the group of its consumers, if there is one and it may."""
        into = self._consumer(group.sink)
        if into is None or group.heavy is not None or len(group.members) + len(into.members) > self.max_ops:
            return
        if len(used_outputs(into.sink)) != 1:
            return
        if self._is_alone(into.sink):
            return
        uses = [(use, value) for value in used_outputs(group.sink) for use in value.uses]
        if any(not self._may_read(use, value, into) for use, value in uses):
            return
        if into.heavy is not None and not all(is_elementwise(node) for node in group.members):
            return
        if any(rereads(use, value) or use.user in into.rereading for use, value in uses):
            if not all(is_cheap(node) for node in group.members):
                return
            into.rereading.update(group.members)
        into.members += group.members
        into.rereading |= group.rereading
        for node in group.members:
            self.group_of[node] = into

    def _is_alone(self, sink: Node) -> bool:
        """Whether it is a Concat that is free alone, of pieces of which some would else be copied."""
        if sink not in self.joins:
            return False
        if sink not in self.alone:
            groups = [self.group_of.get(piece.producer) for piece in sink.inputs if piece and piece.producer]
            self.alone[sink] = any(group is None or group.heavy is not None for group in groups)
        return self.alone[sink]

    def _may_read(self, use: Use, value: Value, into: _Group) -> bool:
        user = use.user
        assert isinstance(user, Node)
        if is_narrow_weight(use, value):
            return True
        if user is into.heavy or not reads_data(use):
            return False
        if value.producer in self.constant:
            return user in self.constant or (user.op == "Gather" and use.index == 0)
        return True

    def _consumer(self, node: Node) -> _Group | None:
        """The one group that holds all users of ``node``, None when there is not exactly one."""
        found: _Group | None = None
        for value in node.outputs:
            for use in value.uses:
                group = self.group_of.get(use.user) if isinstance(use.user, Node) else None
                if group is None or (found is not None and group is not found):
                    return None
                found = group
        return found
