"""``graphopt bench``"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import assert_refused, folder, graphopt

__all__ = ["folder"]

QUICK = ("--rounds", "2", "--seconds", "0.02")


def test_models_are_measured_with_each_number_of_threads(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    model = folder / "net.onnx"
    done = graphopt(
        "bench", model, model, "--dim", "n=3", *QUICK, "--threads", "1,2", "--engine", "onnxruntime",
        "--html", page, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = [(comparison["model"], comparison["threads"]) for comparison in document["comparisons"]]
    assert found == [("net.onnx", 1), ("net.onnx", 2)] * 2
    ours, other = document["comparisons"][0]["engines"]
    assert (ours["engine"], other["engine"]) == ("graphopt", "onnxruntime")
    for row in (ours, other):
        assert row["max_error"] < 1e-5
        assert len(row["rounds"]) == 2
        assert row["peak_bytes"] > 0 and row["disk_bytes"] > 0 and row["load_seconds"] > 0
    assert ours["ratio"] == pytest.approx(1 / other["ratio"], rel=0.5)
    assert ours["compile_seconds"] > 0 and other["compile_seconds"] is None
    assert [entry["threads"] for entry in document["mean_ratios"]] == [1, 2]
    assert document["machine"]["processor"] and "--threads 1,2" in document["command"]
    assert page.read_text().count("<svg") == 2


def test_the_table_says_what_was_measured_and_what_was_not(folder: Path, tmp_path: Path) -> None:
    done = graphopt("bench", folder / "net.onnx", "--artifact", folder / "net.gopt", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "net.onnx" in done.stdout and "ONNX Runtime" in done.stdout and "OpenVINO" in done.stdout
    assert "graphopt by the fastest other engine:" in done.stdout
    alone = graphopt("bench", folder / "net.gopt", "--dim", "n=3", *QUICK)
    assert alone.returncode == 0, alone.stderr
    assert "net.gopt" in alone.stdout and "ONNX Runtime" not in alone.stdout
    assert "fastest other" not in alone.stdout


def test_a_model_that_can_not_be_compiled_is_named_and_the_others_are_measured(
    folder: Path, tmp_path: Path
) -> None:
    odd, page = folder / "unknown.onnx", tmp_path / "page.html"
    done = graphopt(
        "bench", odd, folder / "net.onnx", *QUICK, "--engine", "onnxruntime", "--html", page, "--dim", "n=2"
    )
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime" in done.stdout and "Traceback" not in done.stderr
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("not measured: ")]
    assert "unknown.onnx" in told and "Frobnicate" in told
    assert "unknown.onnx" in page.read_text()
    done = graphopt("bench", odd, folder / "net.onnx", *QUICK, "--dim", "k=2")
    assert_refused(done, "unknown.onnx: ", "net.onnx: ", 'no dimension named "k"')
    assert done.stdout == ""


def test_what_can_t_be_measured_is_told(folder: Path, tmp_path: Path) -> None:
    model = folder / "net.onnx"
    assert_refused(graphopt("bench", model, "--threads", "1,0"), "--threads", "'1,0'")
    assert_refused(graphopt("bench", model, "--engine", "abacus"), "no engine 'abacus'", "openvino")
    assert_refused(graphopt("bench", model, "--engine", "graphopt"), "no engine 'graphopt'")
    assert_refused(graphopt("bench", folder / "none.onnx"), "there is no such file")
    done = graphopt("bench", model, *QUICK, "--html", tmp_path / "none" / "page.html")
    assert_refused(done, "page.html", "can't be written")
