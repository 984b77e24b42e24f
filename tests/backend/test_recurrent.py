"""LSTM, GRU and RNN against ONNX Runtime, or the reference evaluator where it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.backend.lower import lower_region
from graphopt.backend.region import KernelRegion
from tests.backend.programs import NATIVE, assert_close, check, expected_of, numbers, outputs_of, program

N = helper.make_node
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def layer(
    op: str, hidden: int, inputs: int, direction: str, batch: int, time: int = 5
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and weights of a layer."""
    ways, gates = DIRECTIONS[direction], GATES[op]
    weights = {
        "w": numbers(1, ways, gates * hidden, inputs) * np.float32(0.3),
        "r": numbers(2, ways, gates * hidden, hidden) * np.float32(0.3),
        "b": numbers(3, ways, 2 * gates * hidden),
    }
    states = {"h": numbers(4, ways, batch, hidden)}
    if op == "LSTM":
        states["c"] = numbers(5, ways, batch, hidden)
    return {"x": numbers(0, time, batch, inputs), **states}, weights


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_layers_of_any_size(data: st.DataObject) -> None:
    """Hidden sizes that fill no vector, batches that fill no tile, any axis symbolic, weights given or constant."""
    op, direction = data.draw(st.sampled_from([*GATES])), data.draw(st.sampled_from([*DIRECTIONS]))
    hidden, inputs = data.draw(st.sampled_from([1, 5, 16, 33, 64])), data.draw(st.sampled_from([1, 7, 40]))
    batch, time = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    late = data.draw(st.integers(0, 1))
    values, weights = layer(op, hidden, inputs, direction, batch, time)
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attrs["linear_before_reset"] = late
    lengths = np.array([data.draw(st.integers(1, time)) for _ in range(batch)], np.int32)
    # The longest is as long as the input: engines read the attribute so.
    lengths[data.draw(st.integers(0, batch - 1))] = time
    given_lengths = data.draw(st.booleans())
    inputs_of = [
        "x",
        "w",
        "r",
        "b",
        "lengths" if given_lengths else "",
        *(n for n in ("h", "c") if n in values),
    ]
    outputs = ["y", "yh", *(["yc"] if op == "LSTM" else [])]
    ways = DIRECTIONS[direction]
    dims: dict[str, list[int | str]] = {}
    if data.draw(st.booleans()):
        dims = {n: [ways, "n", hidden] for n in ("h", "c") if n in values} | {"x": ["t", "n", inputs]}
    elif data.draw(st.booleans()):
        # Weights that are known only when the model runs.
        values, weights = {**values, "w": weights.pop("w"), "r": weights.pop("r")}, weights
    if given_lengths:
        values["lengths"] = lengths
    check([N(op, inputs_of, outputs, **attrs)], values, weights, outputs=outputs, dims=dims, tolerance=2e-5)


@pytest.mark.parametrize("op", GATES)
def test_layers_whose_batch_comes_first_and_that_start_from_nothing(op: str) -> None:
    """Not done by ONNX Runtime, so against the layer whose time comes first."""
    values, weights = layer(op, 20, 6, "bidirectional", 3)
    weights.pop("b")
    first = [N(op, ["x", "w", "r"], ["y", "yh"], hidden_size=20, direction="bidirectional", layout=1)]
    plain = [N(op, ["x", "w", "r"], ["y", "yh"], hidden_size=20, direction="bidirectional")]
    swapped = {"x": np.ascontiguousarray(values["x"].swapaxes(0, 1))}
    y, yh = outputs_of(program(plain, {"x": values["x"]}, weights, outputs=["y", "yh"]), {"x": values["x"]})
    ours = outputs_of(program(first, swapped, weights, outputs=["y", "yh"]), swapped)
    np.testing.assert_allclose(ours[0], y.transpose(2, 0, 1, 3), atol=1e-6)
    np.testing.assert_allclose(ours[1], yh.transpose(1, 0, 2), atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm_with_peepholes_a_bound_and_one_gate_for_two(direction: str) -> None:
    values, weights = layer("LSTM", 18, 4, direction, 2)
    weights["p"] = numbers(6, DIRECTIONS[direction], 3 * 18)
    node = N("LSTM", ["x", "w", "r", "b", "", "h", "c", "p"], ["y"], hidden_size=18, direction=direction)
    check([node], values, weights, tolerance=2e-5)
    del weights["p"]
    node = N("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y"], hidden_size=18, direction=direction, clip=0.5)
    check([node], values, weights, tolerance=2e-5)


