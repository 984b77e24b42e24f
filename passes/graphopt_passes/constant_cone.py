"""The part of a graph that constants alone decide, and that may be computed ahead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import TypeInferenceError
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops import SEMANTICS, is_pure
from graphopt_passes.dead_code import open_nodes

_AMPLIFIERS = frozenset(
    {"CenterCropPad", "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile"}
)
"""The size of what these give is in the contents of their inputs and has no bound."""
_CONE_LIMIT = 4096
"""Nodes of a cone that are looked at to find the constants that fall dead; larger ones stay."""


class Cone:
    """The foldable nodes of a graph in program order."""

    def __init__(self, body: Region, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nodes: list[Node] = []
        self.members: set[Node] = set()
        for node in open_nodes(body):
            if self._is_foldable(node):
                self.nodes.append(node)
                self.members.add(node)

    def _is_foldable(self, node: Node) -> bool:
        if node.regions or not is_pure(node):
            return False
        if node.op == "DequantizeLinear" and not node.domain:
            return False
        if not all(v.is_constant or v.producer in self.members for v in node.inputs if v is not None):
            return False
        if _may_trap(node):
            return False
        types = _output_types(node)
        # What lies in between is computed too, however little comes out in the end.
        return all(
            isinstance(type, TensorType)
            and type.dtype not in (None, DType.STR)
            and bytes_of(type) <= self.max_bytes
            and (type.is_static or node.op not in _AMPLIFIERS)
            for type in types
        )

    def behind(self, values: Sequence[Value]) -> list[Node]:
        """The nodes that ``values`` depend on, in program order."""
        needed: set[Node] = set()
        pending = [value.producer for value in values]
        while pending:
            node = pending.pop()
            if node is not None and node not in needed:
                needed.add(node)
                pending += [value.producer for value in node.inputs if value is not None]
        return [node for node in self.nodes if node in needed]

    def freed_by(self, root: Node) -> int:
        """Bytes of the constants that nothing needs any more once ``root`` is a constant."""
        freed: set[Node] = set()
        total = 0
        pending: dict[Node | Value, None] = {root: None}
        # A node is freed when all its users are; whoever is not yet is offered again by the next user.
        while pending and len(freed) <= _CONE_LIMIT:
            item = next(iter(pending))
            del pending[item]
            values = item.outputs if isinstance(item, Node) else [item]
            if item is not root and any(use.user not in freed for v in values for use in v.uses):
                continue
            if isinstance(item, Value):
                total += item.const.nbytes if item.const is not None else 0
                continue
            freed.add(item)
            for value in item.inputs:
                if value is not None:
                    pending[value.producer or value] = None
        return total


def _output_types(node: Node) -> list[Type]:
    """The types of the outputs; of an amplifier by what is known of its inputs by now."""
    types = [value.type for value in node.outputs]
    if node.op in _AMPLIFIERS and not all(isinstance(t, TensorType) and t.is_static for t in types):
        try:
            return SEMANTICS.infer(node)
        except TypeInferenceError:
            return types  # It fails when it runs; that is not for a pass to say.
    return types


def _may_trap(node: Node) -> bool:
    """Whether computing ``node`` may end the process: so does the hardware on an integer division by
    zero, and on the smallest integer by -1, whose quotient is not representable."""
    if node.op not in ("Div", "Mod") or node.domain:
        return False
    divisor = node.inputs[1]
    if divisor is None or divisor.tensor.dtype is None or divisor.tensor.dtype.is_float:
        return False
    return divisor.const is None or bool(np.isin(divisor.const.numpy(), (0, -1)).any())


def bytes_of(type: TensorType) -> int:
    """Bytes of a value; 0 while its size depends on data (NonZero), which is looked at afterwards."""
    elements, dtype = type.num_elements, type.dtype
    assert dtype is not None
    return (elements * dtype.bits + 7) // 8 if isinstance(elements, int) else 0
