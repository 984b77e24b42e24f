"""Brings nodes of older opsets to the canonical one: one adapter per operator and version step."""

from __future__ import annotations

import functools
from collections.abc import Callable

from graphopt.ir.graph import Node
from graphopt.onnx_io.schemas import versions
from graphopt.onnx_io.upgrade.legacy import Legacy
from graphopt.onnx_io.upgrade.table import ADAPTERS
from graphopt.ops.schema import find_schema, type_text

__all__ = ["fits", "is_needed", "next_version", "upgrade"]

Adapter = Callable[[Legacy], None]


def next_version(op: str, version: int) -> int | None:
    """The version of ``op`` that follows ``version``, up to the canonical opset."""
    return next((step for step in versions(op) if step > version), None)


@functools.cache
def is_needed(op: str, version: int) -> bool:
    """Whether any step from ``version`` of ``op`` to the canonical opset has an adapter."""
    return any(step > version and (op, step) in ADAPTERS for step in versions(op))


def upgrade(node: Legacy) -> None:
    """Applies the adapters that ``node`` needs, in order of version.

    Raises:
        ModelError: the old form can't be written in the canonical opset.
    """
    while node.replacement is None:
        step = next_version(node.op, node.version)
        if step is None:
            return
        adapter = ADAPTERS.get((node.op, step))
        if adapter is not None:
            adapter(node)
        node.version = step


def fits(node: Node, opset: int) -> bool:
    """Whether a node of ONNX's main domain means the same in ``opset``, later than 20, as in the newest.

    What changed after opset 20 added element types, attributes and inputs; a node that uses
    none of what an opset lacks is the same in it.
    """
    found = find_schema(node.op, node.domain, opset)
    if found is None or not all(name in found.attributes for name in (*node.attrs, *node.regions)):
        return False
    if len(node.inputs) > found.max_input or len(node.outputs) > found.max_output:
        return False
    constraints = {item.type_param_str: frozenset(item.allowed_type_strs) for item in found.type_constraints}
    for formals, values in ((found.inputs, node.inputs), (found.outputs, node.outputs)):
        for index, value in enumerate(values):
            if value is None:
                continue
            formal = formals[min(index, len(formals) - 1)]
            text = type_text(value.type)
            if text is not None and text not in constraints.get(formal.type_str, {formal.type_str}):
                return False
    return True