@pytest.mark.parametrize(
    "name", ["Relu", "HardSigmoid", "LeakyRelu", "Softsign", "Softplus", "Elu", "Affine"]
)
def test_other_activations(name: str) -> None:
    values, weights = layer("RNN", 7, 4, "forward", 2)
    attrs = {"activation_alpha": [0.3]} if name in ("LeakyRelu", "HardSigmoid", "Elu", "Affine") else {}
    check([N("RNN", ["x", "w", "r", "b", "", "h"], ["y"], hidden_size=7, activations=[name], **attrs)],
          values, weights, tolerance=2e-5)  # fmt: skip


def test_directions_of_different_activations() -> None:
    values, weights = layer("RNN", 7, 4, "bidirectional", 2)
    attrs = {"hidden_size": 7, "direction": "bidirectional", "activations": ["Tanh", "Relu"]}
    check([N("RNN", ["x", "w", "r", "b", "", "h"], ["y"], **attrs)], values, weights, tolerance=2e-5)


@pytest.mark.parametrize("op", GATES)
def test_members_without_a_step_have_no_last_state(op: str) -> None:
    values, weights = layer(op, 18, 4, "forward", 3)
    outputs = ["y", "yh", *(["yc"] if op == "LSTM" else [])]
    names = ["x", "w", "r", "b", "lengths", *(name for name in ("h", "c") if name in values)]
    values["lengths"] = np.array([0, 5, 2], np.int32)
    check([N(op, names, outputs, hidden_size=18)], values, weights, outputs=outputs)
    nothing = {
        name: array[:0] if name == "x" else array for name, array in values.items() if name != "lengths"
    }
    names[4] = ""
    graph = program(
        [N(op, names, outputs, hidden_size=18)], nothing, weights, outputs=outputs, dims={"x": ["t", 3, 4]}
    )
    _, *last = outputs_of(graph, nothing)
    assert len(last) == len(outputs) - 1 and not any(state.any() for state in last)


@pytest.mark.parametrize("op", GATES)
def test_lengths_out_of_range_are_clamped(op: str) -> None:
    """ONNX Runtime stops with an error."""
    values, weights = layer(op, 5, 4, "reverse", 3)
    outputs = ["y", "yh"]
    names = ["x", "w", "r", "b", "lengths", *(name for name in ("h", "c") if name in values)]
    values["lengths"] = np.array([99, 5, -2], np.int32)
    node = N(op, names, outputs, hidden_size=5, direction="reverse")
    graph = program([node], values, weights, outputs=outputs)
    clamped = {**values, "lengths": np.array([5, 5, 0], np.int32)}
    for ours, theirs in zip(outputs_of(graph, values), expected_of(graph, clamped), strict=True):
        assert_close(ours, theirs, 2e-5)


@pytest.mark.parametrize(
    ("op", "late", "count"), [("LSTM", 0, 1), ("GRU", 0, 2), ("GRU", 1, 0), ("RNN", 0, 0)]
)
def test_layers_keep_no_more_states_than_they_use(op: str, late: int, count: int) -> None:
    """Beside the two of the hidden state: an LSTM's cell, a GRU's gate and state that is reset early."""
    values, weights = layer(op, 16, 4, "forward", 5)
    attrs = {"linear_before_reset": late} if op == "GRU" else {}
    names = ["x", "w", "r", "b", "", *(name for name in ("h", "c") if name in values)]
    graph = program([N(op, names, ["y"], hidden_size=16, **attrs)], values, weights)
    region = KernelRegion.of(graph.nodes[0], lambda value: value.const)
    text = str(lower_region(region, NATIVE, (0,), 0.0).function)
    assert text.count(f"alloc_buffer((T.int64({2 * 5 * 16}),)") == 1
    assert text.count(f"alloc_buffer((T.int64({5 * 16}),)") == count
