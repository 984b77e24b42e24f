"""Constant folding under a size budget.

A node is foldable when it is deterministic and its inputs are constants or results of foldable
nodes. What other nodes use of foldable results (the *frontier*) would become constants. A model
must not grow by that: dequantizing int8 weights ahead of time makes them four times as large. So a
frontier value is folded only when its bytes are at most the bytes of the constants that fall dead
with it, plus ``max_growth``. Where it isn't, the node stays and its own inputs become the frontier.

DequantizeLinear is never folded, however small the weight: it says how the tensor is quantized, which
``lower-int8`` has to know. The back end computes what is constant once, when it compiles.

All values that are folded are computed together in one run of ONNX Runtime, the engine that
defines the numbers of the model anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.errors import EvaluationError, TypeInferenceError
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, TensorType, Type, refines
from graphopt.ops import SEMANTICS, is_pure
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.dead_code import erase_chain, open_nodes
from graphopt_passes.shapes import known_tensor

_AMPLIFIERS = frozenset(
    {"CenterCropPad", "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile"}
)
"""The size of what these give is in the contents of their inputs and has no bound."""
_CONE_LIMIT = 4096
"""Nodes of a cone that are looked at to find the constants that fall dead; larger ones stay."""


@register_pass("fold-constants")
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants only, unless the model would grow."""

    effect = Effect.EXACT
    max_growth: int = field(
        default=4096,
        metadata={"help": "bytes by which one folded value may exceed the constants it replaces", "min": 0},
    )
    max_bytes: int = field(
        default=256 << 20,
        metadata={"help": "bytes of all folded values together; the largest part of memory used", "min": 0},
    )

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Folds what types tell, then what the constants give."""
        _fold_known(rewriter)
        from graphopt.evaluate import evaluate_nodes

        cone = _Cone(rewriter.graph.body, self.max_bytes)
        frontier = self._frontier(cone)
        if not frontier:
            return
        for value, array in evaluate_nodes(cone.behind(frontier), rewriter.graph, frontier).items():
            tensor = Tensor.of(array, value.tensor.dtype)
            if value.tensor.is_static or tensor.nbytes <= self.max_growth:
                _replace(rewriter, value, tensor)

    def _frontier(self, cone: _Cone) -> list[Value]:
        """The values to fold, in program order."""
        chosen: list[Value] = []
        folded: set[Node] = set()
        spent = 0
        for node in reversed(cone.nodes):
            needed = [v for v in node.outputs if any(use.user not in folded for use in v.uses)]
            size = sum(_bytes(value.tensor) for value in needed)
            if spent + size > self.max_bytes:
                continue
            if size <= self.max_growth or size <= self.max_growth + cone.freed_by(node):
                spent += size
                chosen += needed
                folded.add(node)
        return chosen[::-1]


class _Cone:
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
            and _bytes(type) <= self.max_bytes
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


def _bytes(type: TensorType) -> int:
    """Bytes of a value; 0 while its size depends on data (NonZero), which is looked at afterwards."""
    elements, dtype = type.num_elements, type.dtype
    assert dtype is not None
    return (elements * dtype.bits + 7) // 8 if isinstance(elements, int) else 0


def _fold_known(rewriter: Rewriter) -> None:
    """Replaces sizes of static shapes; longer chains are the business of simplify-shapes."""
    for node in open_nodes(rewriter.graph.body):
        if node.op in ("Shape", "Size") and not node.domain and node.output.num_uses:
            tensor = known_tensor(node.output)
            if tensor is not None:
                with rewriter.rewrite("static-shape", node):
                    rewriter.replace_node(node, [rewriter.constant(tensor)])


def _replace(rewriter: Rewriter, value: Value, tensor: Tensor) -> None:
    node = value.producer
    if node is None or not refines(tensor.type, value.type):
        raise EvaluationError(f"%{value.name} was computed as {tensor.type}, the graph says {value.type}")
    with rewriter.rewrite("constant", node):
        rewriter.replace(value, rewriter.constant(tensor, value.name))
        erase_chain(rewriter, node, constants=True)
