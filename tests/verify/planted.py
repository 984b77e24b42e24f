"""Faults that tests plant into built-in passes, each with a small model on which the pass fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from graphopt_passes import (
    common_subexpressions,
    control_flow,
    conv_affine,
    fold_constants,
    gelu,
    identities,
    layer_norm,
    lower_int8,
    matmul_bias,
    quantize_static,
    shapes,
)
from onnx import parser

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.rewriter import Rewriter
from graphopt.onnx_io import load
from graphopt.rewrite import Match

Plant = Callable[[pytest.MonkeyPatch], None]


def model(text: str) -> Graph:
    """A graph from ONNX's text; ``#name:shape`` in the initializers' place is filled with drawn numbers."""
    return load(parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'))


def drawn(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
    """An initializer of drawn floats."""
    generator = np.random.default_rng(sum(map(ord, name)))
    numbers = ", ".join(f"{x:.5f}" for x in generator.uniform(low, high, int(np.prod(shape))))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


@dataclass(frozen=True)
class Fault:
    """What is planted, where it shows, and what the tool must find by itself."""

    name: str
    graph: str
    pipeline: str
    plant: Plant
    guilty: str
    rule: str
    root: str
    value: str


def rewritten(module: ModuleType, rule: str, change: Callable[..., Any], table: str = "RULES") -> Plant:
    """Replaces the rewrite of a rule."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        rules = getattr(module, table)
        assert any(old.name == rule for old in rules)
        fresh = tuple(replace(old, rewrite=change) if old.name == rule else old for old in rules)
        patch.setattr(module, table, fresh)

    return plant


def replaced(module: ModuleType, name: str, wrap: Callable[[Any], Any]) -> Plant:
    """Replaces a function of a module by one made of it."""
    return lambda patch: patch.setattr(module, name, wrap(getattr(module, name)))


# --- the faults ---------------------------------------------------------------------------------


def _wrong_epsilon(rewriter: Rewriter, match: Match) -> Value:
    ones = rewriter.constant(np.ones(match["x"].tensor.shape[-1:], np.float32))  # type: ignore[index, arg-type]
    return rewriter.create("LayerNormalization", [match["x"], ones], {"axis": -1, "epsilon": 1e-2}).output


def _shifted_pads(rewriter: Rewriter, match: Match) -> Value:
    value = conv_affine._fold(rewriter, match)
    assert value.producer is not None
    rewriter.set_attr(value.producer, "pads", (0, 0, 2, 2))
    return value


