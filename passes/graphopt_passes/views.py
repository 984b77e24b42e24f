"""Movement that moves nothing, and movement that undoes or repeats movement.

Shapes are compared as types give them: equal symbols are equal sizes, so an output with the
shape of the input was reshaped to what it was. Transposes compose: ``transpose(transpose(x, p), q)``
has ``p[q[i]]`` as its permutation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dims import product
from graphopt.ir.graph import Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.rewrite import Match, Refusal, Rule, op, refuse, var
from graphopt_passes.region_rules import same_shape

RESHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def _keeps_shape(match: Match) -> Refusal | None:
    if same_shape(match["x"], match.root.output):
        return None
    return refuse("{} is not known to have the shape of {}", match["x"], match.root.output)


def take_x(rewriter: Rewriter, match: Match) -> Value:
    """The replacement ``x``."""
    return match["x"]


def _slices_all(match: Match) -> Refusal | None:
    steps = match.root.input(4)
    if steps is not None and not (steps.const is not None and bool((steps.const.numpy() > 0).all())):
        return refuse("{} may go backwards", match.root)
    return _keeps_shape(match)


def _pads_nothing(match: Match) -> Refusal | None:
    pads = match.root.input(1)
    if pads is None or not pads.is_constant or pads.const is None or bool(pads.const.numpy().any()):
        return refuse("the pads of {} are not all 0", match.root)
    return None


def permutation(node: Node, rank: int | None) -> tuple[int, ...] | None:
    """The permutation of a Transpose; None when it depends on an unknown rank."""
    perm = node.attrs.get("perm")
    if isinstance(perm, tuple):
        return tuple(int(axis) for axis in perm if isinstance(axis, int))
    return None if rank is None else tuple(reversed(range(rank)))


def _transposes_nothing(match: Match) -> Refusal | None:
    perm = permutation(match.root, match["x"].tensor.rank)
    if perm is not None and perm == tuple(range(len(perm))):
        return None
    return refuse("{} permutes", match.root)


def _compose(rewriter: Rewriter, match: Match) -> Value:
    first, second = (permutation(n, match["x"].tensor.rank) for n in (match.node("first"), match.root))
    assert first is not None and second is not None
    perm = tuple(first[axis] for axis in second)
    if perm == tuple(range(len(perm))):
        return match["x"]
    return rewriter.create("Transpose", [match["x"]], {"perm": perm}).output


def _known_permutations(match: Match) -> Refusal | None:
    nodes = (match.node("first"), match.root)
    if any(permutation(node, match["x"].tensor.rank) is None for node in nodes):
        return refuse("the rank of {} is unknown", match["x"])
    return None


def _target_stands_alone(match: Match) -> Refusal | None:
    """A target that copies a dimension of its input (0) needs that very input."""
    target = match["target"].const
    if target is None or not match["target"].is_constant:
        return refuse("the target of {} is not constant", match.root)
    if not match.root.attrs.get("allowzero", 0) and bool((target.numpy() == 0).any()):
        return refuse("the target of {} copies dimensions of its input", match.root)
    return None


def _reshape_once(rewriter: Rewriter, match: Match) -> Value:
    return rewriter.create("Reshape", [match["x"], match["target"]], match.root.attrs).output


def _only_moves_ones(match: Match) -> Refusal | None:
    shape, perm = match["x"].tensor.shape, permutation(match.root, match["x"].tensor.rank)
    if shape is None or perm is None:
        return refuse("the rank of {} is unknown", match["x"])
    if sum(not isinstance(dim, int) for dim in shape) > 1:
        return refuse("{} has several dynamic dimensions", match["x"])
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved != sorted(moved) or perm == tuple(range(len(perm))):
        return refuse("{} moves data", match.root)
    # Reshape can't say "-1" beside a dimension of size 0.
    return refuse("{} may be empty", match["x"]) if 0 in shape else None


def _as_reshape(rewriter: Rewriter, match: Match) -> Value:
    shape: Sequence[object] = match.root.output.tensor.shape or ()
    target = np.array([dim if isinstance(dim, int) else -1 for dim in shape], np.int64)
    return rewriter.create("Reshape", [match["x"], rewriter.constant(target)]).output


def _merges_batch(match: Match) -> Refusal | None:
    """Whether x[a.., m, n] is merged to [k, m, n], its last axes are swapped, and it is split to [a.., n, m]."""
    shape, merged = match["x"].tensor.shape, match.node("merge").output.tensor.shape
    split = match.root.output.tensor.shape
    if shape is None or merged is None or split is None or len(merged) != 3 or len(shape) < 3:
        return refuse("a shape around {} is unknown", match.root)
    batch, rows, columns = shape[:-2], shape[-2], shape[-1]
    if merged != (product(batch), rows, columns) or split != (*batch, columns, rows):
        return refuse("{} does more than split what was merged", match.root)
    return None


def _swap_last(rewriter: Rewriter, match: Match) -> Value:
    rank = len(match["x"].tensor.shape or ())
    perm = (*range(rank - 2), rank - 1, rank - 2)
    return rewriter.create("Transpose", [match["x"]], {"perm": perm}).output


_x = var("x")
_reshaped = op(RESHAPING, _x, ..., shared=True)

VIEW_RULES = (
    Rule("reshape-to-itself", op([*RESHAPING, "Expand", "Tile"], _x, ...), take_x, _keeps_shape),
    Rule("slice-of-all", op("Slice", _x, ...), take_x, _slices_all),
    Rule("pad-by-nothing", op("Pad", _x, ...), take_x, _pads_nothing),
    Rule("transpose-nothing", op("Transpose", _x), take_x, _transposes_nothing),
    Rule(
        "transpose-of-transpose",
        op("Transpose", op("Transpose", _x, name="first", shared=True)),
        _compose,
        _known_permutations,
    ),
    Rule("transpose-of-ones", op("Transpose", _x), _as_reshape, _only_moves_ones),
    Rule(
        "transpose-of-merged-batch",
        op(
            "Reshape",
            op("Transpose", op("Reshape", _x, ..., name="merge"), attrs={"perm": (0, 2, 1)}),
            ...,
        ),
        _swap_last,
        _merges_batch,
    ),
    Rule("reshaped-back", op(RESHAPING, _reshaped, ...), take_x, _keeps_shape),
    Rule("reshape-of-reshape", op("Reshape", _reshaped, var("target")), _reshape_once, _target_stands_alone),
)
