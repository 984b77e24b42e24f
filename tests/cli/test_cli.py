"""The command line as a user meets it: real processes, exit codes, and no traceback on bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


def graphopt(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-c", "from graphopt.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one clear paragraph that holds ``words``, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network ``net.onnx`` (n×4 to n×3) and its artifact ``net.gopt``."""
    folder = tmp_path_factory.mktemp("cli")
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="project"),
            helper.make_node("Add", ["m", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones(3, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "net.onnx")
    odd = helper.make_node("Frobnicate", ["y"], ["z"], domain="acme", name="odd one")
    graph.node.append(odd)
    graph.output[0].name = "z"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.CopyFrom(graph)
    onnx.save(model, folder / "unknown.onnx")
    done = graphopt("compile", folder / "net.onnx", "-o", folder / "net.gopt")
    assert done.returncode == 0, done.stderr
    return folder


def test_help_lists_every_command() -> None:
    done = graphopt("--help")
    assert done.returncode == 0
    for command in ("inspect", "opt", "compile", "run", "bench", "passes"):
        assert command in done.stdout
        assert graphopt(command, "--help").returncode == 0


def test_inspect_says_what_a_model_holds(folder: Path) -> None:
    document = json.loads(graphopt("inspect", folder / "net.onnx", "--json").stdout)
    assert document["inputs"] == [{"name": "x", "type": "f32[n, 4]"}]
    assert document["outputs"] == [{"name": "y", "type": "f32[n, 3]"}]
    assert document["operators"] == {"Add": 1, "MatMul": 1, "Relu": 1}
    assert document["constant_bytes"] == (12 + 3) * 4
    fixed = json.loads(graphopt("inspect", folder / "net.onnx", "--dim", "n=5", "--json").stdout)
    assert fixed["outputs"] == [{"name": "y", "type": "f32[5, 3]"}]


def test_inspect_reads_artifacts(folder: Path) -> None:
    done = graphopt("inspect", folder / "net.gopt")
    assert done.returncode == 0, done.stderr
    assert "float32[n, 4]" in done.stdout
    done = graphopt("inspect", folder / "net.gopt", "--text")
    assert done.stdout == (folder / "net.gopt" / "graph.gir").read_text()


def test_opt_writes_a_model_that_onnxruntime_runs_alike(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = graphopt("opt", folder / "net.onnx", "-o", out, "--verify", "numeric", "--json")
    assert done.returncode == 0, done.stderr
    assert "fuse-regions" in [row["spec"] for row in json.loads(done.stdout)["passes"]]
    x = np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"x": x})
    (actual,) = onnxruntime.InferenceSession(out).run(None, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_opt_writes_text_that_compiles(folder: Path, tmp_path: Path) -> None:
    assert graphopt("opt", folder / "net.onnx", "-o", tmp_path / "net.gir").returncode == 0
    done = graphopt("compile", tmp_path / "net.gir", "-o", tmp_path / "net.gopt")
    assert done.returncode == 0, done.stderr


def test_run_gives_what_onnxruntime_gives(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((9, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    done = graphopt("run", folder / "net.gopt", "--data", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    (expected,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_allclose(archive["y"], expected, rtol=1e-5, atol=1e-5)


def test_run_on_random_inputs(folder: Path) -> None:
    done = graphopt("run", folder / "net.gopt", "--random", "--dim", "n=6", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["type"] == "float32[6x3]"


def test_bench_compares_two_engines(folder: Path) -> None:
    done = graphopt("bench", folder / "net.onnx", "--dim", "n=3", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [engine["engine"] for engine in document["engines"]] == ["graphopt", "onnxruntime"]
    assert document["max_error"] < 1e-5
    assert document["ratio"] > 0


def test_passes_are_listed_with_their_options() -> None:
    document = json.loads(graphopt("passes", "--json").stdout)
    names = {entry["name"] for entry in document["passes"]}
    assert {"fold-constants", "fuse-regions", "prune-magnitude", "quantize-static", "lower-int8"} <= names
    assert {"O0", "O1", "O2"} <= set(document["pipelines"])
    assert "sparsity" in graphopt("passes", "prune-magnitude").stdout


PLUGIN = '''
from dataclasses import dataclass
import graphopt as go

@go.register_pass("rename-graph")
@dataclass(frozen=True)
class RenameGraph(go.Pass):
    """Gives the graph another name."""

    to: str = "renamed"

    def run(self, rewriter, context):
        rewriter.graph.name = self.to
'''


def test_plugin_passes_take_options(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    out = tmp_path / "o.gir"
    done = graphopt(
        "opt",
        folder / "net.onnx",
        "-o",
        out,
        "--plugin",
        tmp_path / "mine.py",
        "-p",
        "rename-graph{to=fresh}",
    )
    assert done.returncode == 0, done.stderr
    assert 'graph "fresh"' in out.read_text()
    assert "rename-graph" in graphopt("passes", "--plugin", tmp_path / "mine.py").stdout


def test_unknown_words_suggest_the_nearest(folder: Path, tmp_path: Path) -> None:
    assert_refused(graphopt("inspct", "x"), "inspect")
    out = tmp_path / "o.onnx"
    assert_refused(graphopt("opt", folder / "net.onnx", "-o", out, "-p", "fold-constant"), "fold-constants")
    assert_refused(graphopt("opt", folder / "net.onnx", "-o", out, "-p", "fuse-regions{max_op=1}"), "max_ops")
    assert_refused(graphopt("compile", folder / "net.onnx", "-o", out, "-t", "x86-64-v9"), "x86-64-v9")
    assert_refused(graphopt("inspect", folder / "net.onnx", "--dim", "m=1"), '"m"', '"n"')
    assert not out.exists()


def test_models_that_are_none(tmp_path: Path, folder: Path) -> None:
    assert_refused(graphopt("inspect", tmp_path / "absent.onnx"), "absent.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\x08\xff this is no protobuf")
    assert_refused(graphopt("opt", tmp_path / "noise.onnx", "-o", tmp_path / "o.onnx"), "noise.onnx")
    whole = (folder / "net.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    assert_refused(graphopt("compile", tmp_path / "half.onnx", "-o", tmp_path / "o.gopt"), "half.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"noise.onnx", "half.onnx"}


def test_unknown_operators_pass_opt_and_are_refused_by_compile(folder: Path, tmp_path: Path) -> None:
    assert graphopt("opt", folder / "unknown.onnx", "-o", tmp_path / "o.onnx").returncode == 0
    assert [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node][-1] == "Frobnicate"
    done = graphopt("compile", folder / "unknown.onnx", "-o", tmp_path / "o.gopt")
    assert_refused(done, "acme.Frobnicate", "odd one")
    assert not (tmp_path / "o.gopt").exists()


def test_inputs_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 5), np.float32))
    assert_refused(graphopt("run", folder / "net.gopt", "--data", tmp_path / "wrong.npz"), "x", "5", "4")
    np.savez(tmp_path / "named.npz", xx=np.zeros((2, 4), np.float32))
    assert_refused(graphopt("run", folder / "net.gopt", "--data", tmp_path / "named.npz"), "xx")
    (tmp_path / "text.npz").write_text("no archive")
    assert_refused(graphopt("run", folder / "net.gopt", "--data", tmp_path / "text.npz"), "text.npz")
    np.savez(tmp_path / "cut.npz", x=np.zeros((2, 4), np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    assert_refused(graphopt("run", folder / "net.gopt", "--data", tmp_path / "cut.npz"), "cut.npz")
    assert_refused(graphopt("run", folder / "net.gopt"), "--random")
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "--dim", "m=3"), "'m'", "are n")
    assert_refused(graphopt("run", folder / "net.onnx", "--random"), "net.onnx")


def test_output_that_can_not_be_written(folder: Path) -> None:
    done = graphopt("opt", folder / "net.onnx", "-o", folder / "no" / "such" / "folder.onnx")
    assert_refused(done, "folder.onnx")
    done = graphopt("opt", folder / "net.onnx", "-o", folder / "no" / "such" / "folder.gir")
    assert_refused(done, "folder.gir")
    done = graphopt("opt", folder / "net.onnx", "-o", folder / "y.onnx", "--dump", folder / "net.onnx")
    assert_refused(done, "net.onnx")


def test_only_plain_files_are_replaced(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert_refused(
        graphopt("opt", folder / "net.onnx", "-o", tmp_path / "pipe.onnx"), "pipe.onnx", "plain file"
    )
    (tmp_path / "real.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    assert graphopt("opt", folder / "net.onnx", "-o", tmp_path / "link.onnx").returncode == 0
    assert (tmp_path / "link.onnx").is_symlink()
    onnx.checker.check_model(onnx.load(tmp_path / "real.onnx"))
    (tmp_path / "file").write_text("")
    for name in ("o.onnx", "o.gir"):
        assert_refused(graphopt("opt", folder / "net.onnx", "-o", tmp_path / "file" / name), name)
    done = graphopt("run", folder / "net.gopt", "--random", "-o", tmp_path / "file" / "o.npz")
    assert_refused(done, "o.npz")


def test_absurd_requests_of_run(folder: Path) -> None:
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "--dim", f"n={10**12}"), "memory")
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "--threads", "1000"), "threads")
