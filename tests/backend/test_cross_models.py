"""Real networks compiled for other machines: run under emulation, or inspected where nothing can run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import golden_models
import graphopt as go
from golden_models import mnist
from graphopt.backend.artifact import build
from graphopt.backend.assemble import assemble
from graphopt.backend.compile import tensor_spec
from graphopt.backend.cross import run_emulated
from graphopt.runtime import load
from graphopt.targets import Target, missing_features
from tests.backend.emulation import EMULATED
from tests.backend.test_cuda import NVRTC, cubins
from tests.golden.test_quantized import LOWER, QUANTIZE

TOLERANCE = 1e-4
X86 = "x86-64-v3"
LACKING = missing_features(Target.parse(X86).required_features)
RUNS_X86 = pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {', '.join(LACKING)}")

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]


def compiled(graph: go.Graph, target: str, folder: Path) -> Path:
    return go.compile(graph, target).save(folder / f"{target.replace(':', '-')}.gopt")


def run(path: Path, inputs: Arrays) -> list[Array]:
    """Outputs of an artifact, by the emulator where it is for aarch64."""
    if path.name.startswith("aarch64"):
        return run_emulated(path, inputs)
    with load(path, threads=1) as executable:
        return [np.array(output) for output in executable(inputs)]


def reference(model: Path, inputs: Arrays) -> list[Array]:
    """What ONNX Runtime computes with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(onnxruntime.InferenceSession(str(model), options).run(None, inputs))


def assert_close(outputs: list[Array], expected: list[Array]) -> None:
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype == np.float32
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def assert_identical(outputs: list[Array], expected: list[Array]) -> None:
    """Equal to the last bit."""
    for ours, theirs in zip(outputs, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


def optimized(name: str, target: str) -> go.Graph:
    return go.optimize(go.load(golden_models.path(name)), "O2", target=target)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> go.Graph:
    """The MNIST network in integer regions; each quantized activation is an output beside the logits."""
    images, _ = mnist.training()
    samples = [{"image": images[i::80]} for i in range(8)]
    graph = go.optimize(go.load(golden_models.path("mnist")), QUANTIZE, inputs=samples)
    path = tmp_path_factory.mktemp("quantized") / "mnist.onnx"
    go.save(graph, path)
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names)
    onnx.save(model, path)
    return go.optimize(go.load(path), LOWER)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        pytest.param(X86, "mnist", marks=RUNS_X86),
        pytest.param(X86, "light-squeezenet", marks=RUNS_X86),
        pytest.param("aarch64", "mnist", marks=EMULATED),
        pytest.param("aarch64", "light-squeezenet", marks=EMULATED),
        pytest.param("aarch64:neoverse-n1", "mnist", marks=EMULATED),
    ],
)
def test_floats_equal_onnx_runtime(target: str, name: str, tmp_path: Path) -> None:
    path = compiled(optimized(name, target), target, tmp_path)
    inputs = golden_models.example_inputs(name, 3)
    assert_close(run(path, inputs), reference(golden_models.path(name), inputs))


@EMULATED
def test_one_aarch64_artifact_takes_every_batch(tmp_path: Path) -> None:
    path = compiled(optimized("mnist", "aarch64"), "aarch64", tmp_path)
    images, _ = mnist.held_out()
    for batch in (7, 64):
        inputs = {"image": images[:batch]}
        assert_close(run(path, inputs), reference(golden_models.path("mnist"), inputs))


@EMULATED
@RUNS_X86
@pytest.mark.parametrize("target", ["aarch64", "aarch64:neoverse-n1"])
def test_integers_are_identical_on_arm_and_x86(quantized: go.Graph, target: str, tmp_path: Path) -> None:
    """All activations in 8 bits, and the float logits; on the second CPU by its dot products."""
    inputs = {"image": mnist.held_out()[0][:64]}
    outputs = run(compiled(quantized, target, tmp_path), inputs)
    assert [output.dtype for output in outputs].count(np.uint8) >= 4
    assert len(np.unique(outputs[1])) > 10
    assert_identical(outputs, run(compiled(quantized, X86, tmp_path), inputs))
    assert_identical(outputs, run(compiled(quantized, "native", tmp_path), inputs))


