"""Which version of an operator an opset means, from the schemas that the onnx package carries."""

from __future__ import annotations

import functools

from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ops.schema import find_schema


@functools.cache
def since_version(op: str, opset: int, domain: str = "") -> int | None:
    """The version of ``op`` in force in ``opset``; None for an operator that is unknown there."""
    found = find_schema(op, domain, opset)
    return None if found is None else int(found.since_version)


@functools.cache
def versions(op: str) -> tuple[int, ...]:
    """All versions of an operator of ONNX's main domain up to the canonical opset, ascending."""
    return _history().get(op, ())


@functools.cache
def exists(op: str, domain: str) -> bool:
    """Whether any version of the domain that is known here has the operator."""
    from onnx import defs

    return bool(defs.has(op, domain))


@functools.cache
def _history() -> dict[str, tuple[int, ...]]:
    from onnx import defs

    found: dict[str, set[int]] = {}
    for item in defs.get_all_schemas_with_history():
        if item.domain == "" and item.since_version <= CANONICAL_OPSET:
            found.setdefault(item.name, set()).add(item.since_version)
    return {op: tuple(sorted(steps)) for op, steps in found.items()}
