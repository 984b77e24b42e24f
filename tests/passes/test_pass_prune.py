"""prune-magnitude against brute force."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import Model, apply, ops, random

from graphopt.errors import PassError, PipelineError
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline, passes

# Few different magnitudes, so that ties are the rule.
WEIGHTS = st.lists(st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5]), min_size=12, max_size=12)


def _model(*layers: list[float]) -> Graph:
    m = Model()
    x = m.input("x", 2, 3)
    for i, numbers in enumerate(layers):
        w, b = m.const(np.reshape(numbers, (3, 4)), f"w{i}"), m.const([1e-9] * 4, f"b{i}")
        x = m("Slice", m("Gemm", x, w, b, name=f"layer{i}"), m.ints(0), m.ints(3), m.ints(1))
    return m.done(x)


def _weights(graph: Graph) -> list[Any]:
    gemms = [node for node in graph.nodes if node.op == "Gemm"]
    return [node.inputs[1].const.numpy() for node in gemms]  # type: ignore[union-attr]


def _brute_force(flat: list[float], count: int) -> list[float]:
    order = sorted(range(len(flat)), key=lambda i: (abs(flat[i]), i))
    zeroed = set(order[:count])
    return [0.0 if i in zeroed else value for i, value in enumerate(flat)]


SPARSITY = st.sampled_from([0.0, 0.1, 0.25, 0.29, 0.5, 0.7, 0.999, 1.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layers=st.lists(WEIGHTS, min_size=1, max_size=3), sparsity=SPARSITY)
def test_layer_by_layer(layers: list[list[float]], sparsity: float) -> None:
    graph = _model(*layers)
    apply(graph, f"prune-magnitude{{sparsity={sparsity}}}")
    for numbers, pruned in zip(layers, _weights(graph), strict=True):
        expected = _brute_force(numbers, int(Fraction(str(sparsity)) * 12))
        assert pruned.reshape(-1).tolist() == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layers=st.lists(WEIGHTS, min_size=1, max_size=3), sparsity=SPARSITY)
def test_over_all_layers(layers: list[list[float]], sparsity: float) -> None:
    graph = _model(*layers)
    report = apply(graph, f"prune-magnitude{{sparsity={sparsity} scope=global}}")
    flat = [number for numbers in layers for number in numbers]
    count = int(Fraction(str(sparsity)) * len(flat))
    got = [number for weight in _weights(graph) for number in weight.reshape(-1).tolist()]
    assert got == _brute_force(flat, count)
    assert sum(layer["zeroed"] for layer in report.rows[0].notes["layers"]) == count


@settings(max_examples=30, deadline=None, derandomize=True)
@given(numbers=WEIGHTS, threshold=st.sampled_from([0.0, 0.5, 0.75, 3.0]))
def test_threshold(numbers: list[float], threshold: float) -> None:
    graph = _model(numbers)
    apply(graph, f"prune-magnitude{{threshold={threshold}}}")
    assert _weights(graph)[0].reshape(-1).tolist() == [0.0 if abs(v) < threshold else v for v in numbers]


def test_names_choose_layers() -> None:
    ones = [1.0] * 12
    graph = _model(ones, ones, ones)
    report = apply(graph, "prune-magnitude{sparsity=1.0 include=layer0,w2,layer1 exclude=*1}")
    assert [int((w == 0).sum()) for w in _weights(graph)] == [12, 0, 12]
    assert [layer["weight"] for layer in report.rows[0].notes["layers"]] == ["w0", "w2"]


def test_biases_and_unchosen_users_keep_their_values() -> None:
    m = Model()
    x = m.input("x", 4, 4)
    w, bias = m.const(random(4, 4), "w"), m.const([1e-9] * 4, "bias")
    pruned = m("Gemm", x, w, bias, name="pruned")
    kept = m("MatMul", pruned, w, name="kept")
    graph = m.done(m("Add", kept, m("Relu", w)))
    apply(graph, "prune-magnitude{sparsity=0.5 include=pruned}")
    first, second, relu = (node for node in graph.nodes if node.op in ("Gemm", "MatMul", "Relu"))
    assert (first.inputs[1].const.numpy() == 0).sum() == 8  # type: ignore[union-attr]
    assert second.inputs[1] is w and relu.inputs[0] is w
    np.testing.assert_array_equal(w.const.numpy(), random(4, 4))  # type: ignore[union-attr]
    np.testing.assert_array_equal(bias.const.numpy(), np.float32([1e-9] * 4))  # type: ignore[union-attr]


def test_a_weight_of_two_layers_counts_once() -> None:
    m = Model()
    x = m.input("x", 2, 4)
    w = m.const(np.arange(1, 17).reshape(4, 4), "w")
    graph = m.done(m("MatMul", m("MatMul", x, w), w))
    report = apply(graph, "prune-magnitude{sparsity=0.25 scope=global}")
    assert report.rows[0].notes["layers"] == [{"weight": "w", "size": 16, "zeroed": 4}]
    assert graph.nodes[0].inputs[1] is graph.nodes[1].inputs[1]
    assert list(graph.constants) == ["w"]


def test_every_kind_of_layer_and_only_floats() -> None:
    m = Model()
    x = m.input("x", 1, 4, 6, 6)
    y = m("ConvTranspose", m("Conv", x, m.const(random(4, 4, 1, 1))), m.const(random(4, 2, 2, 2)))
    z = m("MatMul", m.const(random(3, 7)), y)
    i = m("MatMulInteger", m.input("i", 2, 4, dtype="u8"), m.const(np.ones((4, 4)), dtype=np.int8))
    graph = m.done(m("MatMul", z, m.const(random(7))), i)
    report = apply(graph, "prune-magnitude{sparsity=1.0}")
    assert [layer["size"] for layer in report.rows[0].notes["layers"]] == [16, 32, 21]
    assert ops(graph) == ["Conv", "ConvTranspose", "MatMul", "MatMulInteger", "MatMul"]


def test_options_may_be_numbers_of_numpy() -> None:
    made = passes()["prune-magnitude"](sparsity=np.float64(0.25))  # type: ignore[call-arg]
    assert str(made) == "prune-magnitude{sparsity=0.25}"
    assert Pipeline.parse(str(made)).passes == (made,)
    m = Model()
    graph = m.done(m("MatMul", m.input("x", 1, 4), m.const(random(4, 1))))
    assert Pipeline((made,)).run(graph).rows[0].notes["layers"][0]["zeroed"] == 1


@pytest.mark.parametrize("text", ["sparsity=1.5", "sparsity=-0.1", "threshold=-1.0", "scope=model"])
def test_options_out_of_range(text: str) -> None:
    with pytest.raises(PipelineError):
        Pipeline.parse(f"prune-magnitude{{{text}}}")


def test_weights_of_fused_regions_too() -> None:
    m = Model()
    x = m.input("x", 4, 4)
    graph = m.done(m("Relu", m("MatMul", x, m.const(random(4, 4), "w"))))
    apply(graph, "fuse-regions,prune-magnitude{sparsity=0.5}")
    (node,) = graph.nodes
    assert node.is_fused and (node.inputs[1].const.numpy() == 0).sum() == 8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsity=1.5", "sparsity must be from 0 to 1, not 1.5"),
        ("sparsity=nan", "sparsity must be from 0 to 1, not nan"),
        ("threshold=-1.0", "threshold must be at least 0, not -1.0"),
        ("sparsity=0.5 threshold=0.1", "sparsity and threshold exclude each other"),
        ("scope=global threshold=0.1", "scope=global goes with sparsity"),
    ],
)
def test_what_is_wrong_with_options_is_told(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=f'pass "prune-magnitude": {message}'):
        Pipeline.parse(f"prune-magnitude{{{text}}}")


def test_without_options_half_of_the_weights_go() -> None:
    graph = _model([float(i) for i in range(1, 13)])
    report = apply(graph, "prune-magnitude")
    assert [layer["zeroed"] for layer in report.rows[0].notes["layers"]] == [6]


@pytest.mark.parametrize("name", ["prune-magnitude", "quantize-static"])
def test_patterns_that_match_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    m = Model()
    graph = m.done(m("MatMul", m.input("x", 2, 4), m.const(random(4, 4), "w"), name="dense"))
    for include in ("conv*", "dense,conv*"):
        with pytest.raises(PassError, match=rf'pass "{name}": include=conv\* matches no layer') as caught:
            apply(graph, f"{name}{{include={include}}}")
        assert caught.value.hint == "the layers are dense"
    assert ops(graph) == ["MatMul"] and "w" in graph.constants
    apply(graph, f"{name}{{exclude=conv*}}")
    assert "exclude=conv* matches no layer; the layers are dense" in caplog.messages
