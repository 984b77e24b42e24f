"""``graphopt new-pass``: what it writes passes ruff, mypy and its own test as it is, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def graphopt(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-c", "from graphopt.cli import main; main()", *args, cwd=cwd)


def python(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user in ``cwd`` does; its path does not hold the repository."""
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip


def assert_done(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pass of each kind, alone and as a package; ``x`` and ``rule`` are names that the text has too."""
    folder = tmp_path_factory.mktemp("new")
    assert_done(graphopt("new-pass", "x", cwd=folder))
    assert_done(graphopt("new-pass", "clip-to-min.2", "--kind", "whole-graph", cwd=folder))
    assert_done(graphopt("new-pass", "rule", "--package", cwd=folder))
    assert_done(
        graphopt("new-pass", "Packed-Clip", "--kind", "whole-graph", "--package", "-o", folder, cwd=folder)
    )
    return folder


ROOTS = {
    "": ["x.py", "test_x.py", "clip_to_min_2.py", "test_clip_to_min_2.py"],
    "rule": ["src", "tests"],
    "Packed-Clip": ["src", "tests"],
}


def test_what_is_written(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if "cache" not in name} == {
        *ROOTS[""],
        *(f"rule/{name}" for name in ("pyproject.toml", "src/rule/__init__.py", "src/rule/passes.py",
                                      "src/rule/py.typed", "tests/test_rule.py")),
        *(f"Packed-Clip/{name}" for name in ("pyproject.toml", "src/packed_clip/__init__.py",
                                             "src/packed_clip/passes.py", "src/packed_clip/py.typed",
                                             "tests/test_packed_clip.py")),
    }  # fmt: skip
    project = tomllib.loads((folder / "Packed-Clip" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"graphopt.passes": {"Packed-Clip": "packed_clip"}}


@pytest.mark.parametrize("root", ROOTS)
def test_ruff_has_nothing_to_say(root: str, folder: Path) -> None:
    rules = "E,F,I,B,UP,SIM,C4,RUF,PIE,RET,TID,ANN,D1"
    ignored = ("--ignore", "ANN401,D105,D107", "--per-file-ignores", "test_*:D103")
    check = ("-m", "ruff", "check", "--isolated", "--no-cache", "--select", rules, *ignored)
    assert_done(python(*check, *ROOTS[root], cwd=folder / root))
    for length in (88, 110):
        options = ("format", "--isolated", "--no-cache", "--check", "--line-length", length)
        assert_done(python("-m", "ruff", *options, *ROOTS[root], cwd=folder / root))


def test_mypy_has_nothing_to_say(folder: Path) -> None:
    sources = [folder / name for name in ROOTS[""]]
    sources += [folder / root / name for root in ("rule", "Packed-Clip") for name in ROOTS[root]]
    done = python("-m", "mypy", "--strict", "--cache-dir", folder / "cache", *sources, cwd=folder)
    assert "no issues found in 10 source files" in assert_done(done)


@pytest.mark.parametrize("root", ROOTS)
def test_their_tests_pass(root: str, folder: Path) -> None:
    tests = [name for name in ROOTS[root] if "test" in name]
    said = assert_done(python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=folder / root))
    assert ("6 passed" if not root else "3 passed") in said


def test_the_file_is_a_plugin(folder: Path) -> None:
    shown = assert_done(graphopt("passes", "x", "--plugin", "x.py", cwd=folder))
    assert "Replace -(-x) by x." in shown and "int, at least 0" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x"], "x.py and test_x.py: already there, and nothing is overwritten"),
        (["rule", "--package"], "rule: already there, and nothing is overwritten"),
        (["fuse-gelu"], 'the name "fuse-gelu" is taken by FuseGelu in '),
        (["O1"], 'the name "O1" is taken by '),
        (["json"], "there is a Python module json already"),
        (["class"], "'class' is no name for a pass: a Python keyword"),
        (["a b"], "'a b' is no name for a pass"),
        (["1abc"], "'1abc' is no name for a pass\nhint: begin with a letter"),
        (["a-"], "'a-' is no name for a pass"),
        (["y", "-o", "nowhere"], "y.py can't be written: there is no folder"),
        (["y", "--package", "-o", "x.py"], "y can't be written: there is no folder"),
        (["y", "--kind", "rule"], "--kind"),
    ],
)
def test_what_can_not_be_done(arguments: list[str], said: str, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = graphopt("new-pass", *arguments, cwd=folder)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
