"""Convolutions on the blocked layout against a sum of shifted slices in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import conv_reference
from test_spills import innermost_loops
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend import tir_pipeline
from graphopt.backend.kernels import blocked
from graphopt.backend.kernels.blocked.layout import block_count, block_lanes
from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Buffer, Expr, flat_view
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.standalone import kernel_prim_func

# Tile sizes of AVX-512 need no AVX-512 to run: LLVM splits the vectors.
MACHINES = {
    "x86-64-v4": MachineSpec(512, 32, 48 << 10, 2 << 20),
    "x86-64-v3": MachineSpec(256, 16, 32 << 10, 1 << 20),
    "small cache": MachineSpec(128, 32, 1 << 10, 8 << 10),
}
CPU = {"kind": "llvm", "mcpu": "x86-64-v3"}
BOUNDED = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def blocked_prim_func(spec: ConvSpec, machine: MachineSpec, plain_input: bool) -> Any:
    """main(x, w, bias, out): a convolution with bias and ReLU, x plain or blocked, out blocked."""
    lanes = block_lanes(machine)
    inputs, outputs = block_count(spec.in_channels, lanes), block_count(spec.out_channels, lanes)

    def body(buffers: dict[str, Buffer]) -> None:
        out, bias = flat_view(buffers["out"]), buffers["bias"]

        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            image, channel, *position = index
            block, lane = channel.a.a, channel.b
            place = image * outputs + block
            for p, size in zip(position, spec.out_spatial, strict=True):
                place = place * size + p
            T.buffer_store(out, T.max(value + bias[channel], T.float32(0)), [place * lanes + lane])

        x, w = flat_view(buffers["x"]), buffers["w"]
        blocked.emit_blocked_conv(spec, machine, x, w, store, plain_input=plain_input)

    x_shape = (spec.batch, inputs, *spec.spatial, lanes)
    return kernel_prim_func(
        {
            "x": ((spec.batch, spec.in_channels, *spec.spatial) if plain_input else x_shape, "float32"),
            "w": (blocked.blocked_conv_shape(spec, machine, plain_input=plain_input), "float32"),
            "bias": ((outputs * lanes,), "float32"),
            "out": ((spec.batch, outputs, *spec.out_spatial, lanes), "float32"),
        },
        body,
    )


def to_blocks(x: np.ndarray, lanes: int) -> np.ndarray:
    """The blocked memory of a plain array; lanes that hold no channel are not a number."""
    batch, channels, *spatial = x.shape
    blocks = block_count(channels, lanes)
    padded = np.full((batch, blocks * lanes, *spatial), np.nan, np.float32)
    padded[:, :channels] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(batch, blocks, lanes, *spatial), 2, -1))


def from_blocks(x: np.ndarray, channels: int) -> np.ndarray:
    moved = np.moveaxis(x, -1, 2)
    return moved.reshape(x.shape[0], -1, *x.shape[2:-1])[:, :channels]


def run(spec: ConvSpec, name: str, compiled_as: ConvSpec | None = None, plain_input: bool = False) -> None:
    """Compile `compiled_as` (default `spec`), run it on the sizes of `spec`, compare."""
    compiled_as, machine = compiled_as or spec, MACHINES[name]
    lanes = block_lanes(machine)
    assert blocked.applies(compiled_as, machine, plain_input=plain_input)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((spec.batch, spec.in_channels, *spec.spatial)).astype(np.float32)
    w = rng.standard_normal((spec.out_channels, spec.group_in, *spec.kernel)).astype(np.float32)
    outputs = block_count(spec.out_channels, lanes)
    bias = rng.standard_normal(outputs * lanes).astype(np.float32)
    out = np.full((spec.batch, outputs, *spec.out_spatial, lanes), 9e9, np.float32)
    executable = tvm.compile(
        tvm.IRModule({"main": blocked_prim_func(compiled_as, machine, plain_input)}),
        target=tvm.target.Target(CPU),
        tir_pipeline=tir_pipeline.register(),
    )
    packed = blocked.pack_blocked_conv(compiled_as, machine, w, plain_input=plain_input)
    arguments = [
        tvm.runtime.tensor(a) for a in (x if plain_input else to_blocks(x, lanes), packed, bias, out)
    ]
    executable["main"](*arguments)
    expected = conv_reference(spec, x.astype(np.float64), w.astype(np.float64))
    expected += bias[: spec.out_channels].astype(np.float64).reshape(-1, *(1,) * len(spec.kernel))
    expected = np.maximum(expected, 0)
    error = np.abs(from_blocks(arguments[3].numpy(), spec.out_channels) - expected).max(initial=0)
    assert error <= 2e-6 * np.abs(expected).max(initial=1.0), spec


@st.composite
def any_specs(draw: st.DrawFn, kind: str, lanes: int) -> ConvSpec:
    """Sizes of a convolution: `kind` is dense, grouped, depthwise or stem."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups, group_in, group_out = 1, draw(st.integers(1, 40)), draw(st.integers(1, 70))
    if kind == "grouped":
        groups = draw(st.integers(2, 3))
        group_in, group_out = (lanes * draw(st.integers(1, 3)) for _ in range(2))
    elif kind == "depthwise":
        groups, group_in, group_out = draw(st.integers(2, 40)), 1, 1
    elif kind == "stem":
        group_in = draw(st.integers(1, 3))
    kernel, dilations = axes(1, 5), axes(1, 2)
    spatial = tuple(
        draw(st.integers((k - 1) * d + 1, 36 if i == rank - 1 else 10))
        for i, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    )
    return ConvSpec(
        draw(st.integers(1, 2)), group_in * groups, group_out * groups, spatial, kernel, groups,
        axes(1, 3), axes(0, 3), axes(0, 3), dilations,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["dense", "grouped", "depthwise", "stem"])
