"""The command line as a user meets it: real processes, exit codes, and no traceback on bad input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import runtime


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
    for command in ("inspect", "opt", "compile", "run", "bench", "passes", "new-pass"):
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
    assert (document["flops"], document["peak_bytes"]) == (None, None)
    assert (fixed["flops"], fixed["bytes"]) == (2 * 5 * 3 * 4 + 2 * 15, 4 * (20 + 12 + 5 * 15 + 3))
    assert (fixed["peak_bytes"], fixed["peak_at"]) == (4 * (20 + 15), 'MatMul "project"')
    text = graphopt("inspect", folder / "net.onnx").stdout
    assert "what a run takes is open: sizes are not fixed (--dim n=N)\n" in text
    text = graphopt("inspect", folder / "net.onnx", "--dim", "n=5").stdout
    assert "a run takes 150 operations and reads and writes 440 B, with at most 140 B of values" in text


def test_inspect_reads_artifacts(folder: Path) -> None:
    done = graphopt("inspect", folder / "net.gopt")
    assert done.returncode == 0, done.stderr
    assert "float32[n, 4]" in done.stdout
    done = graphopt("inspect", folder / "net.gopt", "--text")
    assert done.stdout == (folder / "net.gopt" / "graph.gir").read_text()


LOOP = """gir 1
graph "looped" opset 26 {
  input %x: f32[4]
  TRIPS
  const %go: bool[] = true
  %y: f32[4] = Loop(%trips, %go, %x) "again" do body(%i: i64[], %c: bool[], %v: f32[4]) {
    %n: f32[4] = Neg(%v)
    return %c, %n
  }
  return %y as "y"
}
"""


def test_inspect_says_when_data_decides_how_often_a_loop_runs(tmp_path: Path) -> None:
    file = tmp_path / "loop.gir"
    file.write_text(LOOP.replace("TRIPS", "const %trips: i64[] = 100"))
    assert "a run takes 400 operations" in graphopt("inspect", file).stdout
    file.write_text(LOOP.replace("TRIPS", "input %trips: i64[]"))
    said = 'what a run takes is open: data decides how often the body of Loop "again" runs\n'
    assert said in graphopt("inspect", file).stdout
    document = json.loads(graphopt("inspect", file, "--json").stdout)
    assert document["flops"] is None and document["bytes"] is None


def test_inspect_says_how_memory_is_used(tmp_path: Path) -> None:
    """Two pieces of 16 KiB lie side by side, and what follows goes back and forth between 32 KiB."""
    nodes = [("Relu", "x", "a"), ("Softmax", "x", "b"), ("Softmax", "c", "d"), ("Softmax", "d", "e"),
             ("Softmax", "e", "f"), ("Softmax", "f", "y")]  # fmt: skip
    made = [helper.make_node(op, [source], [result]) for op, source, result in nodes]
    made.insert(2, helper.make_node("Concat", ["a", "b"], ["c"], axis=0))
    shapes = {"x": [64, 64], "y": [128, 64]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in "xy")
    model = helper.make_model(helper.make_graph(made, "joined", [x], [y]), ir_version=10)
    onnx.save(model, tmp_path / "joined.onnx")
    done = graphopt("compile", tmp_path / "joined.onnx", "-o", tmp_path / "joined.gopt", "-p", "O0")
    assert done.returncode == 0, done.stderr
    said = graphopt("inspect", tmp_path / "joined.gopt").stdout
    line = "64.0 KiB between kernels, 160.0 KiB without reuse; 1 of 1 concatenations and slices in place"
    assert line in said.splitlines()
    (variant,) = json.loads(graphopt("inspect", tmp_path / "joined.gopt", "--json").stdout)["variants"]
    assert variant["memory"] == {
        "planned": 65536, "separate": 163840, "in_place": 1, "moved": 0, "dynamic": 0
    }  # fmt: skip


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
    done = graphopt("run", folder / "net.gopt", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    (expected,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_allclose(archive["y"], expected, rtol=1e-5, atol=1e-5)


def test_run_on_random_inputs(folder: Path) -> None:
    done = graphopt("run", folder / "net.gopt", "--random", "--dim", "n=6", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["type"] == "float32[6x3]"


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
    assert_refused(graphopt("run", folder / "net.gopt", "--inputs", tmp_path / "wrong.npz"), "x", "5", "4")
    np.savez(tmp_path / "named.npz", xx=np.zeros((2, 4), np.float32))
    assert_refused(graphopt("run", folder / "net.gopt", "--inputs", tmp_path / "named.npz"), "xx")
    (tmp_path / "text.npz").write_text("no archive")
    assert_refused(graphopt("run", folder / "net.gopt", "--inputs", tmp_path / "text.npz"), "text.npz")
    np.savez(tmp_path / "cut.npz", x=np.zeros((2, 4), np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    assert_refused(graphopt("run", folder / "net.gopt", "--inputs", tmp_path / "cut.npz"), "cut.npz")
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "none.onnx", "-o", "/proc/o.gopt"),
        ("compile", "none.onnx", "-o", "o.gopt", "--report", "/proc/o.html"),
        ("opt", "none.onnx", "-o", "/proc/o.onnx"),
        ("opt", "none.onnx", "-o", "o.onnx", "--report", "/proc/o.html"),
        ("diff", "none.onnx", "none.onnx", "--html", "/proc/o.html"),
        ("bench", "none.onnx", "--html", "/proc/o.html"),
        ("run", "none.gopt", "--random", "-o", "/proc/o.npz"),
        ("new-pass", "fresh", "-o", "/proc"),
    ],
)  # fmt: skip
def test_a_folder_that_takes_no_files_is_told_before_the_work(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Root may write anywhere, and /proc takes no files all the same."""
    done = graphopt(*arguments, cwd=tmp_path)
    assert_refused(done, "can't be written: the folder /proc takes no files")
    assert "none." not in done.stderr and os.listdir(tmp_path) == []


