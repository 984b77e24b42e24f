"""Distances of results and what is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.verify import Effect, Path
from graphopt.verify.distance import compare

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("actual", "expected", "far"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), 0.0),
        (np.float32([1, 3]), np.float32([1, 2]), 0.5),
        (np.float32([0, 1]), np.float32([0, 0]), 1.0),
        (np.float32([NAN, 2]), np.float32([NAN, 2]), 0.0),
        (np.float32([NAN, 2]), np.float32([1, 2]), INF),
        (np.float32([INF, 2]), np.float32([-INF, 2]), INF),
        (np.float32([INF, 2]), np.float32([INF, 2]), 0.0),
        (np.float32([1]), np.float32([1, 2]), INF),
        (np.float64([1]), np.float32([1]), INF),
        (np.int64([5]), np.int64([4]), 0.25),
        (np.array(["a"]), np.array(["b"]), INF),
        (np.array([True]), np.array([True]), 0.0),
        (np.complex64([1j]), np.complex64([2j]), 0.5),
        ([np.float32([1])], [np.float32([2])], 0.5),
        ([], [np.float32([2])], INF),
        (None, None, 0.0),
        (None, np.float32([1]), INF),
        (np.float32([]), np.float32([]), 0.0),
        (np.uint8([0]), np.uint8([255]), 1.0),
    ],
)
def test_distances(actual: object, expected: object, far: float) -> None:
    found = compare(actual, expected, Effect.EXACT, Path())
    assert found.measured == far
    assert found.is_fault == (far != 0.0)


def test_one_step_of_an_8_bit_output_is_within_an_approximate_pass() -> None:
    for dtype, ok in ((np.uint8, True), (np.int8, True), (np.int64, False)):
        for step in (1, 2):
            found = compare(
                np.array([99 + step, 3], dtype), np.array([99, 3], dtype), Effect.APPROXIMATE, Path()
            )
            assert found.is_fault != (ok and step == 1)