@pytest.mark.parametrize("machine", MACHINES)
@BOUNDED
@given(data=st.data())
def test_any_convolution(machine: str, kind: str, data: st.DataObject) -> None:
    spec = data.draw(any_specs(kind, block_lanes(MACHINES[machine])))
    run(spec, machine, plain_input=kind == "stem")


@pytest.mark.parametrize("kind", ["dense", "grouped", "depthwise", "stem"])
@pytest.mark.parametrize("machine", MACHINES)
@settings(BOUNDED, max_examples=4)
@given(data=st.data())
def test_dynamic_batch_and_sizes(machine: str, kind: str, data: st.DataObject) -> None:
    spec = data.draw(any_specs(kind, block_lanes(MACHINES[machine])))
    fixed = data.draw(st.sets(st.integers(0, len(spec.spatial)), max_size=len(spec.spatial)))
    sizes = [
        size if i in fixed else tirx.Var(name, "int64")
        for i, (size, name) in enumerate(zip((spec.batch, *spec.spatial), "ndhw", strict=False))
    ]
    symbolic = dataclasses.replace(spec, batch=sizes[0], spatial=tuple(sizes[1:]))
    run(spec, machine, symbolic, plain_input=kind == "stem")


ONES = (1, 1)
SHAPES = {
    "3x3": ConvSpec(1, 64, 64, (14, 14), (3, 3), 1, ONES, ONES, ONES),
    "3x3, strided": ConvSpec(2, 40, 72, (27, 29), (3, 3), 1, (2, 2), ONES, ONES),
    "5x5": ConvSpec(1, 20, 33, (9, 40), (5, 5), 1, ONES, (2, 2), (2, 2)),
    "1x31": ConvSpec(1, 16, 16, (2, 70), (1, 31), 1, ONES, (0, 15), (0, 15)),
    "pointwise": ConvSpec(2, 300, 72, (7, 9), (1, 1)),
    "pointwise, one pixel": ConvSpec(3, 200, 120, (1, 1), (1, 1)),
    "pointwise, many pixels": ConvSpec(1, 24, 120, (60, 61), (1, 1)),
    "subsampling 1x1": ConvSpec(1, 48, 64, (28, 29), (1, 1), 1, (2, 2)),
    "columns all padding": ConvSpec(1, 16, 48, (1, 1), (1, 1), 1, ONES, (0, 1), (0, 12)),
    "3x3 on a column": ConvSpec(1, 32, 96, (20, 1), (3, 3), 1, ONES, ONES, ONES),
}
DEPTHWISE = {
    "3x3": ConvSpec(1, 40, 40, (20, 33), (3, 3), 40, ONES, ONES, ONES),
    "5x5, strided": ConvSpec(2, 24, 24, (24, 80), (5, 5), 24, (2, 1), (2, 2), (2, 2)),
    "7x7": ConvSpec(1, 16, 16, (14, 14), (7, 7), 16, ONES, (3, 3), (3, 3)),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHAPES)
