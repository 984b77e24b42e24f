"""Static post-training quantization: QuantizeLinear and DequantizeLinear where integers shall be.

1. The *layers* are Conv, Gemm and MatMul with constant weights.
2. What a layer reads must be quantized. So must, when a layer reads it through movement or
   pooling, what that reads: all values along such a chain share one grid, and the chain can run on
   integers. Of two layers that only an Add joins, the earlier one's result is quantized.
3. The range of these values is measured on samples (min-max), their grid follows from it, and
   every user of such a value gets it quantized and dequantized. A rectified value has the grid of
   its range, which begins at 0; what comes before the rectifier is not rounded.
4. Weights become s8 constants with one scale per output channel, biases s32 constants whose step
   is that of the accumulator.

The graph stays plain ONNX of floats; ``lower-int8`` turns it into integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.tensor import Tensor
from graphopt.ir.transaction import Relation
from graphopt.pipeline import Context, Effect, Pass, register_pass
from graphopt_passes.affine_quantization import (
    Grid,
    accumulator_room,
    activation_grid,
    quantize_bias,
    quantize_weight,
)
from graphopt_passes.calibration import Range, ranges
from graphopt_passes.constant_cone import Cone
from graphopt_passes.dead_code import erase_chain
from graphopt_passes.inline_regions import require_single_nodes
from graphopt_passes.quantizable import LAYERS, Layer, layers_of, values_to_quantize
from graphopt_passes.weights import chosen

_MAX_BYTES = 256 << 20
"""Bytes of a weight, or of a step to it; larger ones are not computed."""


@register_pass("quantize-static")
@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize Conv, Gemm and MatMul to 8 bits by ranges measured on sample inputs (min-max)."""

    effect = Effect.LOSSY
    samples: int = field(default=32, metadata={"help": "the most samples to calibrate on", "min": 1})
    per_channel: bool = field(default=True, metadata={"help": "one scale per output channel of a weight"})
    symmetric: bool = field(default=False, metadata={"help": "the zero point of signed activations is 128"})
    include: tuple[str, ...] = field(
        default=("*",), metadata={"help": "shell patterns of the layers, by name of node, output or weight"}
    )
    exclude: tuple[str, ...] = field(
        default=(), metadata={"help": "shell patterns of layers to keep in float"}
    )

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Calibrates, then inserts the pairs and quantizes the weights."""
        graph = rewriter.graph
        require_single_nodes(graph)
        _compute_weights(rewriter)
        layers = chosen(layers_of(graph), _node_and_weight, self.include, self.exclude, context.logger)
        groups = values_to_quantize(graph, layers)
        if not groups:
            return
        values = [value for group in groups for value in group]
        measured = ranges(graph, values, self._samples(graph, context))
        grids: dict[Value, Grid] = {}
        for group in groups:
            low, high = _union([measured[value] for value in group])
            grid = activation_grid(low, high, self.symmetric)
            grids.update(dict.fromkeys(group, grid))
        places = _places(graph, values)
        for layer in layers:
            self._quantize_layer(rewriter, layer, grids[layer.activation])
        for value in values:
            _quantize_value(rewriter, value, grids[value], places[value])
        context.notes["ranges"] = {value.name: list(measured[value]) for value in values}

    def _samples(self, graph: Graph, context: Context) -> Sequence[Mapping[str, Any]]:
        from graphopt.evaluate import example_inputs

        if context.inputs:
            return context.inputs[: self.samples]
        context.logger.warning(
            "quantize-static calibrates on generated inputs, whose ranges are not those of real ones: "
            "give samples, with --inputs or inputs="
        )
        return [example_inputs(graph, context.seed + i) for i in range(self.samples)]

    def _quantize_layer(self, rewriter: Rewriter, layer: Layer, grid: Grid) -> None:
        node, weight = layer.node, layer.weight
        data = layer.bias.const if layer.bias is not None else None
        assert weight.const is not None
        try:
            integers, scale = quantize_weight(weight.const.numpy(), layer.axis, self.per_channel)
            # The product is rounded to f32 once: its value is what bias and accumulator share.
            step = np.asarray(grid.scale * scale, np.float32)
            room = accumulator_room(integers, layer.axis)
            terms = None if data is None else quantize_bias(data.numpy().reshape(-1), step, room)
        except ValueError as error:
            raise PassError(
                f"{node.label}, %{weight.name}: {error}", hint="exclude this layer from quantization"
            ) from error
        with rewriter.rewrite("quantize-layer", node):
            quantized = rewriter.constant(integers, f"{weight.name}_quantized")
            factors = rewriter.constant(scale, f"{weight.name}_scale")
            attrs = {"axis": layer.axis} if self.per_channel else {}
            restored = rewriter.create("DequantizeLinear", [quantized, factors], attrs).output
            uses = [Use(node, layer.weight_index)]
            rewriter.replace(weight, restored, Relation.QUANTIZED, uses=uses)
            if layer.bias is not None and terms is not None:
                spread = np.broadcast_to(step, terms.shape) if self.per_channel else step
                bias = rewriter.constant(terms, f"{layer.bias.name}_quantized")
                steps = rewriter.constant(np.array(spread), f"{layer.bias.name}_scale")
                axis = {"axis": 0} if self.per_channel else {}
                term = rewriter.create("DequantizeLinear", [bias, steps], axis).output
                rewriter.replace(layer.bias, term, Relation.QUANTIZED, uses=[Use(node, 2)])


def _node_and_weight(layer: Layer) -> tuple[Node, Value]:
    return layer.node, layer.weight


def _compute_weights(rewriter: Rewriter) -> None:
    """Makes constants of weights that are computed from constants: stored as integers, say, and scaled.

    Such a model is smaller than its floats, so that folding leaves the arithmetic alone; here the
    weights become integers again.
    """
    from graphopt.evaluate import evaluate_nodes

    graph = rewriter.graph
    cone = Cone(graph.body, _MAX_BYTES)
    candidates = [n.input(1) for n in graph.nodes if not n.domain and n.op in LAYERS]
    weights = [v for v in dict.fromkeys(candidates) if v is not None and v.producer in cone.members]
    for value, data in evaluate_nodes(cone.behind(weights), graph, weights).items():
        node = value.producer
        assert node is not None
        with rewriter.rewrite("compute-weight", node):
            rewriter.replace(value, rewriter.constant(Tensor.of(data, value.tensor.dtype), value.name))
            erase_chain(rewriter, node, constants=True)


def _union(found: Sequence[Range]) -> Range:
    return min(low for low, _ in found), max(high for _, high in found)


def _places(graph: Graph, values: Sequence[Value]) -> dict[Value, Node]:
    """The node before which each value's pair goes: the one after its producer."""
    nodes = graph.nodes
    after = {node: nodes[index + 1] for index, node in enumerate(nodes[:-1])}
    return {v: nodes[0] if v.producer is None else after[v.producer] for v in values}


def _quantize_value(rewriter: Rewriter, value: Value, grid: Grid, before: Node) -> None:
    with rewriter.rewrite("quantize-value", before):
        scale = rewriter.constant(np.array(grid.scale), f"{value.name}_scale")
        zero = rewriter.constant(np.array(grid.zero_point), f"{value.name}_zero_point")
        quantized = rewriter.create(
            "QuantizeLinear", [value, scale, zero], outputs=[f"{value.name}_quantized"]
        ).output
        restored = rewriter.create(
            "DequantizeLinear", [quantized, scale, zero], outputs=[f"{value.name}_dequantized"]
        ).output
        uses = [u for u in value.uses if isinstance(u.user, Node) and u.user is not quantized.producer]
        rewriter.replace(value, restored, Relation.QUANTIZED, uses=uses)