def test_a_cache_of_tuning_goes_where_a_folder_is(folder: Path, tmp_path: Path) -> None:
    arguments = ("compile", folder / "net.onnx", "-o", tmp_path / "o.gopt", "--tune", "1", "--tune-cache")
    done = graphopt(*arguments, tmp_path / "a" / "b" / "t.json")
    assert_refused(done, "t.json can't be written: there is no folder", "make it first")
    assert os.listdir(tmp_path) == []


def test_sizes_that_random_inputs_take_are_told(folder: Path) -> None:
    told = "note: n is 1 in random inputs; for another size: --dim n=N\n"
    assert graphopt("run", folder / "net.gopt", "--random").stderr == told
    assert graphopt("run", folder / "net.gopt", "--random", "--dim", "n=2").stderr == ""


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


def test_inputs_of_opt_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "shape.npz", x=np.zeros((2, 5), np.float32))
    np.savez(tmp_path / "named.npz", xx=np.zeros((2, 4), np.float32))
    np.savez(tmp_path / "batch0.npz", x=np.zeros((0, 4), np.float32))
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    np.save(tmp_path / "array.npy", np.zeros((2, 4), np.float32))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.zip").mkdir()
    opt = ("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "--verify", "numeric", "--inputs")
    for name, *words in (
        ("shape.npz", '"x"', "[2, 5]", "axis 1 must be 4"),
        ("named.npz", '"xx"', "the inputs are x"),
        ("batch0.npz", "no elements"),
        ("none.npz", "none.npz", "no arrays", "numpy.savez"),
        ("objects.npz", "objects.npz", "numpy.savez"),
        ("array.npy", "array.npy", ".npy file", "numpy.savez"),
        ("text.npz", "text.npz", "not an .npz file", "numpy.savez"),
        ("text.zip", "no .npz file in this folder"),
    ):
        assert_refused(graphopt(*opt, tmp_path / name), *words)
    done = graphopt(
        "compile", folder / "net.onnx", "-o", tmp_path / "o.gopt", "-p", "quantize-static",
        "--inputs", tmp_path / "shape.npz",
    )  # fmt: skip
    assert_refused(done, '"x"', "[2, 5]", "axis 1 must be 4")
    assert "ONNX Runtime" not in done.stderr
    done = graphopt("bench", folder / "net.onnx", "--inputs", tmp_path / "shape.npz")
    assert_refused(done, '"x"', "[2, 5]", "axis 1 must be 4")
    assert not (tmp_path / "o.onnx").exists() and not (tmp_path / "o.gopt").exists()


def test_what_numbers_were_not_compared_is_told(folder: Path, tmp_path: Path) -> None:
    done = graphopt(
        "opt", folder / "unknown.onnx", "-o", tmp_path / "o.onnx", "--verify", "numeric", "-p", "O0"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        'note: not compared: no engine can run acme.Frobnicate "odd one": 1 value comes of it'
    )
    assert "not verified" not in done.stdout


def test_why_no_numbers_were_compared_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.gir").write_text(
        'gir 1\ngraph "r" opset 26 {\n  input %x: f32[2]\n  %y: f32[2] = RandomNormalLike(%x)\n  return %y as "y"\n}\n'
    )
    done = graphopt("opt", tmp_path / "r.gir", "-o", tmp_path / "o.onnx", "--verify", "numeric", "-p", "O0")
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: --verify numeric compared nothing: RandomNormalLike")
    assert "not verified" in done.stdout


