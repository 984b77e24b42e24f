"""How much an output may move when arithmetic is rounded in another order.

The graph itself says: its copy multiplies what the rewritten nodes read and give by ``1 + r`` for random
``r`` of the size of a rounding (Monte Carlo arithmetic; Parker, 1997), and runs a few times. Where a sum
cancels or a division blows up, its outputs scatter, and an other order of roundings may do as much.
Behind an operator that jumps (a rounding, a comparison) any scatter is possible: such outputs can't be
compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType, TensorType

JUMPS = frozenset(
    {"ArgMax", "ArgMin", "BitShift", "Ceil", "Compress", "DynamicQuantizeLinear", "Equal", "Floor", "Greater",
     "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "Mod", "NonMaxSuppression", "NonZero",
     "QuantizeLinear", "Round", "Shrink", "Sign", "ThresholdedRelu", "TopK", "Unique", "If", "Loop", "Scan"}
)  # fmt: skip
"""Operators whose result jumps where their input hardly changes; of control flow the conditions do."""
SIGNED_ZERO_JUMPS = frozenset({"Div", "Reciprocal", "Pow", "Atan"})
"""Operators that tell 0 from -0."""
EPSILON = {DType.F32: 2.0**-23, DType.F64: 2.0**-52, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}

_RUNS = 3
_SCATTER = 16.0
"""Times the scatter seen in a few runs that a difference may be."""
_ROUNDINGS = 16.0
"""Roundings of the largest element that a difference may always be."""
_KEEP = {"Resize": (2, 3), "Upsample": (1,), "Pow": (1,), "Range": (0, 1, 2), "Dropout": (1,)}
"""Operands that are no quantities: a rounding more would change sizes, or make NaN."""


def affected(graph: Graph, changed: Sequence[Node]) -> set[Node]:
    """Those of ``changed``, and the nodes that depend on them, through regions and around them."""
    found: set[Node] = set()
    pending = list(changed)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if node.parent is not None and node.parent.parent is not None:
            pending.append(node.parent.parent)
        if node.op in ("Loop", "Scan"):
            pending += [inner for region in node.regions.values() for inner in region]
        pending += [user for value in node.outputs for user in value.users]
    return found


def behind(graph: Graph, nodes: set[Node], jumps: frozenset[str]) -> list[bool]:
    """For each output of ``graph``, whether one of ``nodes`` that jumps lies before it."""
    starts = [node for node in nodes if _jumps(node, nodes, jumps)]
    reached = affected(graph, [user for node in starts for v in node.outputs for user in v.users])
    made = {value for node in (*reached, *starts) for value in node.outputs}
    return [value in made for value in graph.outputs]


def _jumps(node: Node, nodes: set[Node], jumps: frozenset[str]) -> bool:
    if node.op not in jumps and not _casts_to_integer(node) and not _blows_up(node):
        return False
    if node.regions:
        # A branch as such passes on what its body gives; the condition is what makes it jump.
        condition = node.inputs[0] if node.op == "If" else None
        return condition is not None and condition.producer in nodes
    return any(value is not None and value.producer in nodes for value in node.inputs) or _reads_floats(node)


def _blows_up(node: Node) -> bool:
    """Whether the smallest difference decides between infinities and NaN: a quotient by 0, a product with inf."""
    if node.op not in ("Div", "Mul"):
        return False
    held = [v.const.numpy() for v in node.inputs[node.op == "Div" :] if v is not None and v.const is not None]
    return any(bool((array == 0 if node.op == "Div" else np.isinf(array)).any()) for array in held)


def _reads_floats(node: Node) -> bool:
    return any(v is not None and v.tensor.dtype is not None and v.tensor.dtype.is_float for v in node.inputs)


def _casts_to_integer(node: Node) -> bool:
    if node.op not in ("Cast", "CastLike"):
        return False
    x, y = node.inputs[0], node.outputs[0]
    source, target = x.tensor.dtype if x is not None else None, y.tensor.dtype
    return source is not None and target is not None and source.is_float and not target.is_float


def overflowing(graph: Graph, nodes: set[Node], engine: str, inputs: Mapping[str, Any]) -> set[Node]:
    """Those of ``nodes``, outside of regions, that give an infinity: in another order of roundings what goes on
    from there may be anything.

    Raises:
        EvaluationError: the engine can't run the graph.
    """
    from graphopt.evaluate import Session

    copy = copy_graph(graph)
    own = [(node, twin) for node, twin in zip(graph.nodes, copy.nodes, strict=True) if node in nodes]
    shown = {f"shown {i}": node for i, (node, twin) in enumerate(own) if _gives_floats(twin)}
    Builder(copy).outputs([twin.outputs[0] for _, twin in own if _gives_floats(twin)])
    copy.output_names += shown
    with Session(copy, engine) as session:  # type: ignore[arg-type]
        found = session.run(inputs)
    return {node for name, node in shown.items() if np.isinf(found[name]).any()}


def _gives_floats(node: Node) -> bool:
    kind = node.outputs[0].type if node.outputs else None
    return isinstance(kind, TensorType) and kind.dtype in EPSILON


@dataclass(frozen=True)
class Scatter:
    """A graph with room for noise in it.

    Attributes:
        graph: with more inputs, by which values are multiplied.
        factors: these inputs: names and types.
    """

    graph: Graph
    factors: Mapping[str, TensorType]

    def feeds(self, inputs: Mapping[str, Any], run: int) -> dict[str, Any]:
        """Inputs for one run, with factors drawn anew."""
        rng = np.random.default_rng([7, run])
        feeds = dict(inputs)
        for name, kind in self.factors.items():
            assert kind.dtype is not None and kind.shape is not None
            # Of several sizes, so that those of operands and results do not undo each other.
            steps = rng.choice(
                [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], [d for d in kind.shape if isinstance(d, int)]
            )
            feeds[name] = np.asarray(1 + steps * EPSILON[kind.dtype]).astype(kind.dtype.numpy)
        return feeds


def scattered(graph: Graph, nodes: set[Node]) -> Scatter:
    """A copy of ``graph`` with noise on the operands of ``nodes`` and on what they give."""
    from graphopt.ops import SEMANTICS

    copy = copy_graph(graph)
    pairs = dict(zip(graph.walk(), copy.walk(), strict=True))
    inside = {pairs[node] for node in nodes}
    rewriter = Rewriter(copy, SEMANTICS)
    factors: dict[str, TensorType] = {}
    for node in [node for node in copy.walk() if node in inside and not node.is_fused]:
        for index, value in enumerate(node.inputs):
            if value is None or value.producer in inside or index in _KEEP.get(node.op, ()) or node.regions:
                continue
            if (factor := _factor(copy, value, factors, whole=True)) is not None:
                with rewriter.rewrite("noise", node):
                    noisy = rewriter.create("Mul", [value, factor], types=[value.type])
                    rewriter.set_input(node, index, noisy.output)
        for value in node.outputs:
            if value.num_uses and (factor := _factor(copy, value, factors, whole=False)) is not None:
                _after(rewriter, node, value, factor)
    return Scatter(copy, factors)


def _after(rewriter: Rewriter, node: Node, value: Value, factor: Value) -> None:
    region = node.parent
    assert isinstance(region, Region)
    nodes = region.nodes
    place = nodes.index(node) + 1
    following = nodes[place] if place < len(nodes) else None
    with rewriter.rewrite("noise", node):
        noisy = rewriter.create(
            "Mul", [value, factor], types=[value.type], before=following,
            region=region if following is None else None,
        )  # fmt: skip
        uses = [use for use in value.uses if use.user is not noisy]
        rewriter.replace(value, noisy.output, uses=uses)


def _factor(graph: Graph, value: Value, factors: dict[str, TensorType], *, whole: bool) -> Value | None:
    """An input to multiply ``value`` by, of its known sizes if ``whole``; None for what is not of floats."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.dtype not in EPSILON or kind.shape is None:
        return None
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in kind.shape) if whole else ()
    made = Builder(graph).input("noise", TensorType(kind.dtype, shape))
    factors[made.name] = TensorType(kind.dtype, shape)
    return made


def allowed(expected: Array, runs: Sequence[Array], dtype: DType) -> Array:
    """By how much each element may differ from ``expected``; infinite where runs were not finite."""
    wide = expected.astype(np.float64)
    finite = np.isfinite(wide)
    largest = float(np.abs(wide[finite]).max(initial=0.0))
    limit = np.full(wide.shape, _ROUNDINGS * EPSILON[dtype] * largest + float(np.finfo(np.float32).tiny))
    for run in runs:
        with np.errstate(all="ignore"):
            away = np.abs(run.astype(np.float64) - wide)
        limit = np.maximum(limit, _SCATTER * np.where(np.isfinite(away), away, np.inf))
    return np.asarray(np.where(finite, limit, np.inf))


def runs_of(scatter: Scatter, engine: str, inputs: Mapping[str, Any]) -> list[list[Any]]:
    """The outputs of a few noisy runs.

    Raises:
        EvaluationError: the engine can't run the noisy graph.
    """
    from graphopt.evaluate import Session

    with Session(scatter.graph, engine) as session:  # type: ignore[arg-type]
        return [list(session.run(scatter.feeds(inputs, run)).values()) for run in range(_RUNS)]
