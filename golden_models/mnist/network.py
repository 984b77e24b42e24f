"""A small convolutional network with its gradients, in NumPy.

Images are [batch, height, width, channels] in here, so that a convolution is one matrix product
over gathered 3x3 patches.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from golden_models.arrays import Array

EPSILON = 1e-5
_CHANNELS = (1, 16, 32, 64)
_CLASSES = 10
_SIDE_AT_END = 3  # 28 halved three times, rounded down


def initial_parameters(rng: np.random.Generator) -> dict[str, Array]:
    """He-normal weights, unit scales, zero biases; float32."""
    parameters: dict[str, Array] = {}
    for i, (cin, cout) in enumerate(itertools.pairwise(_CHANNELS), 1):
        parameters[f"conv{i}.weight"] = rng.standard_normal((9 * cin, cout)) * np.sqrt(2 / (9 * cin))
        parameters[f"bn{i}.scale"] = np.ones(cout)
        parameters[f"bn{i}.bias"] = np.zeros(cout)
    fan_in = _SIDE_AT_END**2 * _CHANNELS[-1]
    parameters["fc.weight"] = rng.standard_normal((fan_in, _CLASSES)) * np.sqrt(1 / fan_in)
    parameters["fc.bias"] = np.zeros(_CLASSES)
    return {name: value.astype(np.float32) for name, value in parameters.items()}


@dataclass
class Network:
    """Parameters, and the mean and variance that each batch normalisation has met.

    Attributes:
        parameters: name -> float32 array; convolution weights are [9 * channels in, channels out].
        statistics: "bn1.mean", "bn1.variance", ... of the batches seen, averaged over `momentum`.
    """

    parameters: dict[str, Array]
    statistics: dict[str, Array] = field(default_factory=dict)
    momentum: float = 0.02

    def gradients(self, images: Array, labels: Array) -> tuple[float, dict[str, Array]]:
        """Mean cross entropy of one batch and its gradient by parameter; updates `statistics`."""
        tape = []
        x = images
        for i in (1, 2, 3):
            patches = _patches(x)
            z = patches @ self.parameters[f"conv{i}.weight"]
            mean, variance = z.mean(axis=(0, 1, 2)), z.var(axis=(0, 1, 2))
            self._remember(i, mean, variance)
            deviation = np.sqrt(variance + EPSILON)
            unit = (z - mean) / deviation
            y = unit * self.parameters[f"bn{i}.scale"] + self.parameters[f"bn{i}.bias"]
            pooled, winners = _max_pool(np.maximum(y, 0))
            tape.append((x.shape, patches, unit, deviation, y > 0, winners))
            x = pooled
        features = x.reshape(len(x), -1)
        logits = features @ self.parameters["fc.weight"] + self.parameters["fc.bias"]
        probability = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(probability[rows, labels] + 1e-12).mean()
        probability[rows, labels] -= 1
        dlogits = probability / np.float32(len(labels))
        gradients = {"fc.weight": features.T @ dlogits, "fc.bias": dlogits.sum(axis=0)}
        dx = (dlogits @ self.parameters["fc.weight"].T).reshape(x.shape)
        for i in (3, 2, 1):
            dx = self._backward_block(i, dx, tape.pop(), gradients)
        return float(loss), gradients

    def _backward_block(
        self,
        i: int,
        dpooled: Array,
        saved: tuple[tuple[int, ...], Array, Array, Array, Array, Array],
        gradients: dict[str, Array],
    ) -> Array:
        shape, patches, unit, deviation, positive, winners = saved
        dy = _max_pool_backward(dpooled, winners, positive.shape) * positive
        gradients[f"bn{i}.scale"] = (dy * unit).sum(axis=(0, 1, 2))
        gradients[f"bn{i}.bias"] = dy.sum(axis=(0, 1, 2))
        dunit = dy * self.parameters[f"bn{i}.scale"]
        dz = dunit - dunit.mean(axis=(0, 1, 2)) - unit * (dunit * unit).mean(axis=(0, 1, 2))
        dz /= deviation
        flat = dz.reshape(-1, dz.shape[-1])
        gradients[f"conv{i}.weight"] = patches.reshape(-1, patches.shape[-1]).T @ flat
        dpatches = dz @ self.parameters[f"conv{i}.weight"].T
        return _patches_backward(dpatches, shape)

    def _remember(self, i: int, mean: Array, variance: Array) -> None:
        for name, value in ((f"bn{i}.mean", mean), (f"bn{i}.variance", variance)):
            old = self.statistics.get(name, value)
            self.statistics[name] = ((1 - self.momentum) * old + self.momentum * value).astype(np.float32)


def _patches(x: Array) -> Array:
    """The 3x3 neighbourhood of each pixel, zeros outside: [b, h, w, c] -> [b, h, w, 9 * c]."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=3
    )


def _patches_backward(dpatches: Array, shape: tuple[int, ...]) -> Array:
    batch, height, width, channels = shape
    padded = np.zeros((batch, height + 2, width + 2, channels), dtype=dpatches.dtype)
    for k in range(9):
        i, j = divmod(k, 3)
        part = dpatches[..., k * channels : (k + 1) * channels]
        padded[:, i : i + height, j : j + width] += part
    return padded[:, 1:-1, 1:-1]


def _max_pool(x: Array) -> tuple[Array, Array]:
    """2x2 maxima and which of the four won; an odd last row and column are left out."""
    batch, height, width, channels = x.shape
    h, w = height // 2, width // 2
    tiles = x[:, : 2 * h, : 2 * w].reshape(batch, h, 2, w, 2, channels)
    tiles = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, 4, channels)
    winners = tiles.argmax(axis=3)
    return np.take_along_axis(tiles, winners[:, :, :, None], axis=3)[:, :, :, 0], winners


def _max_pool_backward(dpooled: Array, winners: Array, shape: tuple[int, ...]) -> Array:
    batch, h, w, channels = dpooled.shape
    tiles = np.zeros((batch, h, w, 4, channels), dtype=dpooled.dtype)
    np.put_along_axis(tiles, winners[:, :, :, None], dpooled[:, :, :, None], axis=3)
    out = np.zeros(shape, dtype=dpooled.dtype)
    tiles = tiles.reshape(batch, h, w, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    out[:, : 2 * h, : 2 * w] = tiles.reshape(batch, 2 * h, 2 * w, channels)
    return out
