"""The opset that a graph is written with."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.onnx_io import upgrade

_NEWEST_WITH_KERNEL = {
    "Attention": 24,
    "Swish": 24,
    **dict.fromkeys(("GlobalLpPool", "MaxRoiPool", "Multinomial", "RoiAlign"), 21),
    **dict.fromkeys(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), 21),
}
"""The newest opset in which ONNX Runtime 1.31 runs these, by a kernel or by their function body, where it
is not the canonical one."""


def written_opset(graph: Graph) -> int:
    """The canonical opset, or an older one in which the graph means the same and ONNX Runtime runs it."""
    opset = graph.opset[""]
    if opset > CANONICAL_OPSET:
        return opset
    nodes = [node for node in graph.walk() if not node.domain]
    wanted = min((_NEWEST_WITH_KERNEL.get(node.op, opset) for node in nodes), default=opset)
    if wanted < opset and all(upgrade.fits(node, wanted) for node in nodes):
        return wanted
    return opset
