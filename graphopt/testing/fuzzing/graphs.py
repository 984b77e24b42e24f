"""The strategy: which motifs make a graph, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType, TensorType
from graphopt.testing.fuzzing import control, elementwise, layers, movement, quantized
from graphopt.testing.fuzzing.choices import Draw
from graphopt.testing.fuzzing.sketch import Motif, Sketch

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_FLOATS = (DType.F32, DType.F32, DType.F32, DType.F32, DType.F32, DType.F32, DType.F64, DType.F16)
_STEPS = 12
_OTHERS = 60
"""Percent of steps that come from the motifs that a caller gave."""

_WEIGHTS: dict[Motif, int] = {
    layers.convolution: 4, layers.transposed_convolution: 4, layers.gemm: 5, layers.product: 3,
    layers.narrow_weights: 4, layers.stacked: 3, layers.layer_norm: 3, layers.batch_norm: 1,
    quantized.layer: 4, control.branches: 4, elementwise.activation: 2, elementwise.neutral: 2,
    elementwise.logic: 2, elementwise.decided: 2, elementwise.casts: 2, movement.joined: 2,
}  # fmt: skip
"""How often a motif is drawn, if not once: what rules with many conditions look for, more often."""

MOTIFS: tuple[Motif, ...] = tuple(
    motif
    for motif in (
        *elementwise.MOTIFS, *movement.MOTIFS, *layers.MOTIFS, *quantized.MOTIFS, *control.MOTIFS,
    )
    for _ in range(_WEIGHTS.get(motif, 1))
)  # fmt: skip
"""What random graphs are made of."""


def random_graphs(
    *, max_steps: int = 10, motifs: Sequence[Motif] = (), wild: bool | None = None
) -> SearchStrategy[Graph]:
    """A hypothesis strategy of valid, typed graphs that ONNX Runtime runs at almost all sizes.

    Graphs have symbolic dimensions, broadcasting, fan-out, control flow, constants that can be folded,
    dead branches, and in one of six cases constants such as NaN and the ends of their types. They are made
    of *motifs*, which write what passes look for: a convolution with a normalization behind it, layer
    normalization in pieces, transpositions that cancel. A failing example shrinks to few nodes.

    Args:
        max_steps: motifs in a graph, at most.
        motifs: of your own, for what your pass looks for; more than half of the steps are then theirs.
        wild: whether constants may be NaN, infinite and so on; by default in one graph of six.
    """
    from hypothesis import strategies as st

    @st.composite
    def graphs(draw: Callable[[Any], Any]) -> Graph:
        return make_graph(
            lambda low, high: draw(st.integers(low, high)), max_steps=max_steps, motifs=motifs, wild=wild
        )

    return graphs()


def make_graph(
    draw: Draw, *, max_steps: int = 10, motifs: Sequence[Motif] = (), wild: bool | None = None
) -> Graph:
    """The graph that follows from the numbers of ``draw``; see :func:`random_graphs`."""
    s = Sketch(draw)
    s.float = s.choice(_FLOATS)
    s.wild = s.chance(17) if wild is None else wild
    for _ in range(max_steps):
        own = bool(motifs) and s.chance(_OTHERS)
        s.choice(motifs if own else MOTIFS)(s)
        if s.number(0, _STEPS) == 0:  # Not counted beforehand, so that leaving out a step is one edit.
            break
    return s.done(*_outputs(s))


def _outputs(s: Sketch) -> list[Value]:
    """What nothing uses, less some of it, and now and then a value in the middle."""
    made = [v for n in s.graph.body for v in n.outputs if isinstance(v.type, TensorType) and v.type.is_known]
    ends = [v for v in made if not v.num_uses]
    kept = ends[-1:] + [v for v in ends[:-1] if not s.chance(20)]
    if s.chance(30):
        kept.append(s.choice(made))
    return list(dict.fromkeys(kept)) or made[-1:]
