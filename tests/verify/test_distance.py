"""Distances of results and what is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.verify import Effect, Path
from graphopt.verify.distance import compare, scales
from graphopt.verify.grid import Grid, distance_to_grid

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


@pytest.mark.parametrize("huge", [-3.4028235e38, -1e9, -65504, -1e4])
def test_a_huge_value_hides_no_other(huge: float) -> None:
    expected = np.float32([[0.5, huge], [huge, 2.0]])
    wrong = np.float32([[0.5, huge], [huge, 1.0]])
    found = compare(wrong, expected, Effect.APPROXIMATE, Path())
    assert found.measured == 0.5
    assert found.detail == "1 for 2 at [1, 1], huge values aside"
    close = compare(expected * np.float32(1 - 1e-6), expected, Effect.APPROXIMATE, Path())
    assert not close.is_fault


def test_values_that_cancel_are_measured_by_the_largest() -> None:
    # The likeliest of a log-softmax: what is left of a difference of numbers like the other.
    expected, actual = np.float32([-1.0e-6, -13.8]), np.float32([-1.1e-6, -13.8])
    assert not compare(actual, expected, Effect.EXACT, Path()).is_fault


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_are_compared_as_integers(dtype: type) -> None:
    expected = np.array([1 << 53, 1 << 62], dtype)
    found = compare(expected + np.array([1, 0], dtype), expected, Effect.APPROXIMATE, Path())
    assert found.is_fault and found.detail == "9007199254740993 for 9007199254740992 at [0]"
    extremes = np.array([-(1 << 63)], np.int64), np.array([(1 << 63) - 1], np.int64)
    assert compare(*extremes, Effect.EXACT, Path()).measured == 2.0


def test_each_element_has_the_scale_of_its_side_of_the_gap() -> None:
    np.testing.assert_array_equal(scales(np.float32([3, -1e9, 2])), [3, 1e9, 3])
    np.testing.assert_array_equal(scales(np.float32([0, -1e9])), [1e6, 1e9])
    np.testing.assert_array_equal(scales(np.float32([3, 9e5, 5e8, 1e9])), [1e9] * 4)


def test_zeros_and_nan_beside_a_huge_value_are_no_side_of_a_gap() -> None:
    expected = np.float32([0, np.nan, -np.inf, 1e9])
    found = compare(expected + np.float32([1e-3, 0, 0, 0]), expected, Effect.EXACT, Path())
    assert not found.is_fault and "aside" not in found.detail


@pytest.mark.filterwarnings("error")
def test_an_empty_value_is_on_every_grid() -> None:
    empty = np.zeros((0, 3), np.float32)
    grid = Grid(np.asarray(0.5), np.asarray(-64.0), np.asarray(63.5))
    assert not distance_to_grid(empty, empty, grid).is_fault
