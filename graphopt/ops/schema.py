"""Does a node fit its operator's schema: arity, attributes, element types.

The answer depends only on a node's signature (how many inputs, which attributes of which kinds,
which element types), and models repeat few signatures, so it is computed once for each.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Node, RefAttr, TypeAttr
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import OptionalType, SequenceType, SparseTensorType, TensorType, Type, UnknownType
from graphopt.units import counted

_MANY = 2**31 - 1
NEWEST = 2**31 - 1
"""Stands for the newest opset of a domain."""
_KINDS: dict[str, tuple[type, ...]] = {
    "INT": (int,),
    "FLOAT": (float,),
    "STRING": (str, bytes),
    "TENSOR": (Tensor,),
    "TYPE_PROTO": (TypeAttr,),
}
"""Python classes by the name of an attribute kind; kinds not listed here are tuples or regions."""
_ELEMENTS: dict[str, tuple[type, ...]] = {"INTS": (int,), "FLOATS": (float,), "STRINGS": (str, bytes)}
"""Python classes of the elements of tuples by the name of an attribute kind."""


@dataclass(frozen=True)
class Signature:
    """A schema, reduced to what is checked."""

    inputs: tuple[tuple[str, str, bool], ...]
    """Name, type constraint or type text, whether required; the last one repeats when variadic."""
    min_inputs: int
    max_inputs: int
    min_outputs: int
    max_outputs: int
    attributes: dict[str, tuple[str, bool]]
    """Kind and whether required, by name."""
    constraints: dict[str, frozenset[str]]
    """Allowed type texts, by type variable."""


@functools.cache
def find_schema(op: str, domain: str, opset: int) -> Any | None:
    """ONNX's schema in force in ``opset`` of ``domain``; None for an operator that is unknown there."""
    from onnx import defs

    try:
        return defs.get_schema(op, opset, domain)
    except defs.SchemaError:
        return None


def schemas(op: str, domain: str) -> list[Any]:
    """Schemas of an operator: at the canonical opset, then the newest if that is another one.

    Operators that are newer than the canonical opset have only the second; unknown ones none.
    """
    newest = find_schema(op, domain, NEWEST)
    canonical = find_schema(op, domain, CANONICAL_OPSET) if not domain else None
    if canonical is None or newest is None or canonical.since_version == newest.since_version:
        return [] if newest is None else [newest]
    return [canonical, newest]


@functools.cache
def signatures(op: str, domain: str, canonical: bool = False) -> tuple[Signature, ...]:
    """What :func:`schemas` gives, reduced; ``canonical``: only the one of the canonical opset, if it has one."""
    if not canonical:
        return tuple(_signature(schema) for schema in schemas(op, domain))
    found = find_schema(op, domain, CANONICAL_OPSET)
    return () if found is None or found.deprecated else (_signature(found),)


def _signature(schema: Any) -> Signature:
    return Signature(
        inputs=tuple((p.name, p.type_str, p.option.name != "Optional") for p in schema.inputs),
        min_inputs=schema.min_input,
        max_inputs=schema.max_input,
        min_outputs=schema.min_output,
        max_outputs=schema.max_output,
        attributes={name: (a.type.name, a.required) for name, a in schema.attributes.items()},
        constraints={c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints},
    )


_VERDICTS: dict[tuple[Any, ...], str | None] = {}


def check(node: Node, *, canonical: bool = False) -> str | None:
    """What is wrong with ``node`` by its operator's schema, located; None if nothing or no schema is known.

    Args:
        canonical: an operator of ONNX's own domain must be in the canonical opset, and fit it.
    """
    if node.is_fused:
        return _check_fused(node)
    # A value's element type stands for it, by its number: members of an Enum hash slowly.
    canonical = canonical and not node.domain
    parts: list[object] = [canonical, node.op, node.domain, len(node.outputs)]
    for value in node.inputs:
        if value is None:
            parts.append(None)
        else:
            type = value.type
            if type.__class__ is not TensorType:
                parts.append(type)
            else:
                parts.append(0 if type.dtype is None else type.dtype._value_)
    if node.attrs or node.regions:
        for name, attr in node.attrs.items():
            # The elements of a tuple are all of one kind.
            parts += (name, attr.__class__, attr[0].__class__ if attr.__class__ is tuple and attr else None)
        parts += node.regions
    key = tuple(parts)
    try:
        verdict = _VERDICTS[key]
    except KeyError:
        verdict = _VERDICTS[key] = _judge(node, canonical)
    return None if verdict is None else f"{node.label}: {verdict}"


