"""Arithmetic on shapes, done when the model is compiled.

What a small integer tensor holds is known as an expression over the symbols of the graph's shapes
(:func:`graphopt.ops.symbolic_content`). From that:

- all numbers: the tensor becomes a constant;
- numbers and sizes of the graph's inputs: it is read from these inputs (Shape with ``start`` and
  ``end``), not computed from tensors in the middle of the graph;
- the target of a Reshape becomes a constant: numbers where they are known, 0 ("as in the input")
  where the input has the same size at this place, -1 for at most one other;
- so do the target of an Expand (1 where the input has the size already) and the end of a Slice
  that goes to the end.

A tensor without elements is the one case where ``-1`` can fail and the original did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.dims import Dim, SymDim
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.ops import is_pure, symbolic_content
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.dead_code import erase_chain, open_nodes

_MAX_ELEMENTS = 64
_Sources = dict[Dim, tuple[Value, int]]


@register_pass("simplify-shapes")
@dataclass(frozen=True)
class SimplifyShapes(Pass):
    """Compute shapes at compile time: constants where sizes are known, short chains where they are not."""

    effect = Effect.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Rewrites shape arithmetic from its ends, so that what falls dead is never looked at."""
        sources = _input_dims(rewriter)
        for node in reversed(_shape_arithmetic(rewriter.graph.body)):
            if node.erased:
                continue
            _simplify_target(rewriter, node)
            for value in node.outputs:
                if value.num_uses:
                    _simplify_content(rewriter, node, value, sources)


def known_tensor(value: Value) -> Tensor | None:
    """What ``value`` holds when types alone tell it; None otherwise."""
    dtype, shape = value.tensor.dtype, value.tensor.shape
    if dtype is None or shape is None or len(shape) > 1 or not (dtype.is_integer or dtype is DType.BOOL):
        return None
    content = symbolic_content(value)
    if content is None or not all(isinstance(dim, int) for dim in content):
        return None
    if shape and shape[0] != len(content):
        return None
    return Tensor.of(
        np.array(content, np.int64).astype(dtype.numpy).reshape((len(content),) if shape else ())
    )


def _input_dims(rewriter: Rewriter) -> _Sources:
    """Where each symbol can be read: an input of the graph and an axis."""
    sources: _Sources = {}
    for value in rewriter.graph.inputs:
        for axis, dim in enumerate(value.tensor.shape or ()):
            if isinstance(dim, SymDim) and dim.symbol is not None:
                sources.setdefault(dim, (value, axis))
    return sources


def _shape_arithmetic(body: Region) -> list[Node]:
    """Nodes that depend on Shape or Size through integers, and those that take such values."""
    found: list[Node] = []
    derived: set[Value] = set()
    for node in open_nodes(body):
        if node.op in ("Shape", "Size") or any(v in derived for v in node.inputs):
            found.append(node)
            derived.update(v for v in node.outputs if _is_small(v))
    return found


def _is_small(value: Value) -> bool:
    shape = value.tensor.shape
    if shape is None or len(shape) > 1:
        return False
    return all(isinstance(dim, int) and dim <= _MAX_ELEMENTS for dim in shape)


# --- values ---------------------------------------------------------------------------------------


def _simplify_content(rewriter: Rewriter, node: Node, value: Value, sources: _Sources) -> None:
    if not is_pure(node) or not _is_small(value):
        return
    tensor = known_tensor(value)
    if tensor is not None:
        with rewriter.rewrite("known-content", node):
            rewriter.replace(value, rewriter.constant(tensor))
            erase_chain(rewriter, node)
        return
    content = symbolic_content(value)
    if content is None or value.tensor.dtype is not DType.I64 or _reads_inputs(node, sources):
        return
    if all(isinstance(dim, int) or dim in sources for dim in content):
        with rewriter.rewrite("sizes-of-inputs", node):
            rewriter.replace(value, _read_sizes(rewriter, value, content, sources))
            erase_chain(rewriter, node)


def _reads_inputs(node: Node, sources: _Sources) -> bool:
    """Whether ``node`` is already what :func:`_read_sizes` makes, so that the pass comes to an end."""
    if node.op == "Shape":
        return any(node.inputs[0] is value for value, _ in sources.values())
    if node.op not in ("Concat", "Squeeze"):
        return False
    parts = node.inputs if node.op == "Concat" else node.inputs[:1]
    return all(
        v is not None and (v.is_constant or (v.producer is not None and _is_size_read(v.producer, sources)))
        for v in parts
    )


