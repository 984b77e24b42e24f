"""Winograd convolution: its matrices in exact arithmetic, its kernels against sums in float64."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import CPU, conv_reference
from test_spills import innermost_loops
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.winograd import (
    Winograd,
    emit_winograd,
    pack_winograd,
    winograd_choice,
    winograd_shape,
)
from graphopt.backend.kernels.blocked.winograd_transforms import MOST_PRODUCTS, program, transforms
from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Buffer, Expr, product
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import build, kernel_prim_func

# LLVM splits vectors of 512 bits on hosts that lack them.
MACHINES = {
    "x86-64-v4": MachineSpec(512, 32, 48 << 10, 2 << 20),
    "x86-64-v3": MachineSpec(256, 16, 32 << 10, 1 << 20),
    "small cache": MachineSpec(128, 16, 1 << 10, 8 << 10),
}
BOUNDED = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ONES = (1, 1)
FILTERS = [(m, r) for m in range(1, 9) for r in range(1, 8) if m + r - 1 <= MOST_PRODUCTS]


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_transforms_filter_exactly(m: int, r: int) -> None:
    matrices = transforms(m, r)
    rng = np.random.default_rng(m * 10 + r)
    data = [Fraction(int(v), 7) for v in rng.integers(-50, 50, m + r - 1)]
    taps = [Fraction(int(v), 3) for v in rng.integers(-50, 50, r)]

    def apply(matrix: Any, vector: list[Fraction]) -> list[Fraction]:
        return [sum((c * v for c, v in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    products = [g * d for g, d in zip(apply(matrices.weights, taps), apply(matrices.data, data), strict=True)]
    expected = [sum((data[k + j] * taps[j] for j in range(r)), Fraction(0)) for k in range(m)]
    assert apply(matrices.output, products) == expected


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_data_transforms_are_exact_in_float32(m: int, r: int) -> None:
    matrices = transforms(m, r)
    assert all(
        Fraction(float(np.float32(c))) == c
        for matrix in (matrices.data, matrices.output)
        for row in matrix
        for c in row
    )


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_programs_multiply_by_their_matrix(m: int, r: int) -> None:
    matrices = transforms(m, r)
    for matrix in (matrices.data, matrices.output):
        steps = program(matrix)
        naive = sum(sum(c != 0 for c in row) - 1 + all(abs(c) != 1 for c in row if c) for row in matrix)
        assert steps.operations <= naive
        columns = []
        for unit in np.eye(steps.inputs):
            values = list(unit)
            for terms in steps.sums:
                values.append(sum(factor * values[index] for factor, index in terms))
            columns.append([values[index] for index in steps.outputs])
        assert [[Fraction(c) for c in row] for row in zip(*columns, strict=True)] == [
            list(row) for row in matrix
        ]


def to_blocks(x: np.ndarray, lanes: int) -> np.ndarray:
    """[n, c, *spatial] as [n, blocks, *spatial, lanes]; padding channels are not numbers."""
    n, c, *spatial = x.shape
    blocks = -(-c // lanes)
    padded = np.full((n, blocks * lanes, *spatial), np.nan, x.dtype)
    padded[:, :c] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, blocks, lanes, *spatial), 2, -1))


def from_blocks(x: np.ndarray, channels: int) -> np.ndarray:
    moved = np.moveaxis(x, -1, 2)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])[:, :channels]


def winograd_prim_func(spec: ConvSpec, choice: Winograd, machine: MachineSpec) -> Any:
    """main(x, w, bias, out, [sizes]): Winograd convolution and bias on blocked, flat x and out."""
    lanes = machine.vector_bits // 32
    ins, outs = -(-spec.in_channels // lanes), -(-spec.out_channels // lanes)

    def body(buffers: dict[str, Buffer]) -> None:
        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            n, o, *position = index
            flat = n * outs + o // lanes
            for size, p in zip(spec.out_spatial, position, strict=True):
                flat = flat * size + p
            T.buffer_store(buffers["out"], value + buffers["bias"][o], [flat * lanes + o % lanes])

        emit_winograd(spec, choice, machine, buffers["x"], buffers["w"], store)

    sizes = (spec.batch, *spec.spatial)
    return kernel_prim_func(
        {
            "sizes": (sizes, "int8"),  # names the symbolic sizes
            "x": ((product(sizes) * (ins * lanes),), "float32"),
            "w": (winograd_shape(spec, choice, machine), "float32"),
            "bias": ((outs * lanes,), "float32"),
            "out": ((product((spec.batch, *spec.out_spatial)) * (outs * lanes),), "float32"),
        },
        body,
    )


def relative_error(
    spec: ConvSpec, choice: Winograd, machine: MachineSpec, compiled_as: ConvSpec | None = None
) -> float:
    """The largest error relative to the largest output, of `compiled_as` (default `spec`) on `spec`'s sizes."""
    compiled_as = compiled_as or spec
    lanes = machine.vector_bits // 32
    rng = np.random.default_rng(1)
    x = rng.standard_normal((spec.batch, spec.in_channels, *spec.spatial)).astype("float32")
    w = rng.standard_normal((spec.out_channels, spec.in_channels, *spec.kernel)).astype("float32")
    bias = np.zeros(-(-spec.out_channels // lanes) * lanes, "float32")
    bias[: spec.out_channels] = rng.standard_normal(spec.out_channels)
    out = np.full((spec.batch, len(bias) // lanes, *spec.out_spatial, lanes), np.nan, "float32")
    arguments = [
        tvm.runtime.tensor(a)
        for a in (
            np.zeros((spec.batch, *spec.spatial), "int8"),
            to_blocks(x, lanes).reshape(-1),
            pack_winograd(compiled_as, choice, machine, w),
            bias,
            out.reshape(-1),
        )
    ]
    build(winograd_prim_func(compiled_as, choice, machine), CPU)["main"](*arguments)
    result = from_blocks(arguments[4].numpy().reshape(out.shape), spec.out_channels)
    expected = conv_reference(spec, x.astype("float64"), w.astype("float64"))
    expected += bias[: spec.out_channels].astype("float64").reshape(-1, *(1,) * len(spec.kernel))
    assert np.isfinite(result).all()
    return float(np.abs(result - expected).max() / np.abs(expected).max())


@st.composite
def problems(draw: st.DrawFn) -> tuple[ConvSpec, Winograd]:
    kernel = draw(
        st.sampled_from([(3,), (5,), (2,), (3, 3), (3, 3), (5, 1), (1, 3), (5, 5), (2, 3), (1, 3, 3)])
    )
    tile = tuple(1 if r == 1 else draw(st.integers(2, min(6, MOST_PRODUCTS + 1 - r))) for r in kernel)

    def pads() -> tuple[int, ...]:
        return tuple(draw(st.integers(0, 3)) for _ in kernel)

    begin, end = pads(), pads()
    spatial = tuple(
        draw(st.integers(max(1, r - b - e), 17)) for r, b, e in zip(kernel, begin, end, strict=True)
    )
    channels = draw(st.integers(16, 50)), draw(st.integers(16, 70))
    spec = ConvSpec(draw(st.integers(1, 2)), *channels, spatial, kernel, 1, (), begin, end)
    return spec, Winograd(tile, kernel)


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(problem=problems())
def test_any_convolution(machine: str, problem: tuple[ConvSpec, Winograd]) -> None:
    spec, choice = problem
    assert relative_error(spec, choice, MACHINES[machine]) <= choice.error


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(problem=problems(), data=st.data())
def test_dynamic_batch_and_sizes(
    machine: str, problem: tuple[ConvSpec, Winograd], data: st.DataObject
) -> None:
    spec, choice = problem
    fixed = data.draw(st.sets(st.integers(0, len(spec.spatial)), max_size=len(spec.spatial)))
    sizes = [
        size if i in fixed else tirx.Var(name, "int64")
        for i, (size, name) in enumerate(zip((spec.batch, *spec.spatial), "ndhw", strict=False))
    ]
    symbolic = dataclasses.replace(spec, batch=sizes[0], spatial=tuple(sizes[1:]))
    assert relative_error(spec, choice, MACHINES[machine], symbolic) <= choice.error


ERRORS = [
    ((2, 2), (3, 3)), ((3, 3), (3, 3)), ((4, 4), (3, 3)), ((6, 6), (3, 3)), ((2, 4), (3, 3)),
    ((2,), (3,)), ((4,), (3,)), ((6,), (3,)), ((2,), (5,)), ((4,), (5,)), ((6,), (5,)), ((4, 4), (5, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("tile", "kernel"), ERRORS)
def test_the_stated_error_bounds_the_measured_one_closely(
    tile: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    choice = Winograd(tile, kernel)
    spec = ConvSpec(1, 256, 32, (24,) * len(kernel), kernel)
    error = relative_error(spec, choice, MACHINES["x86-64-v3"])
    assert choice.error / 20 <= error <= choice.error


IMAGE = ConvSpec(1, 64, 64, (56, 56), (3, 3), 1, ONES, ONES, ONES)
V4 = MACHINES["x86-64-v4"]


@pytest.mark.parametrize(
    "change",
    [{"strides": (2, 2)}, {"groups": 2}, {"dilations": (2, 2)}, {"dtype": "float16"}, {"kernel": (1, 1)}],
)
def test_other_convolutions_are_left_alone(change: dict[str, Any]) -> None:
    assert winograd_choice(IMAGE, V4) is not None
    assert winograd_choice(dataclasses.replace(IMAGE, **change), V4) is None


def test_the_error_bound_limits_the_tile() -> None:
    free = winograd_choice(IMAGE, V4)
    assert free is not None
    strict = winograd_choice(IMAGE, V4, free.error / 2)
    assert strict is not None
    assert strict.error <= free.error / 2
    assert winograd_choice(IMAGE, V4, 1e-9) is None


def test_tiles_shrink_with_the_image() -> None:
    """Many channels on a small image: larger tiles only bring more weights to load."""
    large = winograd_choice(IMAGE, V4)
    small = winograd_choice(ConvSpec(1, 512, 512, (7, 7), (3, 3), 1, ONES, ONES, ONES), V4)
    assert large is not None
    assert min(large.tile) >= 4
    assert small is None or small.products < large.products


@pytest.mark.parametrize("size", [508, tirx.Var("n", "int64")])
def test_one_axis_pays(size: Any) -> None:
    choice = winograd_choice(ConvSpec(1, 256, 512, (size, 1), (5, 1)), V4)
    assert choice is not None
    assert choice.tile[1] == 1


@pytest.mark.parametrize("spec", [IMAGE, ConvSpec(1, 256, 512, (512,), (5,))])
def test_inner_loops_keep_off_the_stack(spec: ConvSpec) -> None:
    choice = Winograd((4,) * len(spec.kernel), spec.kernel)
    target = {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]}
    executable = build(winograd_prim_func(spec, choice, V4), target)
    loops = innermost_loops(executable.mod.inspect_source("asm"))
    # Products read the broadcast data from memory; transforms' constants are the other broadcasts.
    products = [loop for loop in loops if any("prefetch" in line for line in loop)]
    assert max(sum("vfmadd" in line for line in loop) for loop in products) >= 8
    assert not any("%rsp" in line and "zmm" in line for loop in products for line in loop)
