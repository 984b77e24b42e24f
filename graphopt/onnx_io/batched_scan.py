"""Scan of opset 8, which ran over a batch as well: a Scan over the batch around a Scan over the sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir.graph import Attr, Value
from graphopt.ir.types import UnknownType
from graphopt.onnx_io.attributes import Binding
from graphopt.onnx_io.nodes import NodeMaker
from graphopt.onnx_io.region_types import region_input_types
from graphopt.onnx_io.scope import Scope

if TYPE_CHECKING:
    import onnx


def batched_scan(
    maker: NodeMaker,
    scope: Scope,
    proto: onnx.NodeProto,
    label: str,
    inputs: Sequence[Value | None],
    names: Sequence[str],
    attrs: Mapping[str, Attr],
    graphs: Mapping[str, Binding],
) -> Sequence[Value]:
    """The outputs of a Scan of version 8. All its operands have the batch in front, then the sequence.

    Raises:
        ModelError: the sequences have lengths of their own.
    """
    if not inputs or inputs[0] is not None:
        raise ModelError(
            f"{label}: a Scan of opset 8 with sequence_lens can't be represented",
            hint="convert the model to opset 9 or newer",
        )
    operands = inputs[1:]
    outer = maker.builder.node(
        "Scan",
        operands,
        [(name, UnknownType()) for name in names],
        {"num_scan_inputs": len(operands)},
        name=f"{scope.prefix}{proto.name}_batch" if proto.name else "",
        region=scope.region,
    )
    body = maker.builder.region(outer, "body")
    types = region_input_types(outer, len(operands))
    items = [
        maker.builder.input(f"{'item' if value is None else value.name}_item", type, body)
        for value, type in zip(operands, types, strict=True)
    ]
    kept = {name: value for name, value in attrs.items() if name != "directions"}
    if "directions" in attrs:
        kept["scan_input_directions"] = attrs["directions"]
    inside = Scope(
        body, scope.opset, scope, bound=scope.bound, calls=scope.calls, prefix=scope.prefix,
        where=f"the batch of {label}", depth=scope.depth + 1,
    )  # fmt: skip
    inner = maker.node(
        inside, proto, "Scan", "", items, [f"{name}_item" for name in names], kept, graphs, label
    )
    maker.builder.outputs(inner.outputs, body)
    maker.infer(outer, label)
    return outer.outputs
