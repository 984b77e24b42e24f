"""fuse-conv-bn, decompose-batch-norm and fuse-matmul-bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_graphs import Model, apply, checked, count, ops, random

from graphopt.ir.dims import sym
from graphopt.ir.graph import Value

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def _batch_norm(m: Model, x: Value, channels: int, **attrs: Any) -> Value:
    rng = np.random.default_rng(1)
    statistics = [
        rng.uniform(0.5, 2, channels),
        random(channels),
        random(channels),
        rng.uniform(0.1, 3, channels),
    ]
    result: Value = m("BatchNormalization", x, *[m.const(s) for s in statistics], **attrs)
    return result


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_conv_and_batch_norm(group: int, bias: bool) -> None:
    m = Model()
    x = m.input("x", sym("n"), 4, 9, 9)
    w = m.const(random(8, 4 // group, 3, 3))
    y = m(
        "Conv", x, w, *([m.const(random(8))] if bias else []), group=group, pads=(1, 1, 1, 1), strides=(2, 2)
    )
    graph = m.done(m("Relu", _batch_norm(m, y, 8, epsilon=1e-3)))
    report = checked(graph, "fuse-conv-bn", {"x": random(2, 4, 9, 9)}, **CLOSE)
    assert ops(graph) == ["Conv", "Relu"] and len(graph.constants) == 2
    assert report.rows[0].rules.rules["conv-bn"].hits == 1


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_conv_and_batch_norm(group: int) -> None:
    m = Model()
    x = m.input("x", 1, 4, 5, 5)
    y = m("ConvTranspose", x, m.const(random(4, 6 // group, 3, 3)), group=group, strides=(2, 2))
    graph = m.done(_batch_norm(m, y, 6))
    checked(graph, "fuse-conv-bn", {"x": random(1, 4, 5, 5)}, **CLOSE)
    assert ops(graph) == ["ConvTranspose"]


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_and_batch_norm(trans: int) -> None:
    m = Model()
    x = m.input("x", sym("n"), 6)
    w = m.const(random(*((5, 6) if trans else (6, 5))))
    graph = m.done(_batch_norm(m, m("Gemm", x, w, m.const(random(5)), transB=trans), 5))
    checked(graph, "fuse-conv-bn", {"x": random(3, 6)}, **CLOSE)
    assert ops(graph) == ["Gemm"]


def test_a_chain_of_channel_wise_arithmetic() -> None:
    m = Model()
    x = m.input("x", 2, 3, 7, 7)
    y = m("Conv", x, m.const(random(4, 3, 1, 1)))
    y = m("Mul", m.const(random(1, 4, 1, 1)), y)
    y = m("Add", y, m.const(random(4, 1, 1, seed=2)))
    y = m("Div", y, m.const([[[2.0]]]))
    graph = m.done(m("Sub", y, m.const(0.25)))
    checked(graph, "fuse-conv-bn", {"x": random(2, 3, 7, 7)}, **CLOSE)
    assert ops(graph) == ["Conv"]


REFUSED = {
    "varies along a row": lambda m, y: m("Mul", y, m.const(random(7))),
    "adds a rank": lambda m, y: m("Add", y, m.const(random(1, 1, 4, 1, 1))),
    "is subtracted from": lambda m, y: m("Sub", m.const(random(4, 1, 1)), y),
    "divides by zero": lambda m, y: m("Div", y, m.const(np.zeros((4, 1, 1)))),
    "leaves no room for sums": lambda m, y: m("Mul", y, m.const(np.full((4, 1, 1), 1e20))),
    "is computed": lambda m, y: m("Mul", y, m("GlobalAveragePool", y)),
    "trains": lambda m, y: m("BatchNormalization", y, *[m.const([1.0] * 4)] * 4, training_mode=1, outputs=3)[
        0
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    m = Model()
    x = m.input("x", 2, 3, 7, 7)
    graph = m.done(REFUSED[name](m, m("Conv", x, m.const(random(4, 3, 1, 1)))))
    before = ops(graph)
    apply(graph, "fuse-conv-bn")
    assert ops(graph) == before


def test_a_result_with_another_user_is_not_scaled() -> None:
    m = Model()
    x = m.input("x", 2, 3, 7, 7)
    y = m("Conv", x, m.const(random(4, 3, 1, 1)))
    graph = m.done(_batch_norm(m, y, 4), y)
    apply(graph, "fuse-conv-bn")
    assert ops(graph) == ["Conv", "BatchNormalization"]


def test_shared_weights_are_copied_not_changed() -> None:
    m = Model()
    x = m.input("x", 2, 4, 7, 7)
    w = m.const(random(4, 4, 1, 1))
    graph = m.done(_batch_norm(m, m("Conv", m("Conv", x, w), w), 4))
    checked(graph, "fuse-conv-bn", {"x": random(2, 4, 7, 7)}, **CLOSE)
    assert ops(graph) == ["Conv", "Conv"]
    assert graph.nodes[0].inputs[1] is w


def test_batch_norm_alone_becomes_a_product_and_a_sum() -> None:
    m = Model()
    x = m.input("x", sym("n"), 4, sym("h"), sym("w"))
    graph = m.done(_batch_norm(m, x, 4))
    checked(graph, "decompose-batch-norm", {"x": random(2, 4, 5, 6)}, **CLOSE)
    assert ops(graph) == ["Mul", "Add"]


def test_batch_norm_of_huge_numbers_stays() -> None:
    m = Model()
    vectors = [m.const([1e30] * 3), m.const([0.0] * 3), m.const([0.0] * 3), m.const([1.0] * 3)]
    graph = m.done(m("BatchNormalization", m.input("x", 2, 3, 4), *vectors))
    apply(graph, "decompose-batch-norm")
    assert ops(graph) == ["BatchNormalization"]


def test_matmul_and_bias() -> None:
    m = Model()
    x = m.input("x", sym("n"), 6)
    y = m("Add", m.const(random(5)), m("MatMul", x, m.const(random(6, 5))))
    graph = m.done(m("Add", m("Gemm", y, m.const(random(5, 3)), alpha=0.5), m.const(random(1, 3))))
    checked(graph, "fuse-matmul-bias", {"x": random(3, 6)}, **CLOSE)
    assert ops(graph) == ["Gemm", "Gemm"]
    assert "alpha" not in graph.nodes[1].attrs


def test_alpha_and_beta_go_into_constants() -> None:
    m = Model()
    x = m.input("x", sym("n"), 6)
    graph = m.done(m("Gemm", x, m.const(random(6, 5)), m.const(random(5)), alpha=0.25, beta=3.0))
    checked(graph, "fuse-matmul-bias", {"x": random(3, 6)}, **CLOSE)
    assert not {"alpha", "beta"} & graph.nodes[0].attrs.keys()


def test_products_that_are_no_gemm() -> None:
    m = Model()
    x, y = m.input("x", 2, 3, 6), m.input("y", 3, 6)
    batched = m("Add", m("MatMul", x, m.const(random(6, 5))), m.const(random(5)))
    wider = m("Add", m("MatMul", y, m.const(random(6, 1))), m.const(random(4)))
    graph = m.done(
        batched, wider, m("Add", m("MatMul", m("Cast", y, to=7), m.ints(1, 2, 3, 4, 5, 6)), m.ints(1))
    )
    apply(graph, "fuse-matmul-bias")
    assert count(graph)["MatMul"] == 3
