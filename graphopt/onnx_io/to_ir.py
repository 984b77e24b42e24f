"""Graphs as onnx_ir models."""

from __future__ import annotations

import onnx_ir

from graphopt.ir.graph import Graph
from graphopt.onnx_io.export_tensors import fill_external, to_ir_tensor
from graphopt.onnx_io.exporter import Exporter


def to_ir_model(graph: Graph, *, inline: bool) -> onnx_ir.Model:
    """The model; its constants stand on the data of the graph's."""
    exporter = Exporter(graph, inline=inline)
    proto = exporter.run()
    for name, data in exporter.constants:
        fill_external(proto.graph.initializer.add(), data, name, "held by the graph", 0)
    model = onnx_ir.serde.deserialize_model(proto)
    for name, data in exporter.constants:
        model.graph.initializers[name].const_value = to_ir_tensor(data, name)
    return model
