"""Attention as one region: ``softmax(Q K' * scale + mask) V`` with all that stands in between.

The scores are as large as the sequence squared, so they should never lie in memory. A region is made
of both products, the softmax, what is done elementwise to the scores before it and to the weights
after it (scale, mask, dropping NaN), the transpositions and scales of the operands, and a
transposition of the result: splitting heads apart and joining them then costs nothing. The body
stays plain ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.types import DType
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.region_rules import is_elementwise, same_shape

_SCALES = frozenset({"Mul", "Div"})


@register_pass("fuse-attention")
@dataclass(frozen=True)
class FuseAttention(Pass):
    """Group attention, softmax(Q K' * scale + mask) V, into one region, to become one kernel."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Forms regions in the graph and in the regions of its control flow."""
        self._in_region(rewriter, context, rewriter.graph.body)

    def _in_region(self, rewriter: Rewriter, context: Context, region: Region) -> None:
        nodes = region.nodes
        place = {node: index for index, node in enumerate(nodes)}
        for node in nodes:
            for inner in node.regions.values():
                if not inner.is_isolated:
                    self._in_region(rewriter, context, inner)
        for members, output in [found for node in nodes if (found := attention_of(node)) is not None]:
            ordered = sorted(members, key=place.__getitem__)
            types = [member.op_type for member in ordered]
            if context.target is not None and context.target.can_emit(types) is not None:
                continue
            with rewriter.rewrite("attention", ordered[-1]):
                rewriter.fuse(ordered, output, name=ordered[-1].name)


def attention_of(node: Node) -> tuple[list[Node], Value] | None:
    """The nodes of the attention whose second product ``node`` is, and its result; None where it is none."""
    if not _is_product(node):
        return None
    weights, values = (value for value in node.inputs if value is not None)
    after = _down_to(weights, "Softmax")
    if after is None or not _is_last_axis(after[-1]):
        return None
    before = _down_to(after[-1].inputs[0], "MatMul")
    if before is None or not _is_product(before[-1]) or not _has_batches_of(node.output, weights):
        return None
    members = [node, *after, *before]
    if len(set(members)) != len(members):
        return None
    for value in (values, *before[-1].inputs):
        # An operand may be two of these, which then have their lead in common.
        members += [] if value is None else list(_lead(value, members))
    output = node.output
    user = output.uses[0].user if output.num_uses == 1 and not output.is_output else None
    if isinstance(user, Node) and user.op_type == "Transpose":
        members.append(user)
        output = user.output
    inside = set(members)
    escapes = any(
        value is not output and (value.is_output or any(use.user not in inside for use in value.uses))
        for member in members
        for value in member.outputs
    )
    return None if escapes else (members, output)


def _is_product(node: Node) -> bool:
    """Whether ``node`` is a product of stacks of matrices, neither of them constant."""
    if node.op_type != "MatMul":
        return False
    operands = [value for value in node.inputs if value is not None]
    return all(
        not value.is_constant
        and value.tensor.dtype is DType.F32
        and value.tensor.shape is not None
        and len(value.tensor.shape) >= 3
        for value in operands
    )


def _is_last_axis(softmax: Node) -> bool:
    shape = softmax.output.tensor.shape
    return shape is not None and softmax.attrs.get("axis", -1) in (-1, len(shape) - 1)


def _has_batches_of(result: Value | None, weights: Value | None) -> bool:
    """Whether there is one matrix of results for each of weights, and no matrix of weights is used for several."""
    shapes = [value.tensor.shape for value in (result, weights) if value is not None]
    return len(shapes) == 2 and None not in shapes and shapes[0][:-2] == shapes[1][:-2]  # type: ignore[index]


def _down_to(value: Value | None, op: str) -> list[Node] | None:
    """Elementwise nodes of the shape of ``value`` that it is computed by from the one node ``op``, then that."""
    assert value is not None
    found: list[Node] = []
    goal: list[Node] = []

    def depends(current: Value) -> bool:
        node = current.producer
        if node is None or not same_shape(current, value) or len(node.outputs) != 1:
            return False
        if node in found or node in goal:
            return True
        if node.op_type == op:
            goal.append(node)
            return True
        if not is_elementwise(node) or node.regions:
            return False
        # All of them are looked at: a value may be used twice.
        if True not in [depends(operand) for operand in node.inputs if operand is not None]:
            return False
        found.append(node)
        return True

    return [*reversed(found), goal[0]] if depends(value) and len(goal) == 1 else None


def _lead(value: Value, members: list[Node]) -> Iterator[Node]:
    """Transpositions and scales of an operand that nothing else uses."""
    taken = set(members)
    while (node := value.producer) is not None and node not in taken:
        if value.is_output or len({use.user for use in value.uses}) != 1:
            return
        inputs = [operand for operand in node.inputs if operand is not None]
        if node.op_type in _SCALES and len(inputs) == 2 and _is_number(inputs[1]):
            value = inputs[0]
        elif node.op_type == "Mul" and _is_number(inputs[0]):
            value = inputs[1]
        elif node.op_type == "Transpose":
            value = inputs[0]
        else:
            return
        yield node


def _is_number(value: Value) -> bool:
    return value.const is not None and value.const.size == 1 and (value.tensor.rank or 0) == 0
