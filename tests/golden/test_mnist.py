"""The MNIST golden model: its data, its training and its recorded accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import golden_models
from golden_models import mnist
from golden_models.mnist import train
from golden_models.mnist.network import Network, initial_parameters


def test_held_out_digits_are_balanced_and_apart_from_training() -> None:
    images, labels = mnist.held_out()
    assert images.shape == (1000, 1, 28, 28)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(np.bincount(labels), [100] * 10)
    training_images, training_labels = mnist.training()
    np.testing.assert_array_equal(np.bincount(training_labels), [400] * 10)
    seen = {image.tobytes() for image in training_images}
    assert sum(image.tobytes() in seen for image in images) == 0
    everything = np.concatenate([images, training_images])
    assert abs(everything.mean()) < 0.05
    assert everything.std() == pytest.approx(1, abs=0.02)


def test_the_recorded_accuracy_is_that_of_the_committed_file() -> None:
    file = golden_models.path("mnist")
    record = json.loads(file.with_suffix(".json").read_text())
    assert train.count_correct(file) == record["correct"] >= 975
    assert file.stat().st_size < 500_000


def test_batch_normalization_is_left_in() -> None:
    operators = [node.op_type for node in onnx.load(golden_models.path("mnist")).graph.node]
    block = ["Conv", "BatchNormalization", "Relu", "MaxPool"]
    assert operators == [*block, *block, *block, "Flatten", "Gemm"]


def test_gradients_match_finite_differences() -> None:
    rng = np.random.default_rng(0)
    parameters = {name: value.astype(np.float64) for name, value in initial_parameters(rng).items()}
    images, labels = rng.standard_normal((3, 28, 28, 1)), np.array([1, 4, 9])
    _, gradients = Network(parameters).gradients(images, labels)
    for name, value in parameters.items():
        index = np.unravel_index(np.abs(gradients[name]).argmax(), value.shape)
        losses, kept = [], value[index]
        for step in (1e-6, -1e-6):
            value[index] = kept + step
            losses.append(Network(parameters).gradients(images, labels)[0])
        value[index] = kept
        assert gradients[name][index] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4), name


def test_exported_network_computes_what_was_trained(tmp_path: Path) -> None:
    import onnxruntime as ort

    rng = np.random.default_rng(1)
    network = Network(initial_parameters(rng), momentum=1.0)
    images = rng.standard_normal((8, 28, 28, 1)).astype(np.float32)
    loss, _ = network.gradients(images, np.arange(8))
    # With momentum 1 the statistics are those of this batch, so that the exported network, which
    # normalises by them, must give this batch's loss.
    train.export(network, tmp_path / "network.onnx")
    session = ort.InferenceSession(tmp_path / "network.onnx")
    (logits,) = session.run(None, {"image": images.transpose(0, 3, 1, 2)})
    log_sum = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    assert (log_sum - logits[np.arange(8), np.arange(8)]).mean() == pytest.approx(loss, rel=1e-5)


def test_jitter_keeps_digits_in_place_and_scale() -> None:
    images, _ = mnist.held_out()
    originals = images[::50].transpose(0, 2, 3, 1)
    moved = train.jitter(originals, np.random.default_rng(0))
    assert moved.shape == originals.shape
    assert moved.min() >= originals.min() - 1e-5
    assert moved.max() <= originals.max() + 1e-5
    ink = (moved - originals.min()).sum(axis=(1, 2, 3)) / (originals - originals.min()).sum(axis=(1, 2, 3))
    assert ink.min() > 0.7
    assert ink.max() < 1.35