def test_typical_shapes(name: str, machine: str) -> None:
    run(SHAPES[name], machine)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_typical_depthwise_shapes(name: str, machine: str) -> None:
    run(DEPTHWISE[name], machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_first_layer_reads_plain_memory(machine: str) -> None:
    spec = ConvSpec(2, 3, 40, (50, 52), (7, 7), 1, (2, 2), (3, 3), (3, 3))
    run(spec, machine, plain_input=True)


@pytest.mark.parametrize("name", ["3x3, strided", "pointwise", "pointwise, one pixel", "subsampling 1x1"])
def test_sizes_known_only_when_running(name: str) -> None:
    spec = SHAPES[name]
    n, h, w = (tirx.Var(letter, "int64") for letter in "nhw")
    run(spec, "x86-64-v3", dataclasses.replace(spec, batch=n, spatial=(h, w)))


def test_what_applies() -> None:
    machine = MACHINES["x86-64-v3"]

    def applies(spec: ConvSpec, plain_input: bool = False) -> bool:
        return blocked.applies(spec, machine, plain_input=plain_input)

    dense = ConvSpec(1, 3, 16, (8, 8), (3, 3))
    assert applies(dense)
    assert applies(dense, plain_input=True)
    assert not applies(dataclasses.replace(dense, in_channels=8), plain_input=True)
    assert not applies(dataclasses.replace(dense, dtype="float64"))
    assert applies(ConvSpec(1, 16, 24, (8, 8), (3, 3), 1))
    assert not applies(ConvSpec(1, 12, 24, (8, 8), (3, 3), 2))
    assert applies(ConvSpec(1, 16, 48, (8, 8), (3, 3), 2))
    assert applies(ConvSpec(1, 12, 12, (8, 8), (3, 3), 12))
    assert not applies(ConvSpec(1, 12, 24, (8, 8), (3, 3), 12))


CODE = {
    "3x3": (ConvSpec(1, 64, 64, (56, 56), (3, 3), 1, ONES, ONES, ONES), False),
    "pointwise": (ConvSpec(1, 64, 256, (56, 56), (1, 1)), False),
    "first layer": (ConvSpec(1, 3, 64, (224, 224), (7, 7), 1, (2, 2), (3, 3), (3, 3)), True),
    "depthwise": (ConvSpec(1, 64, 64, (56, 56), (3, 3), 64, ONES, ONES, ONES), False),
}


@pytest.mark.parametrize("name", CODE)
def test_accumulators_stay_in_registers(name: str) -> None:
    spec, plain_input = CODE[name]
    executable = tvm.compile(
        tvm.IRModule({"main": blocked_prim_func(spec, MACHINES["x86-64-v4"], plain_input)}),
        target=tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]}),
        tir_pipeline=tir_pipeline.register(),
    )
    assembly = executable.mod.inspect_source("asm")
    loops = innermost_loops(assembly)
    products = [sum("vfmadd" in line for line in loop) for loop in loops]
    assert max(products, default=0) >= 14
    assert not [line for loop in loops for line in loop if "%rsp" in line and "zmm" in line]
    # Scratch from the pool is for sums between parts of a long reduction, not for a tile.
    if spec.group_in * spec.taps < 192:
        assert "AllocWorkspace" not in assembly
