"""Elementwise operators: values, broadcasting, element types, chains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.backend.assemble import assemble
from tests.backend.programs import NATIVE, check, expected_of, numbers, outputs_of, program

N = helper.make_node

UNARY = {
    "Abs": {}, "Neg": {}, "Sign": {}, "Ceil": {}, "Floor": {}, "Round": {}, "Exp": {}, "Sin": {}, "Cos": {},
    "Tan": {}, "Atan": {}, "Sinh": {}, "Cosh": {}, "Tanh": {}, "Asinh": {}, "Erf": {}, "Sigmoid": {}, "Relu": {},
    "LeakyRelu": {"alpha": 0.3}, "Elu": {"alpha": 1.3}, "Selu": {}, "Celu": {"alpha": 0.7}, "Mish": {},
    "Gelu": {}, "HardSigmoid": {"alpha": 0.3}, "HardSwish": {}, "Softplus": {}, "Softsign": {},
    "ThresholdedRelu": {"alpha": 0.4}, "Shrink": {"bias": 0.1, "lambd": 0.3}, "Reciprocal": {}, "Identity": {},
}  # fmt: skip


def test_unary_functions() -> None:
    """All in one program; values reach into the flat ends of the functions, and the size is odd."""
    x = np.concatenate([np.linspace(-30, 30, 1003), numbers(0, 1000)]).astype(np.float32)
    nodes = [N(op, ["x"], [f"y{i}"], **attrs) for i, (op, attrs) in enumerate(UNARY.items())]
    nodes.append(N("Gelu", ["x"], ["tanh_gelu"], approximate="tanh"))
    names = [node.output[0] for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        node.output[0] = name
    x = np.clip(x, -12, 12)  # exp and its kin stay of one size with the rest of their outputs
    check(nodes, {"x": x}, outputs=names, dims={"x": ["n"]})


def test_functions_of_positive_numbers() -> None:
    x = np.abs(numbers(1, 500)) + np.float32(1e-3)
    nodes = [N(op, ["x"], [op]) for op in ("Log", "Sqrt")]
    nodes += [N("Acosh", ["above"], ["Acosh"]), N("Add", ["x", "one"], ["above"])][::-1]
    check(nodes, {"x": x}, {"one": np.float32([1])}, outputs=["Log", "Sqrt", "Acosh"])


def test_special_values() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e-42, 3e38, -3e38, 88.7, -104, 2.5, -2.5])
    ops = ("IsNaN", "IsInf", "Exp", "Tanh", "Sigmoid", "Erf", "Round", "Floor", "Abs", "Log")
    check([N(op, ["x"], [op]) for op in ops], {"x": x}, outputs=ops)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_broadcasting_with_dynamic_dimensions(data: st.DataObject) -> None:
    """Any mix of absent, unit, static and symbolic dimensions, sizes around vector lengths and zero."""
    rank = data.draw(st.integers(1, 4))
    whole = [data.draw(st.sampled_from([0, 1, 2, 3, 7, 8, 15, 17, 33])) for _ in range(rank)]
    shapes, dims = [], []
    for _ in range(3):
        lead = data.draw(st.integers(0, rank - 1))
        kinds = [data.draw(st.sampled_from(["whole", "unit", "symbol"])) for _ in range(lead, rank)]
        shapes.append([1 if kind == "unit" else n for kind, n in zip(kinds, whole[lead:], strict=True)])
        names = [f"d{axis}" for axis in range(lead, rank)]
        dims.append([
            name if kind == "symbol" else n
            for kind, name, n in zip(kinds, names, shapes[-1], strict=True)
        ])  # fmt: skip
    inputs = {name: numbers(i, *shape) for i, (name, shape) in enumerate(zip("abc", shapes, strict=True))}
    nodes = [
        N("Add", ["a", "b"], ["s"]),
        N("Mul", ["s", "c"], ["p"]),
        N("Sigmoid", ["p"], ["g"]),
        N("Mul", ["p", "g"], ["h"]),
        N("Greater", ["h", "a"], ["m"]),
        N("Where", ["m", "h", "b"], ["y"]),
    ]
    check(nodes, inputs, dims=dict(zip("abc", dims, strict=True)), pipeline="fuse-regions", tolerance=1e-4)


INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.int8])
def test_integer_arithmetic(dtype: type) -> None:
    x, y = numbers(0, 7, 33, dtype=dtype), numbers(1, 7, 33, dtype=dtype)
    y = np.where(y == 0, np.asarray(3, dtype), y).astype(dtype)
    nodes = [
        N(op, ["x", "y"], [op]) for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Less", "Equal")
    ]
    check(nodes, {"x": x, "y": y}, outputs=[node.output[0] for node in nodes])


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
)
def test_integer_division_by_anything(dtype: type) -> None:
    """By 0 it is 0, the smallest number divided by -1 is itself; neither stops the process."""
    limits = np.iinfo(dtype)
    some = np.array([limits.min, limits.max, 0, 1, 7, 100, limits.max // 3], dtype)
    by = np.array([0, 1, 2, 3, limits.max, 7, 0], dtype)
    if limits.min:
        by = np.concatenate([by, np.array([-1, -3, limits.min, -1], dtype)])
    x, d = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(np.tile(some, 5), by))
    nodes = [N("Div", ["x", "d"], ["q"]), N("Mod", ["x", "d"], ["m"]), N("Mod", ["x", "d"], ["f"], fmod=1),
             N("Div", ["x", "zero"], ["z"]), N("Mod", ["x", "zero"], ["r"])]  # fmt: skip
    graph = program(nodes, {"x": x, "d": d}, {"zero": np.zeros((), dtype)}, outputs=["q", "m", "f", "z", "r"])
    quotient, modulus, rest, none, nothing = outputs_of(graph, {"x": x, "d": d})
    exact = [0 if not b else abs(int(a)) // abs(int(b)) * (1 if (a < 0) == (b < 0) else -1)
             for a, b in zip(x, d, strict=True)]  # fmt: skip
    wrapped = [number - (1 << limits.bits) if number > limits.max else number for number in exact]
    assert quotient.tolist() == wrapped
    assert modulus.tolist() == [int(a) % int(b) if b else 0 for a, b in zip(x, d, strict=True)]
    assert rest.tolist() == [int(a) - int(b) * q if b else 0 for a, b, q in zip(x, d, exact, strict=True)]
    assert not none.any() and not nothing.any()


def test_division_by_a_constant_has_no_guard() -> None:
    """Nothing is selected: the divisor is known to be safe."""
    x = numbers(0, 100, dtype=np.int32)
    nodes = [N("Div", ["x", "d"], ["q"]), N("Mod", ["x", "e"], ["y"])]
    constants = {"d": np.array(7, np.int32), "e": np.arange(1, 101, dtype=np.int32)}
    check(nodes, {"x": x}, constants, outputs=["q", "y"])
    assert "Select" not in str(
        assemble(program(nodes[:1], {"x": x}, constants, outputs=["q"]), NATIVE).module
    )


def test_bits() -> None:
    x, y = numbers(0, 100, dtype=np.uint32), numbers(1, 100, dtype=np.uint32) % 40
    nodes = [N(f"Bitwise{op}", ["x", "y"], [op]) for op in ("And", "Or", "Xor")]
    nodes += [N("BitShift", ["x", "y"], ["left"], direction="LEFT"), N("BitwiseNot", ["x"], ["not"])]
    nodes += [N("BitShift", ["x", "y"], ["right"], direction="RIGHT")]
    check(nodes, {"x": x, "y": y.astype(np.uint32)}, outputs=[node.output[0] for node in nodes])


def test_truth_values() -> None:
    a, b = numbers(0, 5, 9, dtype=bool), numbers(1, 9, dtype=bool)
    nodes = [N(op, ["a", "b"], [op]) for op in ("And", "Or", "Xor", "Equal")] + [N("Not", ["a"], ["Not"])]
    check(nodes, {"a": a, "b": b}, outputs=[node.output[0] for node in nodes])


def test_casts_between_all_types() -> None:
    x = np.float32([-3.7, -1, -0.5, 0, 0.5, 2.9, 100.2])
    types = [*INTEGERS[::2], np.bool_, np.float16, np.float64]
    nodes = [
        N("Cast", ["x"], [f"t{i}"], to=int(helper.np_dtype_to_tensor_dtype(np.dtype(t))))
        for i, t in enumerate(types)
    ]
    nodes += [N("Cast", [f"t{i}"], [f"y{i}"], to=1) for i in range(len(types))]
    check(nodes, {"x": x}, outputs=[f"{c}{i}" for c in "ty" for i in range(len(types))])


def test_half_precision_rounds_after_every_operator() -> None:
    x, y = numbers(0, 40, 5, dtype=np.float16), numbers(1, 5, dtype=np.float16)
    nodes = [
        N("Mul", ["x", "y"], ["a"]),
        N("Add", ["a", "x"], ["b"]),
        N("Tanh", ["b"], ["c"]),
        N("Div", ["c", "y"], ["y0"]),
    ]
    check(nodes, {"x": x, "y": y}, outputs=["a", "b", "y0"], pipeline="fuse-regions", tolerance=2e-3)


def test_quantize_and_dequantize_per_channel() -> None:
    x = numbers(0, 2, 5, 9)
    constants = {"s": np.float32([0.1, 0.02, 0.3, 0.05, 0.2]), "z": np.uint8([0, 10, 128, 255, 7])}
    nodes = [
        N("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        N("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    check(nodes, {"x": x}, constants, outputs=["q", "y"])


def test_powers() -> None:
    x = np.abs(numbers(0, 50)) + 0.1
    constants = {f"e{i}": np.float32(e) for i, e in enumerate((2, 3, 0.5, 1.7, -1))}
    nodes = [N("Pow", ["x", e], [f"y{i}"]) for i, e in enumerate(constants)]
    check(nodes, {"x": x}, constants, outputs=[node.output[0] for node in nodes])


def test_a_value_used_often_is_computed_once() -> None:
    """Forty doublings: an expression tree would have 2^40 leaves."""
    nodes = [N("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(40)]
    nodes[0].input[:] = ["x", "x"]
    check(nodes, {"x": numbers(0, 3, 21)}, outputs=["v40"], pipeline="fuse-regions{max_ops=64}")


def test_the_ends_of_functions() -> None:
    """Where functions become flat, or overflow; 0.5 x (1 + erf(x / sqrt(2))) written out is 0 far below 0."""
    x = np.float32([-3e38, -1e4, -100, -89.4, -88.9, -30, -9.1, -5.6, 5.6, 9.1, 30, 88.9, 89.4, 90, 3e38])
    x = np.concatenate([x, np.float32([np.nan, np.inf, -np.inf, 0.0, 1e-42])])
    nodes = [
        *(N(op, ["x"], [op]) for op in ("Sinh", "Cosh", "Tanh", "Erf", "Gelu")),
        N("Gelu", ["x"], ["tanh"], approximate="tanh"),
        N("Sigmoid", ["x"], ["sigmoid"]),
        N("Mul", ["x", "sigmoid"], ["Silu"]),
        N("Mul", ["x", "root"], ["inner"]),
        N("Erf", ["inner"], ["erf"]),
        N("Add", ["erf", "one"], ["sum"]),
        N("Mul", ["x", "sum"], ["decomposed"]),
    ]
    constants = {"root": np.float32(np.sqrt(0.5)), "one": np.float32(1)}
    names = ("Sinh", "Cosh", "Tanh", "Erf", "Gelu", "tanh", "decomposed", "Silu")
    graph = program(nodes, {"x": x}, constants, outputs=names)
    *others, silu = outputs_of(graph, {"x": x})
    for name, ours, theirs in zip(names, others, expected_of(graph, {"x": x}), strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=0 if name in ("Sinh", "Cosh") else 5e-7)
    # ONNX Runtime's sigmoid is coarse.
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_allclose(silu, x / (1 + np.exp(-x.astype(np.float64))), rtol=2e-6, atol=2e-36)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
@pytest.mark.parametrize("exponent", [0, 2, 3, 4, 7])
def test_constant_powers(dtype: type, exponent: int, capfd: pytest.CaptureFixture[str]) -> None:
    x = np.arange(-9, 10).astype(dtype)
    check([N("Pow", ["x", "e"], ["y"])], {"x": x}, {"e": np.array(exponent, dtype)})
    assert "Warning" not in capfd.readouterr().err
