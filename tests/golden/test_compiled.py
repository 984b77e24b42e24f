"""Golden models compiled for this CPU give what ONNX Runtime gives with its optimizations off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import golden_models
from golden_models import lettering, mnist, ocr
from tests.golden.conftest import Arrays, Load, Reference

TOLERANCE = 1e-4


def _assert_same(executable: Any, name: str, inputs: Arrays, reference: Reference) -> None:
    outputs, expected = list(executable(dict(inputs))), reference(name, inputs)
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.isfinite(ours).all()
        error, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
        assert error <= TOLERANCE * largest, f"{name}: {error / largest:.2e} of the largest value"


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "ppocr-rec",
            [{"width": 160}, {"width": 320}, {"width": 640}, {"width": 88}, {"batch": 2, "width": 320}],
        ),
        ("ppocr-cls", [{"width": 192}, {"batch": 3, "width": 96}]),
        ("magika", [{"batch": 1}, {"batch": 5}]),
        (
            "minilm-int8",
            [
                {"batch": 1, "sequence": 16},
                {"batch": 1, "sequence": 128},
                {"batch": 4, "sequence": 64},
                {"batch": 3, "sequence": 7},
            ],
        ),
        ("light-resnet50", [{}]),
        ("light-squeezenet", [{}]),
        ("light-shufflenet", [{}]),
        ("mnist", [{"batch": 1}, {"batch": 7}, {"batch": 64}]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outputs_equal_onnx_runtime(
    name: str, shapes: list[dict[str, int]], load_compiled: Load, reference: Reference
) -> None:
    """One artifact serves all the shapes."""
    executable = load_compiled(name)
    for seed, dims in enumerate(shapes):
        _assert_same(executable, name, golden_models.example_inputs(name, seed, **dims), reference)


def test_minilm_ignores_what_is_masked(load_compiled: Load, reference: Reference) -> None:
    inputs = golden_models.example_inputs("minilm-int8", 5, batch=4, sequence=64)
    for row, length in enumerate((64, 40, 9, 2)):
        inputs["attention_mask"][row, length:] = 0
    _assert_same(load_compiled("minilm-int8"), "minilm-int8", inputs, reference)


def test_the_recogniser_reads_every_line_as_onnx_runtime_does(
    load_compiled: Load, reference: Reference
) -> None:
    executable = load_compiled("ppocr-rec")
    for line in lettering.LINES:
        image = lettering.render(line)
        (ours,), (theirs,) = executable({"x": image}), reference("ppocr-rec", {"x": image})
        assert ocr.decode(ours) == ocr.decode(theirs) == line


def test_mnist_accuracy_is_equal(load_compiled: Load, reference: Reference) -> None:
    images, labels = mnist.held_out()
    (ours,), (theirs,) = load_compiled("mnist")({"image": images}), reference("mnist", {"image": images})
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert (ours.argmax(axis=1) == labels).sum() >= 975
