"""Numbers for dimensions that the model leaves without a name."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from graphopt import onnx_io
from graphopt.errors import ModelError


def _model() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [-1, 3, "?", "?"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def test_dimensions_called_unknown_are_not_one_dimension() -> None:
    graph = onnx_io.load(_model(), input_shapes={"x": (1, 3, 48, 192)})
    assert str(graph.outputs[0].type) == "f32[1, 3, 48, 192]"


def test_a_generated_name_fixes_its_dimension_only() -> None:
    assert str(onnx_io.load(_model()).inputs[0].type) == "f32[x_d0, 3, x_d2, x_d3]"
    graph = onnx_io.load(_model(), dims={"x_d2": 48})
    assert str(graph.outputs[0].type) == "f32[x_d0, 3, 48, x_d3]"


def test_an_unknown_name_is_answered_by_the_names_that_inspect_shows() -> None:
    with pytest.raises(ModelError, match="x_d0"):
        onnx_io.load(_model(), dims={"batch": 1})