def _residual(folder: Path) -> tuple[go.Graph, Arrays]:
    """Two quantized convolutions with a shortcut around each: sums of two dequantized numbers."""
    random = np.random.default_rng(0)
    weights = [
        (random.standard_normal((16, 3, 3, 3)) * 0.3).astype(np.float32),
        *((random.standard_normal((16, 16, 3, 3)) * 0.1).astype(np.float32) for _ in range(2)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Add", ["c1", "r0"], ["s1"]),
        helper.make_node("Relu", ["s1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Add", ["c2", "r1"], ["y"]),
    ]
    shape = [1, 3, 24, 24]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 24, 24])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "residual.onnx")
    samples = [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    lowered = go.optimize(go.load(folder / "residual.onnx"), f"{QUANTIZE},{LOWER}", inputs=samples)
    return lowered, samples[0]


def _x86_levels() -> list[str]:
    levels = ("x86-64", "x86-64-v3", "x86-64-v4")
    return [level for level in levels if not missing_features(Target.parse(level).required_features)]


@RUNS_X86
def test_sums_of_dequantized_numbers_need_no_multiply_add(tmp_path: Path) -> None:
    """CPUs with a fused multiply-add and without one give the same floats."""
    graph, inputs = _residual(tmp_path)
    results = [run(compiled(graph, level, tmp_path), inputs) for level in _x86_levels()]
    assert len(results) >= 2
    for result in results[1:]:
        assert_identical(result, results[0])


@EMULATED
@RUNS_X86
def test_sums_of_dequantized_numbers_are_identical_on_arm(tmp_path: Path) -> None:
    graph, inputs = _residual(tmp_path)
    assert_identical(
        run(compiled(graph, "aarch64", tmp_path), inputs), run(compiled(graph, X86, tmp_path), inputs)
    )


def _gpu_graph(name: str, quantized: go.Graph) -> go.Graph:
    return quantized if name == "mnist-int8" else optimized(name, "cuda:sm_80")


GPU_MODELS = pytest.mark.parametrize("name", ["mnist", "mnist-int8", "light-squeezenet"])


@NVRTC
@GPU_MODELS
def test_every_kernel_is_machine_code_for_the_gpu(name: str, quantized: go.Graph) -> None:
    artifact = go.compile(_gpu_graph(name, quantized), "cuda:sm_80")
    ((capability, cubin),) = cubins(next(iter(artifact.libraries.values())))
    assert capability == 80
    kernels = artifact.variants[0].kernels
    assert len(kernels) >= 5
    missing = [kernel for kernel in kernels if f"{kernel}_kernel".encode() not in cubin]
    assert not missing


@GPU_MODELS
def test_what_is_scheduled_for_the_gpu_computes_the_right_numbers(
    name: str, quantized: go.Graph, tmp_path: Path
) -> None:
    """The tensor expressions of GPU kernels, compiled for this CPU without their schedules."""
    graph = _gpu_graph(name, quantized)
    assembled = assemble(graph, Target.parse("cuda:sm_80"))
    artifact = build(
        assembled.module,
        Target.parse("native"),
        weights=assembled.weights,
        inputs=[tensor_spec(value.name, value) for value in graph.inputs],
        outputs=[tensor_spec(n, value) for n, value in zip(graph.output_names, graph.outputs, strict=True)],
        gir="",
    )
    inputs = golden_models.example_inputs(name.removesuffix("-int8"), 3)
    outputs = run(artifact.save(tmp_path / "staged.gopt"), inputs)
    if name == "mnist-int8":
        assert_identical(outputs, run(compiled(graph, "native", tmp_path), inputs))
    else:
        assert_close(outputs, reference(golden_models.path(name), inputs))


def test_scheduled_convolutions_have_no_condition_around_the_product() -> None:
    """Copies of operands into shared memory would ignore it, and read beside the data."""
    import tvm
    import tvm_ffi

    from graphopt.backend.gpu import schedule_for_gpu

    target = Target.parse("cuda:sm_80")
    scheduled = schedule_for_gpu(assemble(optimized("mnist", target.text), target).module, target.to_tvm())
    products, conditions = [], []

    def visit(block: Any) -> None:
        if any(axis.iter_type == tvm.tirx.IterVar.CommReduce for axis in block.iter_vars):
            products.append(block)
            tvm_ffi.structural_walk(block.body, (tvm.ir.Call, look))

    def look(call: Any) -> None:
        if call.op.same_as(tvm.ir.Op.get("prim.if_then_else")):
            conditions.append(call)

    for name, function in scheduled.functions.items():
        if name.name_hint.startswith("conv"):
            tvm_ffi.structural_walk(function.body, (tvm.s_tir.SBlock, visit))
    assert len(products) >= 3
    assert not conditions
