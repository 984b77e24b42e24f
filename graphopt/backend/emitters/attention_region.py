"""Which regions are an attention: softmax(Q K' * scale + mask) V, as the pass ``fuse-attention`` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backend.emitters.registry import EMITTERS
from graphopt.backend.readers import READERS
from graphopt.backend.readers.movement import operand
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.ir.graph import Node, Value
from graphopt.ops import Kind, info


@dataclass(frozen=True)
class Attention:
    """The nodes that stand out in a region that is an attention."""

    scores: Node
    softmax: Node
    result: Node
    transpose: Node | None


def attention_in(region: KernelRegion) -> Attention | None:
    """The attention that a region is, as the pass ``fuse-attention`` makes them; else None."""
    products = [node for node in region.nodes if node.op_type == "MatMul"]
    softmaxes = [node for node in region.nodes if node.op_type == "Softmax"]
    if len(products) != 2 or len(softmaxes) != 1 or len(region.outputs) != 1:
        return None
    (scores, result), (softmax,), (final,) = products, softmaxes, region.outputs
    last = final.producer
    transpose = last if last is not None and last.op_type == "Transpose" else None
    if (final if transpose is None else operand(transpose, 0)) is not result.outputs[0]:
        return None
    parts = Attention(scores, softmax, result, transpose)
    return parts if _is_in_shape(parts) and _is_connected(region, parts) else None


def _is_in_shape(parts: Attention) -> bool:
    """Whether scores, weights and result are the same batches of float32 matrices."""
    scores, result = parts.scores.outputs[0], parts.result.outputs[0]
    shape, weights = shape_of(scores), parts.softmax.outputs[0]
    operands = [operand(node, index) for node in (parts.scores, parts.result) for index in (0, 1)]
    return (
        all(dtype_of(value) == "float32" for value in (scores, weights, result))
        and all(len(shape_of(value)) >= 2 for value in operands)
        and shape_of(operand(parts.softmax, 0)) == shape_of(weights) == shape
        and shape_of(operand(parts.result, 0)) == shape
        and shape_of(result)[:-1] == shape[:-1]
        and parts.softmax.attrs.get("axis", -1) in (-1, len(shape) - 1)
    )


def _is_connected(region: KernelRegion, parts: Attention) -> bool:
    """Whether softmax is of an elementwise function of the scores, the result of one of the weights, and
    everything else can be read where it is needed, without these."""
    scores, weights = parts.scores.outputs[0], parts.softmax.outputs[0]
    shape, heavy = shape_of(scores), (parts.scores, parts.softmax, parts.result)
    others = [node for node in region.nodes if node not in heavy]
    if any(node.domain or node.op not in READERS or node.op in EMITTERS for node in others):
        return False
    # What each value is made of; None where not by elementwise functions alone.
    made: dict[Value, Node | None] = {scores: parts.scores, weights: parts.softmax}
    for node in others:
        of = {made[value] for value in node.inputs if value in made}
        if not of:
            continue
        kind = info(node)
        pointwise = kind is not None and kind.kind is Kind.ELEMENTWISE and len(of) == 1
        for value in node.outputs:
            made[value] = next(iter(of)) if pointwise and shape_of(value) == shape else None
    return (
        made.get(operand(parts.softmax, 0)) is parts.scores
        and made.get(operand(parts.result, 0)) is parts.softmax
        and not any(value in made for value in (*parts.scores.inputs, operand(parts.result, 1)))
    )
