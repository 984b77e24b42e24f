"""Transposed convolutions, in rows and in blocks, against scattered products in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import CPU, MACHINES, transposed_reference
from test_blocked import from_blocks, to_blocks
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend import tir_pipeline
from graphopt.backend.kernels.blocked.layout import block_count, block_lanes
from graphopt.backend.kernels.emit import Buffer, Expr, flat_view
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import kernel_prim_func
from graphopt.backend.kernels.transposed.blocked import plan_blocked
from graphopt.backend.kernels.transposed.phases import TransposedSpec, phases_of
from graphopt.backend.kernels.transposed.rows import plan_rows

BOUNDED = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(BOUNDED, max_examples=4)
SOME = ["x86-64-v3", "512 bits"]


def in_rows(spec: TransposedSpec, machine: MachineSpec) -> tuple[Any, Any]:
    """The plan, and main(x, w, bias, out) with bias and ReLU."""
    plan = plan_rows(spec, machine)

    def body(buffers: dict[str, Buffer]) -> None:
        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            value = T.max(value + buffers["bias"][index[1]], T.cast(0, spec.dtype))
            T.buffer_store(buffers["out"], value, list(index))

        plan.emit(buffers["x"], buffers["w"], store)

    arguments = {
        "x": ((spec.batch, spec.in_channels, *spec.spatial), spec.dtype),
        "w": (plan.weight_shape, plan.dtype),
        "bias": ((spec.out_channels,), spec.dtype),
        "out": ((spec.batch, spec.out_channels, *spec.out_spatial), spec.dtype),
    }
    return plan, kernel_prim_func(arguments, body)


def in_blocks(spec: TransposedSpec, machine: MachineSpec, plain_input: bool) -> tuple[Any, Any]:
    """The same with channels in blocks; None where there is no such kernel."""
    lanes = block_lanes(machine)
    plan = plan_blocked(spec, machine, plain_input=plain_input, max_error=0.0)
    inputs, outputs = block_count(spec.in_channels, lanes), block_count(spec.out_channels, lanes)
    if plan is None:
        return None, None

    def body(buffers: dict[str, Buffer]) -> None:
        out = flat_view(buffers["out"])

        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            image, channel, *position = index
            block, lane = channel.a.a, channel.b
            place = image * outputs + block
            for p, size in zip(position, spec.out_spatial, strict=True):
                place = place * size + p
            value = T.max(value + buffers["bias"][channel], T.float32(0))
            T.buffer_store(out, value, [place * lanes + lane])

        plan.emit(flat_view(buffers["x"]), buffers["w"], store)

    plain = (spec.batch, spec.in_channels, *spec.spatial)
    arguments = {
        "x": (plain if plain_input else (spec.batch, inputs, *spec.spatial, lanes), "float32"),
        "w": (plan.weight_shape, plan.dtype),
        "bias": ((outputs * lanes,), "float32"),
        "out": ((spec.batch, outputs, *spec.out_spatial, lanes), "float32"),
    }
    return plan, kernel_prim_func(arguments, body)


def run(
    spec: TransposedSpec,
    machine: MachineSpec,
    compiled_as: TransposedSpec | None = None,
    *,
    blocks: bool = False,
    plain_input: bool = False,
) -> None:
    """Compile `compiled_as` (default `spec`), run it on the sizes of `spec`, compare."""
    compiled_as, lanes = compiled_as or spec, block_lanes(machine)
    build = in_blocks(compiled_as, machine, plain_input) if blocks else in_rows(compiled_as, machine)
    plan, function = build
    if plan is None:
        return
    rng = np.random.default_rng(1)
    x = rng.standard_normal((spec.batch, spec.in_channels, *spec.spatial)).astype(spec.dtype)
    w = rng.standard_normal((spec.in_channels, spec.group_out, *spec.kernel)).astype(spec.dtype)
    bias = rng.standard_normal(spec.out_channels).astype(spec.dtype)
    outputs = block_count(spec.out_channels, lanes)
    if blocks:
        padded = np.zeros(outputs * lanes, np.float32)
        padded[: spec.out_channels] = bias
        shape: tuple[int, ...] = (spec.batch, outputs, *spec.out_spatial, lanes)
        data = x if plain_input else to_blocks(x, lanes)
    else:
        padded, shape, data = bias, (spec.batch, spec.out_channels, *spec.out_spatial), x
    out = np.full(shape, 9e9 if spec.dtype != "float16" else 9e3, spec.dtype)
    executable = tvm.compile(
        tvm.IRModule({"main": function}), target=tvm.target.Target(CPU), tir_pipeline=tir_pipeline.register()
    )
    packed = plan.pack(w)
    assert packed.shape == plan.weight_shape
    arguments = [tvm.runtime.tensor(a) for a in (data, packed, padded, out)]
    executable["main"](*arguments)
    expected = transposed_reference(spec, x.astype("float64"), w.astype("float64"))
    expected += bias.astype("float64").reshape(-1, *(1,) * len(spec.kernel))
    expected = np.maximum(expected, 0)
    found = arguments[3].numpy()
    found = from_blocks(found, spec.out_channels) if blocks else found
    tolerance = 2e-3 if spec.dtype == "float16" else 2e-6
    error = np.abs(found.astype("float64") - expected).max(initial=0)
    assert error <= tolerance * np.abs(expected).max(initial=1.0), spec


def spec_of(
    channels: tuple[int, int],
    spatial: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    *,
    batch: int = 1,
    groups: int = 1,
    dilations: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    dtype: str = "float32",
) -> TransposedSpec:
    """A transposed convolution by its ONNX attributes, the same padding at both ends."""
    zeros, ones = (0,) * len(kernel), (1,) * len(kernel)
    pads, dilations, extra = pads or zeros, dilations or ones, output_padding or zeros
    columns = zip(kernel, strides, pads, dilations, extra, strict=True)
    surplus = tuple(e + (k - 1) * d + 1 - 2 * p - s for k, s, p, d, e in columns)
    return TransposedSpec(
        batch, channels[0], channels[1], spatial, kernel, groups, strides, pads, surplus, dilations, dtype
    )


@st.composite
def specs(draw: st.DrawFn, kind: str, lanes: int) -> TransposedSpec:
    """Any attributes; `kind` is dense, grouped, depthwise or stem."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups, group_in, group_out = 1, draw(st.integers(1, 40)), draw(st.integers(1, 40))
    if kind == "grouped":
        groups = draw(st.integers(2, 3))
        group_in, group_out = (draw(st.sampled_from([1, 3, lanes, 2 * lanes])) for _ in range(2))
    elif kind == "depthwise":
        groups, group_in, group_out = draw(st.integers(2, 40)), 1, 1
    elif kind == "stem":
        group_in = draw(st.integers(1, 3))
    kernel, dilations, strides, pads = axes(1, 5), axes(1, 3), axes(1, 4), axes(0, 3)
    spatial = tuple(draw(st.integers(1, 20 if i == rank - 1 else 5)) for i in range(rank))
    # At most what any padding, output_padding or output_shape can ask for; at least one output.
    surplus = tuple(
        max(draw(st.integers(-4, (k - 1) * d + 3)), 1 - size * s)
        for k, d, s, size in zip(kernel, dilations, strides, spatial, strict=True)
    )
    return TransposedSpec(
        draw(st.integers(1, 2)), group_in * groups, group_out * groups, spatial, kernel, groups, strides,
        pads, surplus, dilations,
    )  # fmt: skip


