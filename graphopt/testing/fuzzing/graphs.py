"""The strategy: which motifs make a graph, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType, TensorType
from graphopt.testing.fuzzing import control, elementwise, layers, movement, quantized
from graphopt.testing.fuzzing.sketch import Motif, Sketch

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_FLOATS = (DType.F32, DType.F32, DType.F32, DType.F32, DType.F32, DType.F32, DType.F64, DType.F16)
_OTHERS = 60
"""Percent of steps that come from the motifs that a caller gave."""

MOTIFS: tuple[Motif, ...] = (
    *elementwise.MOTIFS, *movement.MOTIFS, *layers.MOTIFS, *layers.MOTIFS, *quantized.MOTIFS, *quantized.MOTIFS,
    *control.MOTIFS,
)  # fmt: skip
"""What random graphs are made of; layers and quantization twice, since rules about them ask for more."""


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
        count = draw(st.integers(1, max_steps))
        s = Sketch(draw)
        s.float = s.choice(_FLOATS)
        s.wild = s.chance(17) if wild is None else wild
        for _ in range(count):
            own = bool(motifs) and s.chance(_OTHERS)
            s.choice(motifs if own else MOTIFS)(s)
        return s.done(*_outputs(s))

    return graphs()


def _outputs(s: Sketch) -> list[Value]:
    """What nothing uses, less some of it, and now and then a value in the middle."""
    made = [v for n in s.graph.body for v in n.outputs if isinstance(v.type, TensorType) and v.type.is_known]
    ends = [v for v in made if not v.num_uses]
    kept = ends[-1:] + [v for v in ends[:-1] if not s.chance(20)]
    if s.chance(30):
        kept.append(s.choice(made))
    return list(dict.fromkeys(kept)) or made[-1:]
