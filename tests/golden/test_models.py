"""Facts about the golden models, checked by the files themselves: they are what the table says, and alive."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import golden_models
import graphopt as go
from golden_models import MODELS, lettering, light, ocr
from golden_models.__main__ import main
from graphopt.cli.options import parse_shapes
from tests.golden.conftest import Reference

LIGHT = [m.name for m in MODELS.values() if m.name.startswith("light-")]


def _maybe_heavy(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.sweep] * MODELS[name].heavy) for name in names]


@pytest.mark.parametrize("name", _maybe_heavy(list(MODELS)))
def test_the_table_describes_the_file(name: str) -> None:
    model, file = MODELS[name], golden_models.path(name)
    assert file.stat().st_size == model.size
    graph = onnx.load(file, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    declared = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    drawn = golden_models.example_inputs(name)
    assert list(drawn) == list(declared) == [item.name for item in model.inputs]
    for item in model.inputs:
        tensor = declared[item.name]
        assert drawn[item.name].dtype == onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        assert len(item.shape) == len(tensor.shape.dim)
        for ours, theirs in zip(item.shape, tensor.shape.dim, strict=True):
            if theirs.dim_value > 0:
                assert ours == theirs.dim_value
    assert model.outputs == tuple(value.name for value in graph.output)


@pytest.mark.parametrize("name", _maybe_heavy(list(MODELS)))
def test_outputs_are_finite_and_follow_the_input(name: str, reference: Reference) -> None:
    one, again, other = (reference(name, golden_models.example_inputs(name, seed)) for seed in (0, 0, 1))
    for a, b in zip(one, again, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    # Far more than the 1e-4 that comparisons of outputs allow, so that an ignored input is noticed.
    distance = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(one, other, strict=True))
    assert distance > 0.01


def test_dimensions_are_set_by_name() -> None:
    inputs = golden_models.example_inputs("minilm-int8", batch=4, sequence=64)
    assert {array.shape for array in inputs.values()} == {(4, 64)}
    assert golden_models.example_inputs("ppocr-rec", width=640)["x"].shape == (1, 3, 48, 640)
    with pytest.raises(TypeError, match=r"magika has the free dimensions \['batch'\], not \['width'\]"):
        golden_models.example_inputs("magika", width=3)


def test_shapes_are_listed_as_graphopt_takes_them() -> None:
    """Few of the files have the names of the table, so a listed name is no good for --dim."""
    listed = CliRunner().invoke(main, ["list"]).output
    (line,) = (line for line in listed.splitlines() if line.startswith("silero-vad "))
    shapes = [word for word in line.split() if ":" in word and not word.endswith("detector:")]
    parsed = parse_shapes(click.Context(main), click.Option(["--input"]), tuple(shapes))
    assert parsed == {"input": ("batch", "samples"), "state": (2, "batch", 128), "sr": ()}
    graph = go.load(golden_models.path("silero-vad"), input_shapes=parsed)
    assert [str(value.type) for value in graph.inputs] == [
        "f32[batch, samples]",
        "f32[2, batch, 128]",
        "i64[]",
    ]


@pytest.mark.parametrize("name", _maybe_heavy(LIGHT))
def test_light_logits_are_distinct_and_spread(name: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    model = onnx.load(golden_models.path(name))
    last = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    session = ort.InferenceSession(model.SerializeToString())
    logits = session.run([last.output[0]], golden_models.example_inputs(name))[0]
    per_class = logits.reshape(1000, -1).mean(axis=1)
    assert 0.5 < per_class.std() < 4
    # A few of a thousand may meet by chance in float32; with weights all equal there is one value.
    assert len(np.unique(per_class)) >= 995


def test_drawn_weights_have_zero_mean_filters_and_the_variance_of_he() -> None:
    model = onnx.load(golden_models.path("light-resnet50"))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 53
    for node in convolutions:
        weight = weights[node.input[1]]
        fan_in = weight[0].size
        assert np.abs(weight.mean(axis=(1, 2, 3))).max() < 1e-6
        assert weight.var() * fan_in / 2 == pytest.approx(1 - 1 / fan_in, rel=0.03)


def test_the_draw_depends_on_its_key_alone() -> None:
    first = light.stream("light_resnet50.onnx/w", 7)
    np.testing.assert_array_equal(first, light.stream("light_resnet50.onnx/w", 8)[:7])
    assert (first != light.stream("light_resnet50.onnx/v", 7)).all()
    many = light.stream("key", 100_000)
    assert many.min() >= -(2**23)
    assert many.max() < 2**23
    assert abs(many.mean()) < 2**23 * 0.01


def test_onnx_runtime_reads_every_line(reference: Reference) -> None:
    assert len(set(lettering.LINES)) == 50
    widths, margins = set(), []
    for line in lettering.LINES:
        image = lettering.render(line)
        (probabilities,) = reference("ppocr-rec", {"x": image})
        assert ocr.decode(probabilities) == line
        ranked = np.sort(probabilities[0], axis=1)
        widths.add(image.shape[3])
        margins.append((ranked[:, -1] - ranked[:, -2]).min())
    assert len(widths) >= 30
    # No reading hangs on rounding: an error of 1e-4 of the largest probability changes none.
    assert min(margins) > 0.05


def test_decoding_merges_repetitions_and_drops_blanks() -> None:
    alphabet = ocr._alphabet()
    assert len(alphabet) == 6625
    steps = ["", "l", "l", "", "l", "o", "o", " ", " "]
    probabilities = np.zeros((1, len(steps), len(alphabet)), dtype=np.float32)
    for i, character in enumerate(steps):
        probabilities[0, i, alphabet.index(character)] = 1
    assert ocr.decode(probabilities) == "llo "