def symbolic(spec: TransposedSpec, data: st.DataObject) -> TransposedSpec:
    """The same with some sizes known at the call only."""
    fixed = data.draw(st.sets(st.integers(0, len(spec.spatial)), max_size=len(spec.spatial)))
    sizes = [
        size if i in fixed else tirx.Var(name, "int64")
        for i, (size, name) in enumerate(zip((spec.batch, *spec.spatial), "ndhw", strict=False))
    ]
    return dataclasses.replace(spec, batch=sizes[0], spatial=tuple(sizes[1:]))


@pytest.mark.parametrize("kind", ["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(data=st.data())
def test_any_in_rows(machine: str, kind: str, data: st.DataObject) -> None:
    run(data.draw(specs(kind, 8)), MACHINES[machine])


@pytest.mark.parametrize("kind", ["dense", "grouped", "depthwise", "stem"])
@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(data=st.data())
def test_any_in_blocks(machine: str, kind: str, data: st.DataObject) -> None:
    spec = data.draw(specs(kind, block_lanes(MACHINES[machine])))
    run(spec, MACHINES[machine], blocks=True, plain_input=kind == "stem")


@pytest.mark.parametrize("blocks", [False, True])
@FEW
@given(data=st.data(), kind=st.sampled_from(["dense", "grouped", "depthwise"]))
def test_dynamic_batch_and_sizes(blocks: bool, kind: str, data: st.DataObject) -> None:
    spec = data.draw(specs(kind, 8))
    run(spec, MACHINES["x86-64-v3"], symbolic(spec, data), blocks=blocks)


SHAPES = {
    "kernel = stride": spec_of((24, 40), (7, 19), (2, 2), (2, 2)),
    "4x4 by 2": spec_of((32, 24), (9, 20), (4, 4), (2, 2), (1, 1), batch=2),
    "3x3 by 2": spec_of((32, 16), (9, 8), (3, 3), (2, 2), (1, 1), output_padding=(1, 1)),
    "3x3 by 1": spec_of((32, 32), (14, 14), (3, 3), (1, 1), (1, 1)),
    "sound, 16 by 8": spec_of((32, 16), (50,), (16,), (8,), (4,)),
    "volume": spec_of((16, 8), (3, 4, 5), (2, 2, 2), (2, 2, 2)),
    "depthwise": spec_of((24, 24), (8, 9), (4, 4), (2, 2), (1, 1), groups=24),
    "one output": spec_of((24, 1), (12, 35), (2, 2), (2, 2)),
    "holes": spec_of((16, 16), (5, 6), (1, 2), (2, 3)),
    "many phases": spec_of((3, 2), (4, 30), (11, 11), (11, 11)),
}


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("machine", SOME)
@pytest.mark.parametrize("name", SHAPES)
def test_typical_shapes(name: str, machine: str, blocks: bool) -> None:
    run(SHAPES[name], MACHINES[machine], blocks=blocks)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("4x4 by 2", "float64"), ("kernel = stride", "float16"), ("kernel = stride", "float64")],
)
def test_other_float_types(name: str, dtype: str) -> None:
    run(dataclasses.replace(SHAPES[name], dtype=dtype), MACHINES["x86-64-v3"])


def test_phases_that_need_the_same_taps_are_one_convolution() -> None:
    def convolutions(name: str, **options: Any) -> list[tuple[int, tuple[int, ...]]]:
        parts = phases_of(SHAPES[name], 1, together=True)
        return [(part.count, part.conv.kernel) for part in parts]

    assert convolutions("kernel = stride") == [(4, (1, 1))]
    assert convolutions("volume") == [(8, (1, 1, 1))]
    assert convolutions("4x4 by 2") == [(1, (2, 2))] * 4
    assert convolutions("3x3 by 2") == [(1, (1, 1)), (1, (1, 2)), (1, (2, 1)), (1, (2, 2))]
    assert convolutions("sound, 16 by 8") == [(4, (2,)), (4, (2,))]
    assert convolutions("holes") == [(2, (1, 1))]
