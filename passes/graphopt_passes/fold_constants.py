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

from dataclasses import dataclass, field

from graphopt.errors import EvaluationError
from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import refines
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.constant_cone import Cone, bytes_of
from graphopt_passes.dead_code import erase_chain, open_nodes
from graphopt_passes.shapes import known_tensor


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

        cone = Cone(rewriter.graph.body, self.max_bytes)
        frontier = self._frontier(cone)
        if not frontier:
            return
        for value, array in evaluate_nodes(cone.behind(frontier), rewriter.graph, frontier).items():
            tensor = Tensor.of(array, value.tensor.dtype)
            if value.tensor.is_static or tensor.nbytes <= self.max_growth:
                _replace(rewriter, value, tensor)

    def _frontier(self, cone: Cone) -> list[Value]:
        """The values to fold, in program order."""
        chosen: list[Value] = []
        folded: set[Node] = set()
        spent = 0
        for node in reversed(cone.nodes):
            needed = [v for v in node.outputs if any(use.user not in folded for use in v.uses)]
            size = sum(bytes_of(value.tensor) for value in needed)
            if spent + size > self.max_bytes:
                continue
            if size <= self.max_growth or size <= self.max_growth + cone.freed_by(node):
                spent += size
                chosen += needed
                folded.add(node)
        return chosen[::-1]


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
