"""Arithmetic by definition, against counts by hand."""

from __future__ import annotations

import pytest

from graphopt.analysis.cost import flops, is_elementwise
from graphopt.ir.graph import Node
from graphopt.ir.parser import parse_graph


def only(inputs: str, node: str) -> Node:
    """The last node of a graph with these inputs and nodes."""
    lines = "\n  ".join([*(f"input {line.strip()}" for line in inputs.split(";")), *node.split("\n")])
    name = node.strip().split("\n")[-1].split(":")[0].strip()
    return list(parse_graph(f'gir 1\ngraph "g" opset 26 {{\n  {lines}\n  return {name}\n}}\n').nodes)[-1]


X = "%x: f32[2, 8, 10, 12]"


@pytest.mark.parametrize(
    ("inputs", "node", "count"),
    [
        (f"{X}; %w: f32[6, 8, 3, 3]", "%y: f32[2, 6, 8, 10] = Conv(%x, %w)", 2 * 2 * 6 * 8 * 10 * 8 * 9),
        (
            f"{X}; %w: f32[6, 4, 3, 3]; %b: f32[6]",
            "%y: f32[2, 6, 8, 10] = Conv(%x, %w, %b) {group = 2}",
            2 * 6 * 8 * 10 * (2 * 4 * 9 + 1),
        ),
        (
            f"{X}; %w: f32[8, 5, 2, 2]",
            "%y: f32[2, 5, 20, 24] = ConvTranspose(%x, %w) {strides = [2, 2]}",
            2 * 2 * 8 * 10 * 12 * 5 * 4,
        ),
        ("%a: f32[3, 4, 5]; %b: f32[3, 5, 7]", "%y: f32[3, 4, 7] = MatMul(%a, %b)", 2 * 3 * 4 * 5 * 7),
        (
            "%a: f32[5, 4]; %b: f32[5, 7]; %c: f32[7]",
            "%y: f32[4, 7] = Gemm(%a, %b, %c) {transA = 1}",
            4 * 7 * (2 * 5 + 1),
        ),
        (
            "%a: f32[3, 4]; %b: f32[4, 5]",
            '%y: f32[3, 5] = Einsum(%a, %b) {equation = "ij,jk->ik"}',
            2 * 3 * 4 * 5,
        ),
        ("%a: f32[3, 4]; %b: f32[4]", "%y: f32[3, 4] = Add(%a, %b)", 12),
        ("%a: f32[3, 4]; %b: f32[4]", "%y: f32[3, 4] = Max(%a, %b, %b)", 24),
        ("%a: f32[3, 4]", "%y: f32[4, 3] = Transpose(%a) {perm = [1, 0]}", 0),
        ("%a: f32[3, 4]", "%y: f16[3, 4] = Cast(%a) {to = 10}", 0),
        ("%a: f32[3, 4]", "%y: f32[3, 4] = Softmax(%a)", 48),
        (X, "%y: f32[2, 8, 5, 6] = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]}", 2 * 8 * 5 * 6 * 4),
        (
            "%x: f32[7, 2, 5]; %w: f32[1, 12, 5]; %r: f32[1, 12, 3]",
            "%y: f32[7, 1, 2, 3] = LSTM(%x, %w, %r) {hidden_size = 3}",
            2 * 7 * 2 * 12 * (5 + 3),
        ),
        (
            "%q: f32[2, 3, 4, 8]; %k: f32[2, 3, 5, 8]; %v: f32[2, 3, 5, 6]",
            "%y: f32[2, 3, 4, 6] = Attention(%q, %k, %v)",
            2 * 2 * 3 * 4 * 5 * (8 + 6),
        ),
    ],
)
def test_counts_of_operators(inputs: str, node: str, count: int) -> None:
    assert flops(only(inputs, node), {}) == count


def test_symbols_need_numbers() -> None:
    node = only("%a: f32[n, 4]; %b: f32[4, 5]", "%y: f32[n, 5] = MatMul(%a, %b)")
    assert flops(node, {"n": 7}) == 2 * 7 * 4 * 5
    assert flops(node, {}) is None


FUSED = """%y: f32[2, 4] = graphopt.fused(%t, %i) do body(%t_1: f32[50, 4], %i_1: i64[2]) {
    %m: f32[50, 4] = Neg(%t_1)
    %g: f32[2, 4] = Gather(%m, %i_1)
    return %g
  }"""


def test_of_a_chain_only_what_the_result_needs_is_computed() -> None:
    graph = parse_graph(
        f'gir 1\ngraph "g" opset 26 {{\n  input %t: f32[50, 4]\n  input %i: i64[2]\n  {FUSED}\n  return %y\n}}\n'
    )
    (node,) = graph.nodes
    assert is_elementwise(node)
    assert flops(node, {}) == 8  # and not 200
