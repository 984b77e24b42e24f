"""Trains the MNIST golden model and writes it: `python -m golden_models.mnist.train`.

Three times convolution, batch normalisation, Relu and 2x2 maximum, then one dense layer; Adam
(Kingma & Ba 2015, arXiv:1412.6980) with a cosine schedule, on digits that are turned, scaled and
moved a little. Everything is drawn from one seed; the last bits depend on the machine's BLAS, so
that another machine's file differs and its accuracy may, by a digit or three in the thousand.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from golden_models.arrays import Array
from golden_models.mnist import held_out, training
from golden_models.mnist.network import EPSILON, Network, initial_parameters

_HERE = Path(__file__).parent
_SEED, _EPOCHS, _BATCH, _PEAK_RATE = 20261121, 40, 50, 2e-3


def main() -> None:
    """Train, write mnist.onnx and its accuracy in mnist.json."""
    rng = np.random.default_rng(_SEED)
    images, labels = training()
    images = images.transpose(0, 2, 3, 1)
    network = Network(initial_parameters(rng))
    optimizer = Adam(network.parameters)
    steps, start = _EPOCHS * (len(images) // _BATCH), time.monotonic()
    for epoch in range(_EPOCHS):
        order, losses = rng.permutation(len(images)), []
        for first in range(0, len(order), _BATCH):
            chosen = order[first : first + _BATCH]
            loss, gradients = network.gradients(jitter(images[chosen], rng), labels[chosen])
            rate = _PEAK_RATE * 0.5 * (1 + np.cos(np.pi * optimizer.step / steps))
            optimizer.update(network.parameters, gradients, rate)
            losses.append(loss)
        print(
            f"epoch {epoch + 1:2}  loss {np.mean(losses):.4f}  {time.monotonic() - start:.0f} s", flush=True
        )
    export(network, _HERE / "mnist.onnx")
    correct = count_correct(_HERE / "mnist.onnx")
    record = {"held_out": 1000, "correct": correct, "accuracy": correct / 1000}
    (_HERE / "mnist.json").write_text(json.dumps(record, indent=2) + "\n")
    print(record)


class Adam:
    """The Adam optimizer with its two moments by parameter."""

    def __init__(self, parameters: dict[str, Array]) -> None:
        self.step = 0
        self._first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: np.zeros_like(value) for name, value in parameters.items()}

    def update(self, parameters: dict[str, Array], gradients: dict[str, Array], rate: float) -> None:
        """Move `parameters` one step against `gradients`, in place."""
        self.step += 1
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient * gradient - second)
            mean, square = first / (1 - 0.9**self.step), second / (1 - 0.999**self.step)
            parameters[name] -= np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))


def jitter(images: Array, rng: np.random.Generator) -> Array:
    """Each of `images` [b, h, w, 1] turned by up to 12 degrees, scaled by 10% and moved by 2 pixels."""
    batch, height, width, _ = images.shape
    angle = rng.uniform(-0.21, 0.21, size=(batch, 1, 1))
    scale = rng.uniform(0.9, 1.1, size=(batch, 1, 1))
    move = rng.uniform(-2, 2, size=(2, batch, 1, 1))
    rows, columns = np.mgrid[:height, :width] - (height - 1) / 2
    source_row = scale * (np.cos(angle) * rows - np.sin(angle) * columns) + move[0] + (height - 1) / 2
    source_column = scale * (np.sin(angle) * rows + np.cos(angle) * columns) + move[1] + (width - 1) / 2
    return _bilinear(images[..., 0], source_row, source_column)[..., None]


def _bilinear(images: Array, row: Array, column: Array) -> Array:
    background = images.min()
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=background)
    row = np.clip(row + 1, 0, images.shape[1])
    column = np.clip(column + 1, 0, images.shape[2])
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    which = np.arange(len(images))[:, None, None]
    upper = padded[which, top, left] * (1 - right) + padded[which, top, left + 1] * right
    lower = padded[which, top + 1, left] * (1 - right) + padded[which, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def export(network: Network, target: Path) -> None:
    """Write the network as ONNX, batch normalisations kept, input [batch, 1, 28, 28]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], {}, "image"
    for i in (1, 2, 3):
        weight = network.parameters[f"conv{i}.weight"]
        constants[f"conv{i}.weight"] = weight.reshape(3, 3, -1, weight.shape[1]).transpose(3, 2, 0, 1)
        for kind in ("scale", "bias"):
            constants[f"bn{i}.{kind}"] = network.parameters[f"bn{i}.{kind}"]
        for kind in ("mean", "variance"):
            constants[f"bn{i}.{kind}"] = network.statistics[f"bn{i}.{kind}"]
        bn = [f"bn{i}.{kind}" for kind in ("scale", "bias", "mean", "variance")]
        nodes += [
            helper.make_node(
                "Conv",
                [value, f"conv{i}.weight"],
                [f"conv{i}"],
                f"conv{i}",
                kernel_shape=[3, 3],
                pads=[1] * 4,
            ),
            helper.make_node("BatchNormalization", [f"conv{i}", *bn], [f"bn{i}"], f"bn{i}", epsilon=EPSILON),
            helper.make_node("Relu", [f"bn{i}"], [f"relu{i}"], f"relu{i}"),
            helper.make_node(
                "MaxPool", [f"relu{i}"], [f"pool{i}"], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2]
            ),
        ]
        value = f"pool{i}"
    # The dense layer was trained on [height, width, channels]; ONNX flattens channels first.
    dense = network.parameters["fc.weight"]
    dense = dense.reshape(3, 3, -1, dense.shape[1]).transpose(2, 0, 1, 3).reshape(dense.shape)
    constants |= {"fc.weight": dense, "fc.bias": network.parameters["fc.bias"]}
    nodes += [
        helper.make_node("Flatten", [value], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "mnist",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], producer_name="graphopt"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def count_correct(model: Path) -> int:
    """How many of the 1,000 held-out digits ONNX Runtime reads right with `model`."""
    import onnxruntime as ort

    images, labels = held_out()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    return int((logits.argmax(axis=1) == labels).sum())


if __name__ == "__main__":
    main()
