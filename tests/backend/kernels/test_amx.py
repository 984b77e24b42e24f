"""Products on AMX against float64: parts of floats, matrix products, convolutions on the blocked layout."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernel_reference import conv_reference
from test_blocked import from_blocks, to_blocks
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend import tir_pipeline
from graphopt.backend.kernels.amx import conv, gemm
from graphopt.backend.kernels.amx.parts import Parts, choose_parts, split_weights
from graphopt.backend.kernels.blocked.layout import block_count
from graphopt.backend.kernels.choice import plan_conv
from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Buffer, Expr, flat_view
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import kernel_prim_func
from graphopt.targets import missing_features

FEATURES = ("amx-bf16", "amx-tile")
MACHINE = MachineSpec(512, 32, 48 << 10, 2 << 20, FEATURES)
SMALL_CACHE = MachineSpec(512, 32, 4 << 10, 16 << 10, FEATURES)
CPU = {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+amx-tile", "+amx-bf16"]}
LACKING = missing_features(FEATURES)
runs = pytest.mark.skipif(bool(LACKING), reason=f"this CPU, or Linux for this process, lacks {LACKING}")
BOUNDED = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALL_PARTS = [Parts(2, 2), Parts(3, 3)]
LIMIT = {2: 2e-5, 3: 2e-6}
"""Of the largest result, by the number of parts; with 2, a product left out is off by 4e-4 and more."""


def compiled(function: Any) -> Any:
    return tvm.compile(
        tvm.IRModule({"main": function}),
        target=tvm.target.Target(CPU),
        tir_pipeline=tir_pipeline.register(),
    )


def conv_function(spec: ConvSpec, machine: MachineSpec, parts: Parts) -> Any:
    """main(x, w, bias, out): a convolution with bias, input and result in blocks."""
    inputs, outputs = block_count(spec.in_channels, 16), block_count(spec.out_channels, 16)

    def body(buffers: dict[str, Buffer]) -> None:
        out, bias = flat_view(buffers["out"]), buffers["bias"]

        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            image, channel, *position = index
            place = image * outputs + channel.a.a
            for p, size in zip(position, spec.out_spatial, strict=True):
                place = place * size + p
            T.buffer_store(out, value + bias[channel], [place * 16 + channel.b])

        conv.emit_conv(spec, machine, parts, flat_view(buffers["x"]), buffers["w"], store)

    return kernel_prim_func(
        {
            "x": ((spec.batch, inputs, *spec.spatial, 16), "float32"),
            "w": (conv.conv_product(spec, parts).weight_shape, "int32"),
            "bias": ((outputs * 16,), "float32"),
            "out": ((spec.batch, outputs, *spec.out_spatial, 16), "float32"),
        },
        body,
    )


def check_conv(
    spec: ConvSpec, parts: Parts, machine: MachineSpec = MACHINE, compiled_as: ConvSpec | None = None
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((spec.batch, spec.in_channels, *spec.spatial)).astype(np.float32)
    w = rng.standard_normal((spec.out_channels, spec.in_channels, *spec.kernel)).astype(np.float32)
    outputs = block_count(spec.out_channels, 16)
    bias = rng.standard_normal(outputs * 16).astype(np.float32)
    out = np.full((spec.batch, outputs, *spec.out_spatial, 16), 9e9, np.float32)
    packed = conv.pack_weights(spec, parts, w)
    arguments = [tvm.runtime.tensor(array) for array in (to_blocks(x, 16), packed, bias, out)]
    compiled(conv_function(compiled_as or spec, machine, parts))["main"](*arguments)
    expected = conv_reference(spec, x.astype(np.float64), w.astype(np.float64))
    expected += bias[: spec.out_channels].reshape(-1, *(1,) * len(spec.kernel))
    error = np.abs(from_blocks(arguments[3].numpy(), spec.out_channels) - expected).max(initial=0)
    assert error <= LIMIT[parts.data] * np.abs(expected).max(initial=1.0), spec


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    rank = draw(st.sampled_from([1, 2, 2, 2]))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    spec = ConvSpec(
        draw(st.integers(1, 2)), draw(st.integers(1, 70)), draw(st.integers(1, 70)),
        axes(1, 20), axes(1, 4), 1, axes(1, 3), axes(0, 3), axes(0, 3), axes(1, 2),
    )  # fmt: skip
    assume(all(out > 0 for out in spec.out_spatial))
    return spec


@runs
@given(specs(), st.sampled_from(ALL_PARTS), st.sampled_from([MACHINE, SMALL_CACHE]))
@BOUNDED
def test_convolutions(spec: ConvSpec, parts: Parts, machine: MachineSpec) -> None:
    assert conv.applies(spec, machine)
    check_conv(spec, parts, machine)


@runs
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_with_symbolic_sizes(stride: int) -> None:
    spec = ConvSpec(2, 40, 33, (9, 14), (3, 3), 1, (stride, stride), (1, 1), (1, 1))
    sizes = [tirx.Var(name, "int64") for name in ("n", "h", "w")]
    symbolic = ConvSpec(sizes[0], 40, 33, tuple(sizes[1:]), (3, 3), 1, (stride, stride), (1, 1), (1, 1))
    check_conv(spec, Parts(2, 2), compiled_as=symbolic)


@runs
def test_pointwise_convolution_of_volumes() -> None:
    check_conv(ConvSpec(1, 32, 20, (3, 4, 5), (1, 1, 1)), Parts(2, 2))


def gemm_function(spec: GemmSpec, parts: Parts, machine: MachineSpec) -> Any:
    """main(a, b, out)"""

    def body(buffers: dict[str, Buffer]) -> None:
        a, out = buffers["a"], buffers["out"]
        gemm.emit_gemm(
            spec, machine, parts, lambda m, k: a[m, k], buffers["b"],
            lambda value, index: T.buffer_store(out, value, list(index)),
        )  # fmt: skip

    return kernel_prim_func(
        {
            "a": ((spec.m, spec.k), "float32"),
            "b": (gemm.gemm_product(spec, parts).weight_shape, "int32"),
            "out": ((spec.m, spec.n), "float32"),
        },
        body,
    )


@runs
@given(
    st.integers(1, 300), st.integers(1, 80), st.integers(1, 80), st.booleans(),
    st.sampled_from([*ALL_PARTS, Parts(2, 1), Parts(3, 1)]), st.sampled_from([MACHINE, SMALL_CACHE]),
)  # fmt: skip
@BOUNDED
def test_products(m: int, n: int, k: int, symbolic: bool, parts: Parts, machine: MachineSpec) -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((m, k)).astype(np.float32)
    exact = rng.integers(-128, 128, (k, n)).astype(np.int8)
    b = exact if parts.weights == 1 else rng.standard_normal((k, n)).astype(np.float32)
    # The row behind the result must stay as it is.
    out = np.full((m + 1, n), 7, np.float32)
    spec = GemmSpec(tirx.Var("m", "int64") if symbolic else m, n, k)
    result = tvm.runtime.tensor(out)
    view = tvm.runtime.tensor(out[:m])
    function = compiled(gemm_function(spec, parts, machine))["main"]
    function(tvm.runtime.tensor(a), tvm.runtime.tensor(gemm.pack_weights(spec, parts, b)), view)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(view.numpy() - expected).max() <= LIMIT[parts.data] * np.abs(expected).max()
    assert np.array_equal(result.numpy(), out)


@runs
def test_what_is_not_finite_stays_in_its_row() -> None:
    a = np.ones((4, 64), np.float32)
    a[1, 3], a[2, 5] = np.inf, np.nan
    spec, parts = GemmSpec(4, 32, 64), Parts(2, 2)
    out = tvm.runtime.tensor(np.zeros((4, 32), np.float32))
    weights = tvm.runtime.tensor(gemm.pack_weights(spec, parts, np.ones((64, 32), np.float32)))
    compiled(gemm_function(spec, parts, MACHINE))["main"](tvm.runtime.tensor(a), weights, out)
    assert np.isnan(out.numpy()[1:3]).all()
    assert np.array_equal(out.numpy()[[0, 3]], np.full((2, 32), 64, np.float32))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_add_up(count: int) -> None:
    w = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    parts = split_weights(w, count)
    total = sum((part << np.uint32(16)).view(np.float32).astype(np.float64) for part in parts)
    assert np.abs(total / w - 1).max() <= 2.0 ** -(8 * count)


def test_8_bit_integers_are_one_part() -> None:
    w = np.arange(-128, 128).astype(np.int8)
    (part,) = split_weights(w, 1)
    assert np.array_equal((part << np.uint32(16)).view(np.float32), w.astype(np.float32))


def test_parts_keep_to_the_bound() -> None:
    assert choose_parts(1e-4) == Parts(2, 2)
    assert choose_parts(5e-5) == Parts(3, 3)
    assert choose_parts(0) is None
    assert choose_parts(5e-5, narrow_weights=True) == Parts(2, 1)


def test_the_bound_turns_them_off() -> None:
    spec = ConvSpec(1, 512, 256, (14, 14), (1, 1))
    plan, exact = (plan_conv(spec, MACHINE, plain_input=False, max_error=e) for e in (1e-4, 0))
    assert plan is not None and exact is not None
    assert (plan.methods, exact.methods) == (("amx2x2",), ())


def test_code_without_the_machine() -> None:
    """Compiled anywhere: the instructions, and a configuration for each of the threads' loops."""
    function = conv_function(ConvSpec(1, 64, 64, (8, 8), (1, 1)), MACHINE, Parts(2, 2))
    assembly = compiled(function).mod.inspect_source("asm")
    count = {name: len(re.findall(name, assembly)) for name in ("tdpbf16ps", "ldtilecfg", "tilerelease")}
    assert count["tdpbf16ps"] and count["tdpbf16ps"] % 12 == 0  # LLVM may make several copies of the loop
    assert count["ldtilecfg"] == count["tilerelease"] > 0


@runs
def test_any_kind_of_nan_is_kept() -> None:
    a = np.ones((3, 64), np.float32)
    a.view(np.uint32)[1, 3], a.view(np.uint32)[2, 5] = 0xFFFFFFFF, 0x7F800001
    spec = GemmSpec(3, 32, 64)
    for parts in ALL_PARTS:
        out = tvm.runtime.tensor(np.zeros((3, 32), np.float32))
        weights = tvm.runtime.tensor(gemm.pack_weights(spec, parts, np.ones((64, 32), np.float32)))
        compiled(gemm_function(spec, parts, MACHINE))["main"](tvm.runtime.tensor(a), weights, out)
        assert np.array_equal(np.isnan(out.numpy()).all(axis=1), [False, True, True])


def test_symbolic_sizes_are_typical_for_wide_kernels_too() -> None:
    size = tirx.Var("w", "int64")
    spec = ConvSpec(1, 64, 64, (size, size), (3, 3), dilations=(16, 16))
    assert plan_conv(spec, MACHINE, plain_input=False, max_error=1e-4) is not None
