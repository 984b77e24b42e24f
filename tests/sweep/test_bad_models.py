"""Models made to be wrong end the command with code 2 and one clear paragraph, and nothing is written;
models that are dangerous to compute are carried through without being computed."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep.bad_models import REFUSED, TAKEN

MEMORY = 6 << 30
SECONDS = 60
"""Far more than any of these should take, with the start of Python."""


def graphopt(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with bounds on memory and time."""
    command = [sys.executable, "-c", "from graphopt.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


@pytest.mark.parametrize("name", REFUSED)
def test_bad_models_are_refused(name: str, tmp_path: Path) -> None:
    build, words = REFUSED[name]
    folder, results = tmp_path / "model", tmp_path / "results"
    folder.mkdir()
    results.mkdir()
    done = graphopt("opt", build(folder), "-o", results / "out.onnx")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert not list(results.iterdir())


def test_a_refusal_leaves_what_was_there(tmp_path: Path) -> None:
    build, _ = REFUSED["a cycle"]
    target = tmp_path / "out.onnx"
    target.write_bytes(b"precious")
    assert graphopt("opt", build(tmp_path), "-o", target).returncode == 2
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("name", TAKEN)
def test_dangerous_models_are_carried_through(name: str, tmp_path: Path) -> None:
    folder, target = tmp_path / "model", tmp_path / "out.onnx"
    folder.mkdir()
    source = TAKEN[name](folder)
    done = graphopt("opt", source, "-o", target)
    assert done.returncode == 0, done.stderr
    assert target.stat().st_size < 10 * source.stat().st_size


@pytest.mark.parametrize("name", ["an unknown operator", "a loop without end"])
def test_compile_refuses_what_it_has_no_kernel_for(name: str, tmp_path: Path) -> None:
    folder, results = tmp_path / "model", tmp_path / "results"
    folder.mkdir()
    results.mkdir()
    done = graphopt("compile", TAKEN[name](folder), "-o", results / "out.gopt")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert ("nowhere.Frobnicate" if "unknown" in name else "Loop") in done.stderr
    assert not list(results.iterdir())
