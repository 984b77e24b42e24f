"""How many nodes a model has once its functions are inlined, found without inlining them.

Forty functions of two nodes, each of which calls the next twice, unfold to a million million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Key = tuple[str, str, str]


def inlined_size(model: onnx.ModelProto, functions: Mapping[Key, onnx.FunctionProto]) -> int:
    """Nodes of all graphs; a function that calls itself counts once, it is refused elsewhere."""
    calls = {key: _called(function.node, functions) for key, function in functions.items()}
    sizes: dict[Key, int] = {}
    pending, started = list(functions), set[Key]()
    while pending:
        key = pending[-1]
        if key not in started:
            started.add(key)
            pending += [callee for callee in calls[key] if callee not in started and callee in functions]
            continue
        pending.pop()
        sizes.setdefault(key, _total(calls[key], sizes))
    return _total(_called(model.graph.node, functions), sizes)


def _total(calls: Mapping[Key, int], sizes: Mapping[Key, int]) -> int:
    return sum(count * (1 + sizes.get(key, 0)) for key, count in calls.items())


def _called(nodes: Iterable[onnx.NodeProto], functions: Mapping[Key, onnx.FunctionProto]) -> Counter[Key]:
    """How often each function is called; all other operators count together."""
    found: Counter[Key] = Counter()
    pending = [nodes]
    while pending:
        for node in pending.pop():
            key = (node.domain, node.op_type, node.overload)
            found[key if key in functions else ("", "", "")] += 1
            for attribute in node.attribute:
                pending += [graph.node for graph in (attribute.g, *attribute.graphs) if graph.node]
    return found
