"""Profiles: what is noted of a run, and what is made of it."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path

import numpy as np
import pytest

import graphopt as go
from graphopt.errors import InputError
from graphopt.ir.parser import parse_graph
from graphopt.profile import profile
from graphopt.profile.analyse import CallCost, KernelCost, analyse, distances, touched
from graphopt.profile.machine import ACCUMULATORS, LINES, machine_library, vector_lanes
from graphopt.profile.measure import Buffer, Call, Machine, Measured
from graphopt.runtime.tensors import aligned_empty
from graphopt.targets import Target
from tests.cli.test_cli import assert_refused, folder, graphopt

__all__ = ["folder"]

TEXT = """gir 1
graph "net" opset 26 {
  input %x: f32[n, 32]
  input %w: f32[32, 48]
  input %v: f32[48, 48]
  %h: f32[n, 48] = MatMul(%x, %w) "first"
  %i: f32[n, 48] = MatMul(%h, %v) "second"
  %j: f32[n, 48] = MatMul(%i, %v) "third"
  %s: f32[n, 48] = Softmax(%j) "chances"
  return %s as "s"
}
"""
MACHINE = Machine(1e9, ((1000, 4e9), (100000, 1e9)), 1e-7)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "net.gopt"
    go.compile(parse_graph(TEXT), "native").save(path)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_every_call_is_seen_with_its_node_arithmetic_and_bytes(artifact: Path, threads: int) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((20, 32)).astype(np.float32),
        "w": rng.standard_normal((32, 48)).astype(np.float32),
        "v": rng.standard_normal((48, 48)).astype(np.float32),
    }
    found = profile(artifact, inputs, threads=threads, seconds=0.05)
    calls = {call.node: call for kernel in found.kernels for call in kernel.calls}
    assert set(calls) == {'MatMul "first"', 'MatMul "second"', 'MatMul "third"', 'Softmax "chances"'}
    assert calls['MatMul "first"'].flops == 2 * 20 * 32 * 48
    assert calls['MatMul "second"'].flops == calls['MatMul "third"'].flops == 2 * 20 * 48 * 48
    assert calls['MatMul "first"'].bytes == 4 * (20 * 32 + 32 * 48 + 20 * 48)
    assert calls['Softmax "chances"'].bytes == 4 * 2 * 20 * 48
    assert calls['MatMul "second"'].kernel == calls['MatMul "third"'].kernel
    assert all(call.seconds > 0 for call in calls.values())
    assert math.isclose(found.kernel_seconds, sum(call.seconds for call in calls.values()))
    assert found.runs >= 5 and found.run_seconds > 0
    times = [kernel.seconds for kernel in found.kernels]
    assert times == sorted(times, reverse=True)
    machine = found.machine
    assert machine.flops > 1e8 and machine.call_seconds > 0
    assert all(rate > 1e6 for _, rate in machine.bandwidths)


def test_inputs_are_checked_before_anything_is_built(artifact: Path) -> None:
    x = np.zeros((2, 31), np.float32)
    with pytest.raises(InputError, match="axis 1 must be 32"):
        profile(artifact, {"x": x, "w": np.zeros((32, 48)), "v": np.zeros((48, 48))})


@pytest.mark.parametrize("name", ["x86-64-v3", "native"])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs code for x86-64")
def test_kernels_that_measure_the_machine_do_what_they_are_timed_for(name: str, tmp_path: Path) -> None:
    import tvm_ffi

    from graphopt.runtime.library import runtime

    runtime()
    target, threads = Target.parse(name), 2
    lanes = vector_lanes(target)
    (tmp_path / "machine.so").write_bytes(machine_library(target, threads))
    module = tvm_ffi.load_module(str(tmp_path / "machine.so"))

    def array(size: int) -> tuple[np.ndarray, object]:  # type: ignore[type-arg]
        data = aligned_empty((size,), np.dtype(np.float32))
        data.fill(1)
        return data, tvm_ffi.from_dlpack(data)

    (x, x_tensor), (out, out_tensor) = array(3 * lanes), array(threads * ACCUMULATORS * lanes)
    x[:] = np.repeat([8, 0.5, 0.25], lanes)
    module["peak"](x_tensor, out_tensor)
    np.testing.assert_allclose(out, 0.5, rtol=1e-6)  # where y = y / 2 + 1 / 4 comes to rest
    rows, times = 5, 3
    (_, data), (_, often), (sums, sums_tensor) = (
        array(rows * threads * LINES * lanes),
        array(times),
        array(threads * LINES * lanes),
    )
    module["read"](data, often, sums_tensor)
    np.testing.assert_array_equal(sums, 1 + rows * times)
    nothing, tensor = array(threads)
    nothing.fill(0)
    module["nothing"](tensor)
    np.testing.assert_array_equal(nothing, 1)


def call(kernel: str, *buffers: tuple[int, int]) -> Call:
    return Call(kernel, 1e-6, tuple(Buffer(address, size, 4) for address, size in buffers))


def test_distances_count_each_buffer_since_its_last_use_once() -> None:
    calls = [call("a", (1, 10), (2, 100)), call("b", (2, 100), (3, 1000)), call("c", (3, 500), (2, 100))]
    whole = [[buffer.bytes for buffer in item.buffers] for item in calls]
    assert distances(calls, whole) == [
        [10 + 100 + 1000, 10 + 100],  # 1 from the run before; 2 from its last call, then 1
        [100, 1000 + 100 + 10],
        [1000, 100 + 1000],
    ]
    assert distances([], []) == []


def test_bandwidth_is_that_of_the_next_larger_working_set() -> None:
    assert [MACHINE.bandwidth(size) for size in (0, 1000, 1001, 10**9)] == [4e9, 4e9, 1e9, 1e9]


def test_least_times_and_limits() -> None:
    graph = parse_graph(TEXT)
    calls = (
        Call("matmul", 1e-4, (Buffer(1, 2560, 4), Buffer(2, 6144, 4), Buffer(3, 3840, 4))),
        Call("softmax", 1e-6, (Buffer(3, 3840, 4), Buffer(4, 3840, 4))),
        Call("other", 1e-6, (Buffer(4, 8, 4),)),
    )
    nodes = {"matmul": ['MatMul "first"'], "softmax": ['Softmax "chances"'], "other": ["copy"]}
    found = analyse(Measured(calls, 2e-4, 7, MACHINE), nodes, graph, {"n": 20}, 1)
    product, softmax, other = found.kernels
    assert product.limit == "compute" and product.flops == 2 * 20 * 32 * 48
    assert product.roofline == pytest.approx(2 * 20 * 32 * 48 / 1e9 / 1e-4)
    assert softmax.limit == "memory" and softmax.flops == 4 * 20 * 48
    assert softmax.calls[0].memory_seconds == pytest.approx(2 * 3840 / 1e9)
    assert other.limit == "overhead" and other.calls[0].node == "copy"
    assert found.kernel_seconds == pytest.approx(1.02e-4)


def test_a_node_of_several_kernels_is_counted_once() -> None:
    graph = parse_graph(TEXT)
    calls = (call("a", (1, 4)), call("b", (2, 4)))
    nodes = {"a": ['MatMul "first"'], "b": ['MatMul "first"']}
    found = analyse(Measured(calls, 1e-5, 5, MACHINE), nodes, graph, {"n": 20}, 1)
    assert sum(kernel.flops or 0 for kernel in found.kernels) == 2 * 20 * 32 * 48


def test_arithmetic_that_depends_on_data_is_unknown() -> None:
    cost = KernelCost(
        "k", [CallCost("k", "n", 1e-6, None, 4, 0, 1e-7, 0), CallCost("k", "n", 1e-6, 5, 4, 0, 0, 0)]
    )
    assert cost.flops is None and cost.as_dict()["flops_per_second"] is None
    assert cost.bytes == 8


def test_of_a_table_only_the_rows_that_are_looked_up_count() -> None:
    text = """gir 1
