"""The digits of the MNIST golden model: 4,000 to train on, 1,000 held out."""

from __future__ import annotations

import functools
import gzip

import numpy as np

from golden_models.arrays import Array
from golden_models.fetch import source_file
from golden_models.table import MNIST_DIGITS

# Mean and deviation of MNIST's 60,000 training images, the usual normalisation.
MEAN, DEVIATION = 0.1307, 0.3081


def held_out() -> tuple[Array, Array]:
    """Every fifth digit, 100 of each class: images float32 [1000, 1, 28, 28] normalised, labels int64.

    Raises:
        FetchError: the digits could not be fetched.
    """
    images, labels = _digits()
    return images[4::5], labels[4::5]


def training() -> tuple[Array, Array]:
    """The 4,000 digits that are not held out, in the same form.

    Raises:
        FetchError: the digits could not be fetched.
    """
    images, labels = _digits()
    chosen = np.arange(len(labels)) % 5 != 4
    return images[chosen], labels[chosen]


@functools.cache
def _digits() -> tuple[Array, Array]:
    with gzip.open(source_file(MNIST_DIGITS), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    pixels = table[:, :784].reshape(-1, 1, 28, 28) / np.float32(255.0)
    return (pixels - np.float32(MEAN)) / np.float32(DEVIATION), table[:, 784].astype(np.int64)
