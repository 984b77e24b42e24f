"""Convolution kernels against a sum of shifted slices in float64."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import CPU, MACHINES, conv_reference
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.conv import (
    ConvSpec,
    conv_arithmetic,
    emit_conv,
    pack_conv_weights,
    packed_conv_shape,
)
from graphopt.backend.kernels.conv_spec import row_tile
from graphopt.backend.kernels.emit import Buffer, Expr, i64
from graphopt.backend.kernels.pointwise import reads_in_place
from graphopt.backend.kernels.standalone import build, conv_prim_func, kernel_prim_func
from graphopt.backend.readers import flat_offset
from graphopt.backend.tir_pipeline import register

BOUNDED = settings(max_examples=7, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def run_conv(spec: ConvSpec, machine: str, compiled_as: ConvSpec | None = None, relu: bool = False) -> None:
    """Compile `compiled_as` (default `spec`), run it on the sizes of `spec`, compare."""
    compiled_as = compiled_as or spec
    rng = np.random.default_rng(1)
    x = rng.standard_normal((spec.batch, spec.in_channels, *spec.spatial)).astype(spec.dtype)
    w = rng.standard_normal((spec.out_channels, spec.group_in, *spec.kernel)).astype(spec.dtype)
    bias = rng.standard_normal(spec.out_channels).astype(spec.dtype)
    out = np.full((spec.batch, spec.out_channels, *spec.out_spatial), np.nan, spec.dtype)
    executable = build(conv_prim_func(compiled_as, MACHINES[machine], relu), CPU)
    packed = pack_conv_weights(compiled_as, MACHINES[machine], w)
    arguments = [tvm.runtime.tensor(a) for a in (x, packed, bias, out)]
    executable["main"](*arguments)
    expected = conv_reference(spec, x.astype("float64"), w.astype("float64"))
    expected = expected + bias.astype("float64").reshape(-1, *(1,) * len(spec.kernel))
    expected = np.maximum(expected, 0) if relu else expected
    tolerance = 2e-3 if spec.dtype == "float16" else 2e-6
    error = np.abs(arguments[3].numpy().astype("float64") - expected).max()
    assert error <= tolerance * np.abs(expected).max(initial=1.0), spec


@st.composite
def conv_specs(draw: st.DrawFn) -> ConvSpec:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    group_in, group_out = draw(st.integers(1, 6)), draw(st.integers(1, 19))
    kernel, dilations = axes(1, 4), axes(1, 3)
    spatial = tuple(
        draw(st.integers((k - 1) * d + 1, 40 if i == rank - 1 else 12))
        for i, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    )
    begin, end = axes(0, 3), axes(0, 3)
    return ConvSpec(
        draw(st.integers(1, 2)), group_in * groups, group_out * groups, spatial, kernel, groups,
        axes(1, 4), begin, end, dilations,
    )  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(spec=conv_specs())
def test_any_convolution(machine: str, spec: ConvSpec) -> None:
    run_conv(spec, machine)


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(spec=conv_specs(), data=st.data())
def test_dynamic_batch_and_sizes(machine: str, spec: ConvSpec, data: st.DataObject) -> None:
    names = ["n", "d", "h", "w"]
    fixed = data.draw(st.sets(st.integers(0, len(spec.spatial)), max_size=len(spec.spatial)))
    sizes = [
        size if i in fixed else tirx.Var(name, "int64")
        for i, (size, name) in enumerate(zip((spec.batch, *spec.spatial), names, strict=False))
    ]
    symbolic = dataclasses.replace(spec, batch=sizes[0], spatial=tuple(sizes[1:]))
    run_conv(spec, machine, symbolic)


@st.composite
def pointwise_specs(draw: st.DrawFn) -> ConvSpec:
    spatial = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    groups = draw(st.integers(1, 4))
    group_in, group_out = draw(st.integers(1, 200)), draw(st.integers(1, 40))
    ones = (1,) * len(spatial)
    return ConvSpec(
        draw(st.integers(1, 2)), group_in * groups, group_out * groups, spatial, ones, groups
    )  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(spec=pointwise_specs(), relu=st.booleans())
def test_any_pointwise_convolution(machine: str, spec: ConvSpec, relu: bool) -> None:
    run_conv(spec, machine, relu=relu)


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(
    spatial=st.tuples(st.integers(3, 20), st.integers(3, 70)),
    kernel=st.integers(1, 5),
    begin=st.integers(0, 2),
    end=st.integers(0, 2),
    channels=st.integers(1, 3),
    groups=st.integers(1, 3),
)
def test_stride_two(
    machine: str, spatial: tuple[int, int], kernel: int, begin: int, end: int, channels: int, groups: int
) -> None:
    kernel = min(kernel, *spatial)
    run_conv(
        ConvSpec(
            2,
            channels * groups,
            4 * groups,
            spatial,
            (kernel, kernel),
            groups,
            (2, 2),
            (begin,) * 2,
            (end,) * 2,
        ),
        machine,
    )


@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(
    spatial=st.tuples(st.integers(5, 20), st.integers(5, 70)),
    kernel=st.sampled_from([2, 3, 5]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pad=st.integers(0, 2),
    outputs=st.integers(1, 2),
)
def test_any_depthwise_convolution(
    machine: str, spatial: tuple[int, int], kernel: int, stride: int, dilation: int, pad: int, outputs: int
) -> None:
    dilation = dilation if (kernel - 1) * 2 < min(spatial) else 1
    twice = [(size, size) for size in (kernel, stride, pad, pad, dilation)]
    run_conv(ConvSpec(2, 5, 5 * outputs, spatial, twice[0], 5, *twice[1:]), machine, relu=True)


@pytest.mark.parametrize("pixels", [(14, 14), (28, 28), (7, 7)])
@pytest.mark.parametrize("in_place", [True, False])
def test_vectors_of_pixels_are_stored_whole(pixels: tuple[int, int], in_place: bool) -> None:
    spec = ConvSpec(1, 136, 136, pixels, (1, 1), 4)
    machine = (
        MACHINES["512 bits"] if in_place else dataclasses.replace(MACHINES["512 bits"], l1_bytes=1 << 10)
    )
    tile = row_tile(spec, conv_arithmetic(spec, machine))
    assert reads_in_place(spec, conv_arithmetic(spec, machine), tile) == in_place
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]})
    shape = (1, 136, *pixels)

    def body(buffers: dict[str, Buffer]) -> None:
        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            T.buffer_store(buffers["out"], value, [flat_offset(index, tuple(i64(size) for size in shape))])

        emit_conv(spec, machine, buffers["x"], buffers["w"], store)

    arguments = {
        "x": (shape, "float32"),
        "w": (packed_conv_shape(spec, machine), "float32"),
        "out": ((math.prod(shape),), "float32"),
    }
    module = tvm.IRModule({"main": kernel_prim_func(arguments, body)})
    executable = tvm.tirx.build(module, target=target, pipeline=register())
    assembly = executable.inspect_source("asm")
    assert "vfmadd" in assembly
    assert not re.search("vextractps|vgather|vscatter", assembly)


SHAPES = {
    "several tiles": ConvSpec(1, 24, 40, (30, 37), (3, 3), 1, (1, 1), (1, 1), (1, 1)),
    "strided 7x7": ConvSpec(1, 3, 20, (64, 64), (7, 7), 1, (2, 2), (3, 3), (3, 3)),
    "subsampling 1x1": ConvSpec(2, 8, 17, (28, 29), (1, 1), 1, (2, 2)),
    "pointwise": ConvSpec(2, 20, 33, (14, 15), (1, 1)),
    "pointwise, few pixels": ConvSpec(2, 20, 33, (2, 3), (1, 1)),
    "pointwise, one pixel": ConvSpec(3, 20, 33, (1, 1), (1, 1)),
    "pointwise, grouped": ConvSpec(1, 24, 30, (9, 9), (1, 1), 3),
    "depthwise": ConvSpec(1, 12, 12, (29, 31), (3, 3), 12, (1, 1), (1, 1), (1, 1)),
    "depthwise, strided": ConvSpec(1, 12, 12, (29, 31), (5, 5), 12, (2, 1), (2, 2), (2, 2)),
    "depthwise, two outputs": ConvSpec(1, 6, 12, (9, 31), (3, 3), 6, (1, 1), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHAPES)
def test_typical_shapes_with_relu(name: str, machine: str) -> None:
    run_conv(SHAPES[name], machine, relu=True)


@pytest.mark.parametrize("name", SHAPES)
def test_typical_shapes_with_dynamic_sizes(name: str) -> None:
    spec = SHAPES[name]
    n, h, w = (tirx.Var(letter, "int64") for letter in "nhw")
    run_conv(spec, "x86-64-v3", dataclasses.replace(spec, batch=n, spatial=(h, w)))


def test_dynamic_width_only() -> None:
    w = tirx.Var("w", "int64")
    for name in ("several tiles", "pointwise"):
        spec = SHAPES[name]
        run_conv(spec, "x86-64-v3", dataclasses.replace(spec, spatial=(spec.spatial[0], w)))


def test_groups_of_unknown_size_keep_their_scratch_apart() -> None:
    spec = ConvSpec(1, 2, 4, (1,), (1,), 2, (2,))
    n, w = (tirx.Var(letter, "int64") for letter in "nw")
    run_conv(spec, "x86-64-v3", dataclasses.replace(spec, batch=n, spatial=(w,)))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["strided 7x7", "pointwise", "depthwise"])
def test_other_float_types(name: str, dtype: str) -> None:
    run_conv(dataclasses.replace(SHAPES[name], dtype=dtype), "x86-64-v3")