def test_only_forms_of_graphs_are_written(folder: Path, tmp_path: Path) -> None:
    for name in ("o.txt", "o", "o.ONNX"):
        assert_refused(graphopt("opt", folder / "net.onnx", "-o", tmp_path / name), name, ".onnx", ".gir")
    done = graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.gopt")
    assert_refused(done, "o.gopt", "graphopt compile")
    done = graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.gir", "--keep-regions")
    assert_refused(done, "--keep-regions")
    assert not list(tmp_path.iterdir())


def test_options_that_contradict_each_other(folder: Path) -> None:
    model = folder / "net.onnx"
    assert_refused(graphopt("inspect", model, "--dim", "n=1", "--dim", "n=2"), "--dim", "n is given twice")
    done = graphopt("inspect", model, "--input", "x:1x4", "--input", "x:1x4")
    assert_refused(done, "--input", "x is given twice")
    assert_refused(graphopt("inspect", model, "--text", "--json"), "--text", "--json")
    assert_refused(graphopt("inspect", folder / "net.gopt", "--dim", "n=1"), "--dim")
    done = graphopt("bench", model, "--artifact", folder / "net.gopt", "-p", "O1")
    assert_refused(done, "--pipeline", "--artifact")
    assert_refused(graphopt("bench", model, model, "--artifact", folder / "net.gopt"), "one MODEL")
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "-1"), "-1")
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "-i", "x.npz"), "give not both")
    assert_refused(graphopt("bench", model, "--rounds", "0"), "--rounds", "x>=1")
    write = ("compile", model, "-o", folder / "refused.gopt")
    assert_refused(graphopt(*write, "-t", "native", "-t", "native"), "the target native is given twice")
    for option, number in (("--tune", "nan"), ("--kernel-error", "nan"), ("--kernel-error", "inf")):
        assert_refused(graphopt(*write, option, number), option, "not a finite number")


def test_models_and_artifacts_in_each_others_place(folder: Path, tmp_path: Path) -> None:
    model, artifact = folder / "net.onnx", folder / "net.gopt"
    for args in (
        ("run", model, "--random"), ("run", model, "--random", "--emulate"), ("bench", model, "--artifact", model)
    ):  # fmt: skip
        assert_refused(graphopt(*args), "net.onnx", "compile it first: graphopt compile")
    for args in (
        ("opt", artifact, "-o", tmp_path / "o.onnx"), ("compile", artifact, "-o", tmp_path / "o.gopt"),
    ):  # fmt: skip
        assert_refused(graphopt(*args), "net.gopt is an artifact, not a model")
    assert_refused(graphopt("inspect", tmp_path), "is a folder, not a model")


