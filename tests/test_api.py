"""The few functions of the top level: what they make of wrong arguments, and what they write down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt as go
from graphopt.errors import ArgumentError, ArtifactError, ModelError
from graphopt.ir.graph import Graph


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """``y = Relu(x)`` of n by 4."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize(
    ("call", "argument", "given"),
    [
        (lambda g, f: go.load(5), "path", "int"),
        (lambda g, f: go.load(f.read_bytes()), "path", "bytes"),
        (lambda g, f: go.load(f, dims=[1]), "dims", "list"),
        (lambda g, f: go.load(f, dims={1: 1}), "a key of dims", "int"),
        (lambda g, f: go.load(f, dims={"n": "1"}), r"dims\['n'\]", "str"),
        (lambda g, f: go.load(f, input_shapes={"x": "1x4"}), r"input_shapes\['x'\]", "str"),
        (lambda g, f: go.load(f, input_shapes={"x": (1.0, 4)}), r"input_shapes\['x'\]\[0\]", "float"),
        (lambda g, f: go.save(str(f), "o.onnx"), "graph", "str"),
        (lambda g, f: go.save(g, None), "path", "NoneType"),
        (lambda g, f: go.optimize(str(f)), "graph", "str"),
        (lambda g, f: go.optimize(g, ["O1"]), "pipeline", "list"),
        (lambda g, f: go.optimize(g, target=5), "target", "int"),
        (lambda g, f: go.optimize(g, inputs=np.zeros((2, 4))), "inputs", "ndarray"),
        (lambda g, f: go.optimize(g, inputs=[np.zeros((2, 4))]), r"inputs\[0\]", "ndarray"),
        (lambda g, f: go.optimize(g, instruments=go.Instrument()), "instruments", "Instrument"),
        (lambda g, f: go.optimize(g, instruments=[go.Instrument]), r"instruments\[0\]", "type"),
        (lambda g, f: go.compile(str(f)), "graph", "str"),
        (lambda g, f: go.compile(g, 5), "target", "int"),
        (lambda g, f: go.to_onnx_ir(f), "graph", "PosixPath"),
        (lambda g, f: go.from_onnx_ir(onnx.load(f)), "model", "ModelProto"),
        (lambda g, f: go.runtime.load(5), "path", "int"),
    ],
)
def test_wrong_types_name_the_argument(
    call: Callable[[Graph, Path], Any], argument: str, given: str, file: Path
) -> None:
    with pytest.raises(ArgumentError, match=rf"^{argument} must be of type .*, not {given}"):
        call(go.load(file), file)
    assert issubclass(ArgumentError, TypeError) and issubclass(ArgumentError, go.GraphoptError)


def test_one_mapping_is_one_sample(file: Path) -> None:
    with pytest.raises(go.GraphoptError, match=r'sample 1: input "x" has shape \[2, 5\]'):
        go.optimize(go.load(file), "O1", inputs={"x": np.zeros((2, 5), np.float32)})
    go.optimize(go.load(file), "O1", inputs={"x": np.zeros((2, 4), np.float32)}, verify="numeric")


def test_numbers_of_numpy_fix_shapes(file: Path) -> None:
    graph = go.load(file, dims={"n": np.int64(3)})  # type: ignore[dict-item]
    assert str(graph.outputs[0].type) == "f32[3, 4]"


def test_only_known_suffixes_are_written(file: Path, tmp_path: Path) -> None:
    for name in ("m.txt", "m", "m.gopt"):
        with pytest.raises(ModelError, match=r"written as \.onnx or as \.gir"):
            go.save(go.load(file), tmp_path / name)
        assert not (tmp_path / name).exists()


def test_artifacts_and_models_are_told_apart(file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gopt").mkdir()
    with pytest.raises(ModelError, match=r"m\.gopt is a folder, not a model"):
        go.load(tmp_path / "m.gopt")
    (tmp_path / "m.gopt" / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match=r"m\.gopt is an artifact, not a model"):
        go.load(tmp_path / "m.gopt")
    with pytest.raises(ArtifactError, match="but a model") as caught:
        go.runtime.load(file)
    assert "graphopt compile" in (caught.value.hint or "")


def test_the_manifest_says_where_the_model_came_from(file: Path, tmp_path: Path) -> None:
    once = go.optimize(go.load(file), "O0")
    graph = go.optimize(once, "eliminate-dead-code,fuse-regions{max_ops=4}")
    history = "eliminate-dead-code,eliminate-dead-code,fuse-regions{max_ops=4}"
    assert graph.metadata["graphopt.pipeline"] == history
    go.save(graph, tmp_path / "again.onnx")
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "again.onnx").metadata_props}
    assert props["graphopt.pipeline"] == history
    manifest = go.compile(graph, source=file).save(tmp_path / "m.gopt") / "manifest.json"
    with go.runtime.load(manifest.parent) as executable:
        assert executable.manifest.pipeline == history
        assert executable.manifest.source_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert go.compile(graph).source_sha256 == ""
    with pytest.raises(ModelError, match=r"none\.onnx can't be read"):
        go.compile(graph, source=tmp_path / "none.onnx")
