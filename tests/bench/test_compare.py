"""What the comparison says of engines that fail and of outputs that differ."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.bench import Comparison, EngineResult, Report, compare, engines, html_page
from graphopt.bench.compare import named_sizes, relative_error
from graphopt.errors import EvaluationError


def test_an_engine_that_can_t_load_is_named_and_its_process_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(EvaluationError, match="onnxruntime could not run the model") as caught:
        compare({"onnxruntime": tmp_path / "m.onnx"}, {"x": np.zeros(2, np.float32)})
    assert "InvalidProtobuf" not in caught.value.message  # the class of the exception is nobody's business
    (process,) = started
    assert process.poll() is not None
    assert process.stdin is not None and process.stdin.closed
    assert process.stdout is not None and process.stdout.closed


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 3.0], [np.inf, 2.0], 0.5),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
        ([True, False], [True, True], 1.0),
        ([], [], 0.0),
    ],
)
def test_distance_of_outputs(actual: list[float], expected: list[float], error: float) -> None:
    assert relative_error(np.array(actual), np.array(expected)) == error


def test_an_error_of_ours_in_an_engine_comes_over_whole(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        compare({"graphopt": tmp_path / "none.gopt"}, {"file": np.zeros(2, np.float32)})
    said = caught.value.message
    assert said.startswith(f"graphopt could not run the model: {tmp_path / 'none.gopt'} is not an artifact")
    assert "ArtifactError" not in said


def test_an_engine_whose_process_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EvaluationError, match="the process of onnxruntime ended with exit code 1"):
        compare({"onnxruntime": tmp_path / "m.onnx"}, {})


def test_an_engine_beside_the_first_that_fails_gets_a_note(net: Path) -> None:
    (net.parent / "broken.onnx").write_bytes(b"no model")
    files = {"onnxruntime": net, "openvino": net.parent / "broken.onnx"}
    x = np.zeros((2, 4), np.float32)
    measured, failed = compare(files, {"x": x}, rounds=1, seconds=0.01).results
    assert measured.rounds and not measured.note
    assert failed.note and not failed.rounds


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``y = x w`` for x of n×4, y of n×3."""
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("bench") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tvm"])
def test_engines_agree_with_the_reference(name: str, fixed: bool, net: Path) -> None:
    if engines()[name].version() is None:
        pytest.skip(f"{name} is not installed")
    if name == "tvm" and not fixed:
        pytest.skip("TVM's importer gives names to unknown dimensions that its pipeline trips over")
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    compared = compare({name: net}, {"x": x}, rounds=2, seconds=0.01, reference=net, fixed=fixed)
    (result,) = compared.results
    assert result.max_error is not None and result.max_error < 1e-6
    assert result.precision == "float32" and result.comparable
    assert len(result.rounds) == 2 and min(result.rounds) > 0
    assert result.load_seconds > 0 and result.first_ms > 0
    assert result.disk_bytes == net.stat().st_size
    assert compared.ratio(name) is None  # there is nothing to compare with


def test_memory_counts_what_the_model_takes_and_not_the_engine(net: Path, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096])],
        [numpy_helper.from_array(np.ones((4096, 4096), np.float32), "w")],
    )
    large = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), large)
    x = np.ones((1, 4096), np.float32)
    peaks = [
        compare({"onnxruntime": file}, {"x": array}, rounds=1, seconds=0.01).results[0].peak_bytes
        for file, array in ((net, x[:, :4]), (large, x))
    ]
    assert peaks[0] < 32 << 20
    assert peaks[1] > 64 << 20


def test_other_outputs_than_the_reference_are_not_compared(net: Path, tmp_path: Path) -> None:
    model = onnx.load(net)
    weights = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights * np.float32(1.01), "w"))
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    x = np.ones((2, 4), np.float32)
    (result,) = compare({"onnxruntime": other}, {"x": x}, rounds=1, seconds=0.01, reference=net).results
    assert result.lower_precision and not result.comparable
    assert result.max_error == pytest.approx(0.01, rel=1e-3)


def test_sizes_of_named_dimensions(net: Path, tmp_path: Path) -> None:
    assert named_sizes(net, {"x": (7, 4)}) == {"n": 7}
    model = onnx.load(net)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    onnx.save(model, tmp_path / "twice.onnx")
    assert named_sizes(tmp_path / "twice.onnx", {"x": (7, 4)}) == {}
    assert named_sizes(tmp_path / "twice.onnx", {"x": (4, 4)}) == {"n": 4}


def comparison(model: str, threads: int, times: dict[str, list[float]]) -> Comparison:
    results = [EngineResult(name, name.upper(), "1.0", rounds=rounds) for name, rounds in times.items()]
    return Comparison(model, threads, results)


def test_ratios_are_to_the_fastest_other_engine_round_by_round() -> None:
    compared = comparison("m", 1, {"a": [2.0, 4.0, 6.0], "b": [4.0, 4.0, 4.0], "c": [8.0, 8.0, 8.0]})
    assert compared.ratio("a") == 1.0  # the median of 0.5, 1, 1.5
    assert compared.ratio("b") == 1.0  # of 2, 1, 2/3
    assert compared.ratio("c") == 2.0  # of 4, 2, 4/3, to a, whose median is that of b
    compared.results[1].lower_precision = True
    assert compared.ratio("b") is None
    assert compared.ratio("a") == 0.5
    assert compared.results[0].spread == 1.0


def test_the_mean_of_ratios_is_geometric_and_by_threads() -> None:
    report = Report(
        [
            comparison("m", 1, {"a": [1.0], "b": [2.0]}),
            comparison("m", 2, {"a": [3.0], "b": [1.0]}),
            comparison("n", 1, {"a": [2.0], "b": [1.0]}),
        ],
        "bench m n", 1, 0.3,
    )  # fmt: skip
    assert report.threads == [1, 2]
    assert report.mean_ratio("a", 1) == pytest.approx(1.0)
    assert report.mean_ratio("a", 2) == pytest.approx(3.0)
    assert report.as_dict()["mean_ratios"][1] == {
        "threads": 2, "a": pytest.approx(3), "b": pytest.approx(1 / 3),
    }  # fmt: skip


def test_the_page_holds_everything_and_refers_to_nothing() -> None:
    slow = comparison("net <1>", 2, {"a": [1.0, 2.0], "b": [50.0, 60.0]})
    slow.results.append(EngineResult("c", "C", note="not installed; pip install c"))
    slow.results[1].lower_precision = True
    text = html_page(Report([comparison("m", 1, {"a": [1.0], "b": [2.0]}), slow], "bench 'a b'", 2, 0.3))
    assert "net &lt;1&gt;" in text and "<1>" not in text
    assert "pip install c" in text and "lower precision" in text and "bench &#x27;a b&#x27;" in text
    for word in ("http", "src=", "url(", "<script", "@import", "<link"):
        assert word not in text.replace('lang="en"', ""), word
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        root = ElementTree.fromstring(plot)
        width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
        circles = root.findall(".//g/circle")
        assert len(circles) == 2
        for circle in circles:
            assert 0 < float(circle.attrib["cx"]) < width
            assert 0 < float(circle.attrib["cy"]) < height
        left, right = (float(circle.attrib["cx"]) for circle in circles)
        assert left < right
