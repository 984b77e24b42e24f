"""Compiling with what tuning found: only when asked to, the same bytes each time, and the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt as go
from graphopt.backend.artifact import Artifact
from graphopt.errors import ArgumentError, TuneError
from graphopt.tune import TuneCache
from graphopt.tune.cache import Entry, code_digest
from graphopt.tune.candidates import Workshop, subjects_of
from tests.backend.programs import NATIVE, Array, assert_close, expected_of, numbers, program

N = helper.make_node
X = {"x": numbers(0, 1, 32, 9, 9)}
WEIGHTS = {"w1": numbers(1, 40, 32, 3, 3), "w2": numbers(2, 24, 40, 1, 1), "w3": numbers(3, 24, 70)}
NODES = [
    N("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
    N("Relu", ["a"], ["b"]),
    N("Conv", ["b", "w2"], ["c"]),
    N("GlobalAveragePool", ["c"], ["d"]),
    N("Flatten", ["d"], ["e"]),
    N("MatMul", ["e", "w3"], ["y"]),
]


@pytest.fixture(scope="module")
def network() -> go.Graph:
    return go.optimize(program(NODES, X, WEIGHTS), "O2", target=NATIVE)


@pytest.fixture(scope="module")
def other(network: go.Graph, tmp_path_factory: pytest.TempPathFactory) -> TuneCache:
    """A cache that wants everything otherwise than the models do: each knob's second option."""
    workshop = Workshop(tmp_path_factory.mktemp("kernels"), NATIVE, 5e-5, 0)
    entries = {}
    for subject in subjects_of(network, NATIVE, 5e-5).tunable:
        (made,) = workshop.make([(subject, {})])
        assert made is not None
        choices = {knob: options[1] for knob, options in made.knobs.items() if len(options) > 1}
        entries[subject.digest] = Entry(subject.name, NATIVE.text, code_digest(), choices, True, 2.0, 1.0)
    assert len(entries) == 3
    return TuneCache(entries)


def _content(artifact: Artifact) -> Any:
    weights = {name: array.tobytes() for name, array in artifact.weights.items()}
    return artifact.libraries, artifact.variants, weights


def _result(artifact: Artifact) -> Array:
    with artifact.load(threads=1) as executable:
        return np.asarray(executable(X)[0])


def test_a_cache_changes_the_code_and_not_the_results(
    network: go.Graph, other: TuneCache, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.json"
    other.save(path)
    plain = go.compile(network)
    first, second = (go.compile(network, tune_cache=path) for _ in range(2))
    assert _content(first) == _content(second)
    kernels = set(plain.variants[0].kernels) ^ set(first.variants[0].kernels)
    assert kernels and all(name.startswith("conv") for name in kernels)  # another method, another name
    assert _content(first) != _content(plain)
    assert_close(_result(first), expected_of(network, X)[0], 1e-4)
    assert_close(_result(first), _result(plain), 1e-4)


def test_entries_of_other_code_and_unknown_options_change_nothing(
    network: go.Graph, other: TuneCache, tmp_path: Path
) -> None:
    plain = _content(go.compile(network))
    for name, code, choices in (
        ("old", "other", None),
        ("odd", code_digest(), {"tile": "1000x1000", "no such knob": "1", "winograd": ""}),
    ):
        entries = {
            digest: Entry(e.kernel, e.target, code, choices or e.choices, True, 2.0, 1.0)
            for digest, e in other.entries.items()
        }
        TuneCache(entries).save(tmp_path / f"{name}.json")
        assert _content(go.compile(network, tune_cache=tmp_path / f"{name}.json")) == plain


def test_no_cache_is_read_unasked(
    network: go.Graph, other: TuneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _content(go.compile(network))
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    other.save(tmp_path / "tuned.json")
    assert _content(go.compile(network)) == plain


def test_tuning_keeps_what_it_finds(
    network: go.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    tuned = go.compile(network, tune=1)
    assert _content(go.compile(network, tune_cache=tmp_path / "tuned.json")) == _content(tuned)
    assert_close(_result(tuned), expected_of(network, X)[0], 1e-4)


def test_arguments_that_do_not_fit(network: go.Graph, tmp_path: Path) -> None:
    for seconds in (0, -1, float("nan"), float("inf"), "60", True):
        with pytest.raises(ArgumentError, match="tune must be a number of seconds"):
            go.compile(network, tune=seconds)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="tune_cache"):
        go.compile(network, tune_cache=3)  # type: ignore[arg-type]
    with pytest.raises(TuneError, match="there is no such tuning cache"):
        go.compile(network, tune_cache=tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(TuneError, match="can't be written"):
        go.compile(network, tune=1000, tune_cache=tmp_path / "file" / "tuned.json")


def _graphopt(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from graphopt.cli import main; main()", *map(str, args)]
    environment = {**os.environ, "GRAPHOPT_CACHE": str(folder / "cache")}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network as ``net.onnx``."""
    folder = tmp_path_factory.mktemp("tune")
    go.save(program(NODES, X, WEIGHTS), folder / "net.onnx")
    assert onnx.load(folder / "net.onnx").graph.node
    return folder


def _bytes(artifact: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.iterdir()}


def test_the_command_tunes_and_uses_it_again(folder: Path) -> None:
    done = _graphopt(
        folder, "compile", "net.onnx", "-o", "a.gopt", "--tune", 2, "--tune-cache", "t.json", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["tune_cache"] == "t.json"
    (tuned,) = document["tuned"]
    assert tuned["target"] == document["targets"][0]
    assert {kernel["digest"] for kernel in tuned["kernels"]} == set(TuneCache.read(folder / "t.json").entries)
    again = _graphopt(folder, "compile", "net.onnx", "-o", "b.gopt", "--tune-cache", "t.json")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("wrote b.gopt")
    assert _bytes(folder / "a.gopt") == _bytes(folder / "b.gopt")
    assert not (folder / "cache").exists()


def test_the_command_says_what_it_did_and_where_it_is_kept(folder: Path) -> None:
    done = _graphopt(folder, "compile", "net.onnx", "-o", "c.gopt", "--tune", 0.5)
    assert done.returncode == 0, done.stderr
    kept = folder / "cache" / "tuned.json"
    assert f"kept in {kept}, for --tune-cache" in " ".join(done.stdout.split())
    assert " made faster in " in done.stdout
    cache = json.loads(kept.read_text())
    for entry in cache["kernels"].values():
        entry["code"] = "older"
    kept.write_text(json.dumps(cache))
    stale = _graphopt(folder, "compile", "net.onnx", "-o", "c.gopt", "--tune-cache", kept)
    assert stale.returncode == 0
    assert f"of another version of graphopt in {kept} not used" in " ".join(stale.stderr.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tune", "1", "-t", "native", "-t", "aarch64"), "can't be timed on this machine"),
        (("--tune", "1", "-t", "cuda:sm_80"), "only those for CPUs"),
        (("--tune-cache", "net.onnx"), "net.onnx is not a tuning cache"),
        (("--tune-cache", "none.json"), "there is no such tuning cache"),
        (("--tune", "0"), "0"),
    ],
)
def test_what_can_not_be_done_is_refused_at_once(folder: Path, args: tuple[str, ...], said: str) -> None:
    done = _graphopt(folder, "compile", "net.onnx", "-o", "d.gopt", *args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (folder / "d.gopt").exists()
