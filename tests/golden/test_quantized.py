"""The MNIST network in 8 bits: integer kernels, nearly all its accuracy, and the numbers of ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import golden_models
import graphopt as go
from golden_models import mnist

QUANTIZE = "O1,fuse-conv-bn,quantize-static{samples=8}"
LOWER = "lower-int8,O1,fuse-regions"


@pytest.fixture(scope="module")
def quantized() -> go.Graph:
    """The network with QuantizeLinear and DequantizeLinear, calibrated on digits of the training part."""
    images, _ = mnist.training()
    samples = [{"image": images[i::80]} for i in range(8)]
    return go.optimize(go.load(golden_models.path("mnist")), QUANTIZE, inputs=samples)


def _compiled(graph: go.Graph, folder: Path) -> Any:
    go.compile(graph, target="native").save(folder / "model.gopt")
    return go.runtime.load(folder / "model.gopt", threads=1)


def _onnxruntime(model: onnx.ModelProto, images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, {"image": images}))


def test_no_float_convolution_is_left(quantized: go.Graph) -> None:
    lowered = go.optimize(quantized, LOWER)
    operators = Counter(node.op for node in lowered.walk())
    assert operators["ConvInteger"] == 3
    assert operators["MatMulInteger"] == 1
    assert operators["Conv"] == operators["Gemm"] == operators["MatMul"] == 0
    # Each hidden layer is one region that reads and gives 8 bits; pooling works on them too.
    regions = [n for n in lowered.nodes if n.is_fused and "ConvInteger" in {inner.op for inner in n.body}]
    assert len(regions) == 3
    for region in regions:
        assert [inner.op for inner in region.body][-1] == "QuantizeLinear"
    pools = [node for node in lowered.nodes if node.op == "MaxPool"]
    assert [str(node.output.type).partition("[")[0] for node in pools] == ["u8"] * 3


def test_at_most_three_digits_in_a_thousand_are_lost(quantized: go.Graph, tmp_path: Path) -> None:
    images, labels = mnist.held_out()
    with _compiled(go.optimize(quantized, LOWER), tmp_path) as executable:
        (logits,) = executable({"image": images})
    float_correct = (
        _onnxruntime(onnx.load(golden_models.path("mnist")), images)[0].argmax(1) == labels
    ).sum()
    assert (logits.argmax(axis=1) == labels).sum() >= float_correct - 3


def test_integers_are_those_of_onnx_runtime(quantized: go.Graph, tmp_path: Path) -> None:
    """Every quantized activation, made an output, is within one step on all but 0.1% of its elements."""
    go.save(quantized, tmp_path / "quantized.onnx")
    model = onnx.load(tmp_path / "quantized.onnx")
    steps = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(steps) >= 4
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in steps)
    for output in list(model.graph.output)[1:]:
        output.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, tmp_path / "exposed.onnx")

    images, _ = mnist.held_out()
    with _compiled(go.optimize(go.load(tmp_path / "exposed.onnx"), LOWER), tmp_path) as executable:
        ours = executable({"image": images})
    theirs = _onnxruntime(model, images)
    for name, a, b in zip(steps, ours[1:], theirs[1:], strict=True):
        assert a.dtype == b.dtype == np.uint8
        off = np.abs(a.astype(np.int32) - b.astype(np.int32))
        assert (off > 1).mean() <= 0.001, name
    assert np.abs(ours[0] - theirs[0]).max() <= 0.01 * np.abs(theirs[0]).max()
