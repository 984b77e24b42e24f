"""How time and memory grow with the size of a model.

    python -m tests.sweep.scale [NODES ...]

prints seconds of import, verification, O2 and export for synthetic models of 10,000, 50,000 and
100,000 nodes, by the clock and of the processor (which counts less of what else runs), each in a
process of its own, and the peak memory of `graphopt opt` on a model with 3 GB of external weights.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
NODES = (10_000, 50_000, 100_000)
BLOCK = 8
"""Nodes of one layer of :func:`deep_model`."""
WIDTH = 16


def deep_model(nodes: int) -> onnx.ModelProto:
    """A residual network: in each layer a product, bias, activation, an identity and a transpose that
    does nothing, and a sum with what entered the layer. Every layer has weights of its own."""
    rng = np.random.default_rng(0)
    parts, weights, entered = [], [], "x"
    for i in range(nodes // BLOCK):
        weights.append(numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), np.float32) / 8, f"w{i}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(WIDTH, np.float32), f"b{i}"))
        parts += [
            helper.make_node("MatMul", [entered, f"w{i}"], [f"m{i}"], name=f"project{i}"),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"], name=f"bias{i}"),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("Sigmoid", [f"r{i}"], [f"s{i}"], name=f"gate{i}"),
            helper.make_node("Mul", [f"r{i}", f"s{i}"], [f"p{i}"], name=f"gated{i}"),
            helper.make_node("Identity", [f"p{i}"], [f"i{i}"], name=f"same{i}"),
            helper.make_node("Transpose", [f"i{i}"], [f"t{i}"], name=f"turn{i}", perm=[0, 1]),
            helper.make_node("Add", [f"t{i}", entered], [f"o{i}"], name=f"residual{i}"),
        ]
        entered = f"o{i}"
    graph = helper.make_graph(
        parts,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(entered, TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def large_model(folder: Path, count: int) -> Path:
    """A chain of ``count`` products with weights of 64 MiB each, in a sparse file that takes no disk."""
    size, side = 64 << 20, 4096
    with open(folder / "weights.bin", "wb") as file:
        file.truncate(count * size)
    parts, weights, entered = [], [], "x"
    for i in range(count):
        tensor = TensorProto(
            name=f"w{i}", data_type=TensorProto.FLOAT, dims=[side, side], data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "weights.bin"), ("offset", i * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        parts.append(helper.make_node("MatMul", [entered, f"w{i}"], [f"h{i}"]))
        entered = f"h{i}"
    graph = helper.make_graph(
        parts,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", side])],
        [helper.make_tensor_value_info(entered, TensorProto.FLOAT, ["n", side])],
        weights,
    )
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def peak_of_opt(source: Path, target: Path) -> int:
    """Peak resident bytes of `graphopt opt SOURCE -o TARGET` in a process of its own.

    Raises:
        CalledProcessError: the command failed.
    """
    # A child of a child, so that its peak is not that of anything else this process started.
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-c', 'from graphopt.cli import main; main()', 'opt', *sys.argv[1:]],"
        " stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)\n"
    )
    command = [sys.executable, "-c", code, str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def measure(path: Path) -> dict[str, float]:
    """Seconds of each step, and of each pass of O2."""
    from graphopt.ir.verifier import verify
    from graphopt.onnx_io import load, save
    from graphopt.ops import SEMANTICS
    from graphopt.pipeline import Context, Pipeline

    small = load(deep_model(BLOCK))  # Imports of modules are not part of it.
    Pipeline.parse("O2").run(small, context=Context())
    times: dict[str, float] = {}
    start = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal start
        now = time.perf_counter(), time.process_time()
        times[name], times[f"{name}, processor"] = now[0] - start[0], now[1] - start[1]
        start = time.perf_counter(), time.process_time()

    graph = load(path)
    lap("import")
    verify(graph, SEMANTICS)
    lap("verify")
    report = Pipeline.parse("O2").run(graph, context=Context())
    lap("O2")
    save(graph, path.with_suffix(".out.onnx"))
    lap("export")
    times["MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for row in report.rows:
        times[f"  {row.index:2} {row.spec}"] = row.seconds + row.verify_seconds
    return times


def main(arguments: list[str]) -> int:
    """Prints the table."""
    if arguments[:1] == ["--one"]:
        print(json.dumps(measure(Path(arguments[1]))))
        return 0
    sizes = [int(text) for text in arguments] or list(NODES)
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for nodes in sizes:
            path = Path(folder) / f"{nodes}.onnx"
            onnx.save(deep_model(nodes), path)
            command = [sys.executable, "-m", "tests.sweep.scale", "--one", str(path)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            columns.append(json.loads(done.stdout))
        print(f"{'nodes':44}" + "".join(f"{nodes:>10,}" for nodes in sizes) + "   per node, last to first")
        for name in columns[0]:
            growth = columns[-1][name] / sizes[-1] / max(columns[0][name] / sizes[0], 1e-12)
            print(f"{name:44}" + "".join(f"{c[name]:10.2f}" for c in columns) + f"   {growth:.2f}")
    if not arguments:
        with tempfile.TemporaryDirectory() as folder:
            source = large_model(Path(folder), 48)
            peak = peak_of_opt(source, Path(folder) / "out.onnx")
        print(f"graphopt opt on 3 GB of external weights: peak {peak / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