graph "g" opset 26 {
  input %t: f32[5000, 4]
  input %i: i64[2]
  %y: f32[2, 4] = Gather(%t, %i)
  return %y
}
"""
    (node,) = parse_graph(text).nodes
    noted = Call("gather", 1e-6, (Buffer(1, 80000, 4), Buffer(2, 16, 8), Buffer(3, 32, 4)))
    assert touched(noted, node, {}) == [32, 16, 32]
    assert touched(noted, None, {}) == [80000, 16, 32]


def test_the_command_prints_a_table_and_json(folder: Path) -> None:
    options = ("--dim", "n=64", "--seconds", "0.05")
    done = graphopt("profile", folder / "net.gopt", *options)
    assert done.returncode == 0, done.stderr
    assert "GFLOP/s" in done.stdout and "peak" in done.stdout and "a run" in done.stdout
    document = json.loads(graphopt("profile", folder / "net.gopt", *options, "--json").stdout)
    (kernel,) = document["kernels"]
    assert kernel["flops"] == 64 * 3 * (2 * 4 + 2)  # the product, its bias and the Relu
    assert kernel["roofline"] > 0 and kernel["limit"] in ("compute", "memory", "overhead")
    assert document["run_seconds"] > document["kernel_seconds"] / 2
    assert_refused(graphopt("profile", folder / "net.onnx"), "compile it first")
    assert_refused(graphopt("profile", folder / "none.gopt"), "no such directory")
    assert_refused(graphopt("profile", folder / "net.gopt", "--threads", "1000"), "threads")
    assert_refused(graphopt("profile", folder / "net.gopt", "--dim", "q=2"), "no input has a dimension 'q'")