def _is_size_read(node: Node, sources: _Sources) -> bool:
    return node.op == "Shape" and _reads_inputs(node, sources)


def _read_sizes(rewriter: Rewriter, value: Value, content: Sequence[Dim], sources: _Sources) -> Value:
    parts = [_read_run(rewriter, run, sources) for run in _runs(content, sources)]
    joined = parts[0] if len(parts) == 1 else rewriter.create("Concat", parts, {"axis": 0}).output
    if value.tensor.rank == 0:
        return rewriter.create("Squeeze", [joined, rewriter.constant(np.array([0], np.int64))]).output
    return joined


def _runs(content: Sequence[Dim], sources: _Sources) -> list[list[Dim]]:
    """Cuts ``content`` where it can't go on with the same constant or Shape."""
    runs: list[list[Dim]] = []
    for dim in content:
        if runs and _continues(runs[-1][-1], dim, sources):
            runs[-1].append(dim)
        else:
            runs.append([dim])
    return runs


def _continues(last: Dim, dim: Dim, sources: _Sources) -> bool:
    if isinstance(last, int) or isinstance(dim, int):
        return isinstance(last, int) and isinstance(dim, int)
    (value, axis), (next_value, next_axis) = sources[last], sources[dim]
    return value is next_value and next_axis == axis + 1


def _read_run(rewriter: Rewriter, run: list[Dim], sources: _Sources) -> Value:
    if isinstance(run[0], int):
        return rewriter.constant(np.array(run, np.int64))
    value, axis = sources[run[0]]
    return rewriter.create("Shape", [value], {"start": axis, "end": axis + len(run)}).output


# --- operands -------------------------------------------------------------------------------------


def _simplify_target(rewriter: Rewriter, node: Node) -> None:
    """Makes the target of Reshape or Expand, or the ends of Slice, constant where they can be."""
    index = {"Reshape": 1, "Expand": 1, "Slice": 2}.get(node.op)
    operand = node.input(index) if index is not None and not node.domain else None
    if index is None or operand is None or operand.is_constant:
        return
    content = symbolic_content(operand)
    if content is None:
        return
    target = _TARGETS[node.op](node, content)
    if target is None:
        return
    dtype = operand.tensor.dtype or DType.I64
    with rewriter.rewrite(f"constant-{node.op.lower()}", node):
        rewriter.set_input(node, index, rewriter.constant(np.array(target, dtype.numpy)))
        rewriter.set_attr(node, "allowzero", None)
        if operand.producer is not None:
            erase_chain(rewriter, operand.producer)


def _reshape_target(node: Node, content: Sequence[Dim]) -> list[int] | None:
    source = node.inputs[0].tensor.shape if node.inputs[0] is not None else None
    if node.attrs.get("allowzero", 0) and 0 in content:
        return None
    target: list[int] = []
    for axis, dim in enumerate(content):
        if isinstance(dim, int):
            target.append(dim)
        else:
            copied = source is not None and axis < len(source) and source[axis] == dim
            target.append(0 if copied else -1)
    return target if target.count(-1) <= 1 else None


def _expand_target(node: Node, content: Sequence[Dim]) -> list[int] | None:
    source = node.inputs[0].tensor.shape if node.inputs[0] is not None else None
    if source is None:
        return None
    target: list[int] = []
    for axis, dim in enumerate(content, len(source) - len(content)):
        if isinstance(dim, int):
            target.append(dim)
        elif axis >= 0 and source[axis] == dim:
            target.append(1)
        else:
            return None
    return target


def _slice_ends(node: Node, content: Sequence[Dim]) -> list[int] | None:
    source = node.inputs[0].tensor.shape if node.inputs[0] is not None else None
    axes_value, steps = node.input(3), node.input(4)
    axes = symbolic_content(axes_value) if axes_value is not None else tuple(range(len(content)))
    if source is None or axes is None or (steps is not None and not _all_positive(steps)):
        return None
    to_the_end = np.iinfo((node.inputs[2].tensor.dtype or DType.I64).numpy).max if node.inputs[2] else 0
    ends: list[int] = []
    for axis, end in zip(axes, content, strict=True):
        if isinstance(end, int):
            ends.append(end)
        elif isinstance(axis, int) and -len(source) <= axis < len(source) and source[axis] == end:
            ends.append(to_the_end)
        else:
            return None
    return ends


def _all_positive(steps: Value) -> bool:
    content = symbolic_content(steps)
    return content is not None and all(isinstance(step, int) and step > 0 for step in content)


_TARGETS = {"Reshape": _reshape_target, "Expand": _expand_target, "Slice": _slice_ends}