def _check_fused(node: Node) -> str | None:
    region = node.regions.get("body")
    if region is None or len(node.regions) != 1:
        return f"{node.label}: a fused node has exactly one region, its body"
    if len(region.inputs) != len(node.inputs) or len(region.outputs) != len(node.outputs):
        return (
            f"{node.label}: the body takes {counted(len(region.inputs), 'value')} and gives {len(region.outputs)}, "
            f"the node has {counted(len(node.inputs), 'input')} and {counted(len(node.outputs), 'output')}"
        )
    return None


def _judge(node: Node, canonical: bool) -> str | None:
    fitting = signatures(node.op, node.domain, canonical)
    if canonical and not fitting:
        return f"opset {CANONICAL_OPSET} of ONNX has no such operator"
    problem: str | None = None
    # A node that fits the newest schema only is carried through as it is, so any fit will do.
    for signature in fitting:
        found = _arity(node, signature) or _attributes(node, signature) or _types(node, signature)
        if found is None:
            return None
        problem = problem or found
    return problem


def _arity(node: Node, signature: Signature) -> str | None:
    count = len(node.inputs)
    if not signature.min_inputs <= count <= signature.max_inputs:
        return f"{counted(count, 'input')}, expected {_range(signature.min_inputs, signature.max_inputs)}"
    for index, (name, _, required) in enumerate(signature.inputs[:count]):
        if required and node.inputs[index] is None and index < signature.min_inputs:
            return f'input {index} ("{name}") is absent'
    if not signature.min_outputs <= len(node.outputs) <= signature.max_outputs:
        return f"{counted(len(node.outputs), 'output')}, expected {_range(signature.min_outputs, signature.max_outputs)}"
    return None


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"at least {low}" if high == _MANY else f"{low} to {high}"


def _attributes(node: Node, signature: Signature) -> str | None:
    for name, value in node.attrs.items():
        if name not in signature.attributes:
            return f'unknown attribute "{name}"'
        kind = signature.attributes[name][0]
        expected = _KINDS.get(kind, (tuple,))
        if not isinstance(value, (*expected, RefAttr)) or (kind in _KINDS and value.__class__ is tuple):
            return f'attribute "{name}" is {type(value).__name__}, expected {kind}'
        if (
            kind in _ELEMENTS
            and isinstance(value, tuple)
            and not all(isinstance(item, _ELEMENTS[kind]) for item in value)
        ):
            return f'attribute "{name}" holds other elements than {kind}'
    for name in node.regions:
        if not signature.attributes.get(name, ("", False))[0].startswith("GRAPH"):
            return f'unknown region "{name}"'
    for name, (_, required) in signature.attributes.items():
        if required and name not in node.attrs and name not in node.regions:
            return f'attribute "{name}" is missing'
    return None


def _types(node: Node, signature: Signature) -> str | None:
    bound: dict[str, str] = {}
    last = len(signature.inputs) - 1
    for index, value in enumerate(node.inputs):
        if value is None or last < 0:
            continue
        name, variable, _ = signature.inputs[min(index, last)]
        actual = type_text(value.type)
        allowed = signature.constraints.get(variable, frozenset({variable}))
        if actual is None or (actual in allowed and bound.setdefault(variable, actual) == actual):
            continue
        if actual not in allowed:
            return f'input {index} ("{name}") is {actual}, which the operator does not take'
        if index < last or not _heterogeneous(node):
            return f'input {index} ("{name}") is {actual}, but another input of type {variable} is {bound[variable]}'
    return None


def _heterogeneous(node: Node) -> bool:
    """Variadic inputs of operators with regions may each have another type."""
    return bool(node.regions)


_NAMES = {
    "F32": "float", "F64": "double", "STR": "string", "C64": "complex64", "C128": "complex128", "BF16": "bfloat16",
    "F8E4M3FN": "float8e4m3fn", "F8E4M3FNUZ": "float8e4m3fnuz", "F8E5M2": "float8e5m2",
    "F8E5M2FNUZ": "float8e5m2fnuz", "F4E2M1": "float4e2m1", "F8E8M0": "float8e8m0", "F16": "float16",
}  # fmt: skip


def type_text(type: Type) -> str | None:
    """A type as the schemas write it, e.g. ``seq(tensor(float))``; None when it is not fully known."""
    match type:
        case TensorType():
            if type.dtype is None:
                return None
            name = type.dtype.name
            plain = name.lower().replace("i", "int", 1) if name[0] == "I" else name.lower()
            plain = "uint" + name[1:] if name[0] == "U" else plain
            return f"tensor({_NAMES.get(name, plain)})"
        case SequenceType() | OptionalType():
            inner = type_text(type.elem)
            return (
                None
                if inner is None
                else f"{'seq' if isinstance(type, SequenceType) else 'optional'}({inner})"
            )
        case SparseTensorType() | UnknownType():
            return None