def _all_conv_rules(change: Callable[..., Any]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        old = conv_affine._rule
        patch.setattr(conv_affine, "_rule", lambda *names: replace(old(*names), rewrite=change))

    return plant


def _wrong_branch(patch: pytest.MonkeyPatch) -> None:
    """The sum in a region takes its residual from the other input of the region that has its type."""
    fuse = Rewriter.fuse

    def wrong(self: Rewriter, nodes: list[Node], output: Value, *, name: str = "") -> Node:
        fused = fuse(self, nodes, output, name=name)
        add = next(node for node in fused.body if node.op == "Add")
        place = next(i for i, v in enumerate(add.inputs) if v is not None and v.is_input)
        self.set_input(add, place, next(v for v in fused.body.inputs if v not in add.inputs))
        return fused

    patch.setattr(Rewriter, "fuse", wrong)


def _untransposed(rewriter: Rewriter, match: Match) -> Value:
    return rewriter.create("Gemm", [match["a"], match["b"], match["bias"]], {}).output


def _off_by_one(accumulate: Callable[[Rewriter, Match], Value]) -> Callable[[Rewriter, Match], Value]:
    def wrong(rewriter: Rewriter, match: Match) -> Value:
        value = accumulate(rewriter, match)
        assert value.producer is not None
        zero = value.producer.inputs[2]
        assert zero is not None and zero.const is not None
        rewriter.set_input(value.producer, 2, rewriter.constant(zero.const.numpy() + np.uint8(1)))
        return value

    return wrong


NORM = (
    "m = ReduceMean<keepdims=1>(x, axes) c = Sub(x, m) q = Mul(c, c) v = ReduceMean<keepdims=1>(q, axes) "
    "e = Add(v, eps) s = Sqrt(e) n = Div(c, s)"
)
CONV = f"<{drawn('w', 4, 3, 3, 3)}, {drawn('k', 4, 1, 1, low=0.5, high=2.0)}>"
BATCH_NORM = (
    f"<{drawn('w', 4, 3, 3, 3)}, {drawn('g', 4, low=0.5, high=2)}, {drawn('b', 4)}, {drawn('mu', 4)}, "
    f"{drawn('var', 4, low=0.5, high=2)}>"
)
QUANTIZED = (
    "g (uint8[n,4] x) => (float[n,3] y) <float s = {0.02}, uint8 z = {120}, float sw = {0.01}, "
    "int8[4,3] w = {1, -2, 3, 40, 5, -60, 7, 8, 9, 10, -11, 12}> "
    "{ a = DequantizeLinear(x, s, z) b = DequantizeLinear(w, sw) y = MatMul(a, b) }"
)

FAULTS = [
    Fault(
        "wrong epsilon",
        f"g (float[n,4] x) => (float[n,4] y) <int64[1] axes = {{-1}}, float eps = {{0.00001}}> {{ {NORM} y = Tanh(n) }}",
        "O1,fuse-layer-norm", rewritten(layer_norm, "layer-norm", _wrong_epsilon),
        "fuse-layer-norm", "layer-norm", 'Div "n"', "n",
    ),
    Fault(
        "dropped axis",
        f"g (float[n,4,4] x) => (float[n,4,4] n) <int64[1] axes = {{1}}, float eps = {{0.00001}}> {{ {NORM} }}",
        "fuse-layer-norm", replaced(layer_norm, "RULES", lambda rules: tuple(replace(r, check=None) for r in rules)),
        "fuse-layer-norm", "layer-norm", 'Div "n"', "n",
    ),
    Fault(
        "swapped operands of a division",
        f"g (float[n,3,8,8] x) => (float[n,4,8,8] y) {CONV} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Div(c, k) }}",
        "fuse-conv-bn",
        replaced(conv_affine, "_affine_map", lambda old: lambda m, r, c: (1 / old(m, r, c)[0], old(m, r, c)[1])),
        "fuse-conv-bn", "conv-div", 'Div "y"', "y",
    ),
    Fault(
        "off-by-one pad",
        f"g (float[n,3,8,8] x) => (float[n,4,8,8] y) {CONV} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Mul(c, k) }}",
        "fuse-conv-bn", _all_conv_rules(_shifted_pads), "fuse-conv-bn", "conv-mul", 'Mul "y"', "y",
    ),
    Fault(
        "wrong scale in batch normalization, hidden by a saturated output",
        f"g (float[n,3,8,8] x) => (float[n,4,8,8] y) {BATCH_NORM} "
        "{ c = Conv<pads=[1,1,1,1]>(x, w) d = BatchNormalization(c, g, b, mu, var) e = Sigmoid(d) y = Ceil(e) }",
        "O1,fuse-conv-bn",
        replaced(conv_affine, "batch_norm_map", lambda old: lambda n, m: (old(n, m)[0] * 1.001, old(n, m)[1])),
        "fuse-conv-bn", "conv-bn", 'BatchNormalization "d"', "d",
    ),
    Fault(
        "wrong constant of Gelu",
        "g (float[n,8] x) => (float[n,8] y) <float r = {1.41421356}, float one = {1}, float h = {0.5}> "
        "{ a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, h) }",
        "fuse-gelu", rewritten(gelu, "gelu-erf", gelu._gelu("tanh")), "fuse-gelu", "gelu-erf", 'Mul "y"', "y",
    ),
    Fault(
        "wrong zero point",
        QUANTIZED, "lower-int8", replaced(lower_int8, "_accumulate", _off_by_one),
        "lower-int8", "matmul-integer", 'MatMul "y"', "y",
    ),
    Fault(
        "weight quantized off by one",
        f"g (float[n,4] x) => (float[n,3] y) <{drawn('w', 4, 3)}> {{ y = MatMul(x, w) }}",
        "quantize-static",
        replaced(quantize_static, "quantize_weight", lambda old: lambda *a: (old(*a)[0] // 2 * 2, old(*a)[1])),
        "quantize-static", "quantize-layer", 'MatMul "y"', "w",
    ),
    Fault(
        "shape baked from a symbol",
        "g (float[n,m] x) => (float[n,m] y, int64[2] s) { y = Relu(x) s = Shape(y) }",
        "O1", replaced(shapes, "_read_run", lambda old: lambda r, run, s: r.constant(np.array([8] * len(run)))),
        "simplify-shapes", "sizes-of-inputs", 'Shape "s"', "s",
    ),
    Fault(
        "residual of a region from the wrong branch",
        "g (float[n,4] x, float[n,4] u, float[n,4] v) => (float[n,4] y) "
        "{ a = Tanh(x) b = Mul(a, v) c = Add(b, u) y = Relu(c) }",
        "fuse-regions", _wrong_branch, "fuse-regions", "region", 'Relu "y"', "y",
    ),
    Fault(
        "transposed weight not transposed",
        f"g (float[n,4] x) => (int64[n] i) <{drawn('w', 4, 4)}, {drawn('b', 4)}> "
        "{ p = Gemm<transB=1>(x, w) y = Add(p, b) i = ArgMax<axis=1, keepdims=0>(y) }",
        "fuse-matmul-bias", rewritten(matmul_bias, "gemm-bias", _untransposed),
        "fuse-matmul-bias", "gemm-bias", 'Add "y"', "y",
    ),
    Fault(
        "attribute that equal nodes may differ in",
        "g (float[n,4] x) => (float[n,4] y) { a = LeakyRelu<alpha=0.1>(x) b = LeakyRelu<alpha=0.2>(x) y = Add(a, b) }",
        "O1", replaced(common_subexpressions, "_frozen", lambda old: lambda attr: None),
        "eliminate-common-subexpressions", "equal-nodes", 'LeakyRelu "b"', "b",
    ),
    Fault(
        "permutations composed the wrong way round",
        "g (float[3,3,3] x) => (float[3,3,3] y) { a = Transpose<perm=[0,2,1]>(x) y = Transpose<perm=[1,0,2]>(a) }",
        "simplify-identities",
        rewritten(
            identities, "transpose-of-transpose",
            lambda r, m: r.create("Transpose", [m["x"]], {"perm": (1, 2, 0)}).output, "VIEW_RULES",
        ),
        "simplify-identities", "transpose-of-transpose", 'Transpose "y"', "y",
    ),
    Fault(
        "branch of the other condition",
        "g (float[n] x) => (float[n] y) <bool c = {1}> { y = If (c) <then_branch = t () => (float[n] a) { a = Neg(x) }, "
        "else_branch = e () => (float[n] b) { b = Exp(x) }> }",
        "fold-control-flow", replaced(control_flow, "_truth", lambda old: lambda v: not old(v)),
        "fold-control-flow", "known-condition", 'If "y"', "y",
    ),
    Fault(
        "constant that is rounded",
        f"g (float[n,4] x) => (float[n,4] y) <{drawn('w', 4)}> {{ a = Exp(w) y = Mul(x, a) }}",
        "fold-constants",
        replaced(fold_constants, "_replace", lambda old: lambda r, v, t: old(
            r, v, fold_constants.Tensor.of(t.numpy().astype(np.float16).astype(np.float32)))),
        "fold-constants", "constant", 'Exp "a"', "a",
    ),
]  # fmt: skip