def test_inspect_checks_every_file_of_an_artifact(folder: Path, tmp_path: Path) -> None:
    assert "all SHA-256 are right" in graphopt("inspect", folder / "net.gopt").stdout
    for name in ("weights.bin", "graph.gir"):
        shutil.copytree(folder / "net.gopt", tmp_path / name / "net.gopt")
        path = tmp_path / name / "net.gopt" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert_refused(graphopt("inspect", path.parent), name, "SHA-256 differs")


def test_numbers_in_json_are_numbers(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.full((1, 4), np.nan, np.float32))
    args = ("run", folder / "net.gopt", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json")
    (row,) = json.loads(graphopt(*args).stdout, parse_constant=pytest.fail)["outputs"]
    assert row["min"] is None  # JSON has no NaN
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 4), np.float32))
    (row,) = json.loads(graphopt(*args).stdout)["outputs"]
    with np.load(tmp_path / "out.npz") as archive:
        assert (row["min"], row["max"]) == (archive["y"].min(), archive["y"].max())


def test_outputs_of_any_name_are_saved(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "net.onnx")
    model.graph.node[-1].output[0] = model.graph.output[0].name = "file"
    onnx.save(model, tmp_path / "named.onnx")
    assert graphopt("compile", tmp_path / "named.onnx", "-o", tmp_path / "named.gopt").returncode == 0
    x = np.random.default_rng(4).standard_normal((2, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    run = ("run", tmp_path / "named.gopt", "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    done = graphopt(*run)
    assert done.returncode == 0, done.stderr
    (expected,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["file"]
        np.testing.assert_allclose(archive["file"], expected, rtol=1e-5, atol=1e-5)


def test_written_models_and_artifacts_say_what_they_went_through(folder: Path, tmp_path: Path) -> None:
    passes = "eliminate-dead-code,fuse-regions{max_ops=4}"
    assert graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "-p", passes).returncode == 0
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert props["graphopt.pipeline"] == passes
    done = graphopt("compile", tmp_path / "o.onnx", "-o", tmp_path / "o.gopt", "-p", "fuse-regions")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(graphopt("inspect", tmp_path / "o.gopt", "--json").stdout)
    assert manifest["pipeline"] == f"{passes},fuse-regions"
    assert manifest["source_sha256"] == hashlib.sha256((tmp_path / "o.onnx").read_bytes()).hexdigest()


def test_text_without_its_data_names_the_value(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "net.onnx")
    weights = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(300, np.float32), "b"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 300
    onnx.save(model, tmp_path / "wide.onnx")
    assert graphopt("opt", tmp_path / "wide.onnx", "-o", tmp_path / "wide.gir", "-p", "").returncode == 0
    (tmp_path / "wide.gir.npz").unlink()
    assert graphopt("inspect", tmp_path / "wide.gir").returncode == 0
    assert_refused(
        graphopt("compile", tmp_path / "wide.gir", "-o", tmp_path / "o.gopt"), "%b, f32[300]", "sidecar"
    )


def test_the_hint_of_compile_depends_on_what_was_done(folder: Path, tmp_path: Path) -> None:
    done = graphopt("compile", folder / "unknown.onnx", "-o", tmp_path / "o.gopt")
    assert_refused(done, "acme.Frobnicate", "take that part out of the model")
    assert "optimize the graph first" not in done.stderr
    done = graphopt("compile", folder / "unknown.onnx", "-o", tmp_path / "o.gopt", "-p", "")
    assert_refused(done, "acme.Frobnicate", "optimize the graph first")


FAULTY = '''
from dataclasses import dataclass
import graphopt as go

@go.register_pass("faulty")
@dataclass(frozen=True)
class Faulty(go.Pass):
    """Fails."""

    def run(self, rewriter, context):
        STATEMENT
'''


@pytest.mark.parametrize(
    ("statement", "said"), [("{}['x']", "KeyError: 'x'"), ("raise SystemExit(0)", "SystemExit: 0")]
)
def test_faults_of_plugins_are_told_with_pass_and_line(
    statement: str, said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "faulty.py"
    plugin.write_text(FAULTY.replace("STATEMENT", statement))
    args = ("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "--plugin", plugin, "-p", "faulty")
    assert_refused(graphopt(*args), f'pass "faulty": {said} ({plugin}:11)', "GRAPHOPT_DEBUG=1")
    assert not (tmp_path / "o.onnx").exists()
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    done = graphopt(*args)
    assert done.returncode == 2 and statement in done.stderr and "Traceback" in done.stderr


def test_plugins_that_do_not_load(tmp_path: Path) -> None:
    assert_refused(graphopt("passes", "--plugin", tmp_path / "none.py"), "there is no plugin", "none.py")
    (tmp_path / "pass.txt").write_text("x = 1\n")
    assert_refused(
        graphopt("passes", "--plugin", tmp_path / "pass.txt"),
        "pass.txt is not a Python file",
        "end its name in .py",
    )
    for text, said in (("x = 1\ndef f(:\n", "SyntaxError"), ("import sys\nsys.exit(0)\n", "SystemExit")):
        (tmp_path / "bad.py").write_text(text)
        for args in (("passes",), ("bench", "m.onnx")):
            done = graphopt(*args, "--plugin", tmp_path / "bad.py")
            assert_refused(done, said, f"({tmp_path / 'bad.py'}:2)")


def test_a_full_disk_is_told() -> None:
    for args in ("passes", "passes --json", "--help", "opt --help"):
        command = [sys.executable, "-c", "from graphopt.cli import main; main()", *args.split()]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr == "error: the output: No space left on device\n"


INTERRUPTED = """
import os, signal
import graphopt.backend.compile as backend
from graphopt.errors import CompileError

def compile_graph(*args, **options):
    try:
        os.kill(os.getpid(), signal.SIGNAL)
        raise AssertionError("not interrupted")
    except KeyboardInterrupt as error:
        OUTCOME

backend.compile_graph = compile_graph
from graphopt.cli import main
main()
"""


@pytest.mark.parametrize("outcome", ["raise CompileError('TVM: KeyboardInterrupt') from error", "raise"])
@pytest.mark.parametrize(
    ("name", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_an_interrupt_is_one_whatever_the_compiler_makes_of_it(
    name: str, code: int, said: str, outcome: str, folder: Path, tmp_path: Path
) -> None:
    script = INTERRUPTED.replace("OUTCOME", outcome).replace("SIGNAL", name)
    command = [sys.executable, "-c", script, "compile", folder / "net.onnx", "-o", tmp_path / "o.gopt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr.split() == [said] or done.stderr.endswith(f"\n{said}\n")
    assert "Traceback" not in done.stderr and not (tmp_path / "o.gopt").exists()


TERMINATED = """
import os, signal
from pathlib import Path
import graphopt.backend.link as link

def compile_so(*args, **options):
    assert list(Path(os.environ["TMPDIR"]).iterdir())
    os.kill(os.getpid(), signal.SIGTERM)

link.subprocess.run = compile_so
from graphopt.cli import main
main()
"""


def test_what_is_terminated_leaves_no_folders(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TERMINATED, "compile", folder / "net.onnx", "-o", folder / "o.gopt"]
    before = sorted(os.listdir(folder))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 143 and done.stderr.endswith("terminated\n"), done.stderr
    assert os.listdir(tmp_path) == [] and sorted(os.listdir(folder)) == before


ENDLESS = """
import ctypes
from graphopt.cli import main
from graphopt.runtime import Executable

def call(self, *args):
    print("running", flush=True)
    ctypes.PyDLL(None).sleep(20)  # as compiled code does it: Python hears of a signal only afterwards

Executable.__call__ = call
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_long_run_ends_at_once(number: signal.Signals, folder: Path) -> None:
    command = [sys.executable, "-c", ENDLESS, "run", str(folder / "net.gopt"), "--random"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "running\n"
        begun = time.monotonic()
        running.send_signal(number)
        assert running.wait(60) == -number
        assert time.monotonic() - begun < 10


STUCK = """
import time
from graphopt import api
from graphopt.cli import main, signals

def load(*args, **options):
    print("loading", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as compiled code that returns long after the signal

signals._GRACE = 0.5
api.load = load
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_stop_is_ended(number: signal.Signals, folder: Path) -> None:
    command = [sys.executable, "-c", STUCK, "inspect", str(folder / "net.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "loading\n"
        running.send_signal(number)
        assert running.wait(30) == 128 + number


def test_an_ignored_signal_stays_ignored(folder: Path) -> None:
    script = INTERRUPTED.replace("OUTCOME", "raise").replace("SIGNAL", "SIGINT")
    script = script.replace(
        "import os, signal", "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
    )
    command = [sys.executable, "-c", script, "compile", folder / "net.onnx", "-o", folder / "o.gopt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "AssertionError: not interrupted" in done.stderr


def test_counts_agree_with_their_nouns(folder: Path, tmp_path: Path) -> None:
    done = graphopt("compile", folder / "net.onnx", "-o", tmp_path / "net.gopt")
    assert "net.gopt: 1 kernel for" in done.stdout
    assert "3 nodes, 2 constants (60 B)" in graphopt("inspect", folder / "net.onnx").stdout


def test_help_shows_defaults_and_ranges() -> None:
    text = " ".join(graphopt("bench", "--help").stdout.split())
    assert "[default: 1]" in text and "[default: 7; x>=1]" in text and "[default: O2]" in text
    assert "[default: structure]" in graphopt("opt", "--help").stdout
    assert "int, at least 1" in graphopt("passes", "fuse-regions").stdout
    document = json.loads(graphopt("passes", "prune-magnitude", "--json").stdout)
    sparsity = document["options"][0]
    assert (sparsity["name"], sparsity["min"], sparsity["max"]) == ("sparsity", 0, 1)


def test_absurd_requests_of_run(folder: Path) -> None:
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "--dim", f"n={10**12}"), "memory")
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "--threads", "1000"), "threads")


def test_a_closed_stdout_is_said(folder: Path) -> None:
    code = "from graphopt.cli import main; main()"
    done = subprocess.run(
        f'exec "{sys.executable}" -c "{code}" run net.gopt --random >&-',
        shell=True, stderr=subprocess.PIPE, text=True, cwd=folder, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "stdout is closed" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_has_gone_away_is_no_difference(folder: Path) -> None:
    """Neither of what click makes of a broken pipe nor of what rich does; and nothing is said."""
    for command in (["diff", "net.onnx", "net.onnx"], ["inspect", "net.onnx"], ["opt", "--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", "from graphopt.cli import main; main()", *command],
            stdout=writer, stderr=subprocess.PIPE, text=True, cwd=folder, timeout=300,
        )  # fmt: skip
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, "")


def test_an_encoding_that_lacks_characters_replaces_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    model = onnx.load(folder / "net.onnx")
    model.graph.name = model.graph.node[2].output[0] = model.graph.output[0].name = "größe"
    onnx.save(model, tmp_path / "m.onnx")
    done = graphopt("inspect", tmp_path / "m.onnx")
    assert (done.returncode, done.stderr) == (0, "") and "gr??e" in done.stdout
    assert json.loads(graphopt("inspect", tmp_path / "m.onnx", "--json").stdout)["name"] == "größe"
    done = graphopt("opt", folder / "net.onnx", "-p", "O0", "-o", tmp_path / "o.onnx")
    assert (done.returncode, done.stderr) == (0, "")


def test_outputs_are_written_as_npz_only(folder: Path, tmp_path: Path) -> None:
    assert_refused(graphopt("run", folder / "net.gopt", "--random", "-o", tmp_path / "out.txt"), ".npz")
    assert not (tmp_path / "out.txt").exists()


def test_samples_that_nothing_uses_are_said(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 4), np.float32))
    command = ("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "--inputs", tmp_path / "in.npz")
    assert "in.npz is not used" in graphopt(*command).stderr
    assert "not used" not in graphopt(*command, "--verify", "numeric").stderr
    assert "not used" not in graphopt(*command, "-p", "int8").stderr


def test_int8_without_samples_or_without_layers_is_said(folder: Path, tmp_path: Path) -> None:
    done = graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "-p", "int8")
    assert done.returncode == 0
    assert "calibrates on generated inputs" in done.stderr and "--inputs" in done.stderr
    done = graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "-p", "lower-int8", "--json")
    assert "lower-int8 found nothing to lower" in done.stderr
    assert json.loads(done.stdout)["passes"][0]["notes"] == {"lowered": 0}


def test_plugins_take_no_names_and_say_when_they_bring_nothing(folder: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\nimport graphopt as go\n"
        '@go.register_pass("fuse-gelu")\n@dataclass(frozen=True)\nclass P(go.Pass):\n'
        '    """Mine."""\n    def run(self, rewriter, context): pass\n'
    )
    for command in (("passes",), ("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "-p", "O1")):
        assert_refused(graphopt(*command, "--plugin", plugin), "two passes", '"fuse-gelu"')
    plugin.write_text("import nothere\n")
    assert_refused(graphopt("passes", "--plugin", plugin), "plugin.py:1", "fault of the plugin")
    plugin.write_text("x = 1\n")
    done = graphopt("passes", "--plugin", plugin)
    assert done.returncode == 0 and "registers no pass" in done.stderr


def test_inspect_names_folders_opsets_and_strangers(folder: Path, tmp_path: Path) -> None:
    assert_refused(graphopt("inspect", tmp_path), "is a folder, not a model")
    done = graphopt("inspect", folder / "net.onnx")
    assert "opset ai.onnx 26" in done.stdout and "read from opset ai.onnx 17" in done.stdout
    shutil.copytree(folder / "net.gopt", tmp_path / "net.gopt")
    assert "not a part" not in graphopt("inspect", tmp_path / "net.gopt").stdout
    (tmp_path / "net.gopt" / "notes.txt").write_text("mine")
    assert "not a part of it: notes.txt" in graphopt("inspect", tmp_path / "net.gopt").stdout


def test_commas_between_options_are_explained(folder: Path, tmp_path: Path) -> None:
    text = "prune-magnitude{sparsity=0.5,scope=global}"
    done = graphopt("opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "-p", text)
    assert_refused(done, "separate options by spaces")


def test_an_operator_that_onnx_lacks_is_called_so(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "net.onnx")
    model.graph.node[2].op_type = "Rleu"
    onnx.save(model, tmp_path / "typo.onnx")
    done = graphopt("compile", tmp_path / "typo.onnx", "-o", tmp_path / "typo.gopt")
    assert_refused(done, "no such operator as Rleu")


def test_one_artifact_for_two_levels_runs_the_higher(folder: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "both.gopt"
    done = graphopt(
        "compile", folder / "net.onnx", "-o", artifact, "-t", "x86-64-v2", "-t", "x86-64-v3", "--json"
    )
    assert json.loads(done.stdout)["targets"] == ["x86-64-v3", "x86-64-v2"]
    with runtime.load(artifact) as executable:
        assert executable.variant.target == "x86-64-v3"


def test_the_help_of_compile_names_the_default_that_holds() -> None:
    from graphopt.backend.compile import KERNEL_ERROR

    text = " ".join(graphopt("compile", "--help").stdout.split())
    (stated,) = re.findall(r"default: \(?([\d.]+e-\d+)", text)
    assert float(stated) == KERNEL_ERROR
