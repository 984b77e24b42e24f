"""Every code block of the README and of docs/ runs, in order, one namespace and one folder for each page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def _run_shell(example: Example) -> str | None:
    """Runs a ``sh`` block; its failure is the example's failure."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", str(example.parsed)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


PARSERS = [PythonCodeBlockParser(), CodeBlockParser("sh", _run_shell)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(p.relative_to(ROOT)) for p in DOCUMENTS])
def test_code_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks find ``model.onnx``, the small MNIST network, in their folder."""
    shutil.copy(ROOT / "golden_models" / "mnist" / "mnist.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    document = Sybil(parsers=PARSERS, path=str(path.parent)).parse(path)
    for example in document.examples():
        example.evaluate()


def test_no_block_of_an_unknown_language() -> None:
    """A misspelt language would be a block that no test runs."""
    known = {"python", "sh", "text", "gir", "json", ""}
    for path in DOCUMENTS:
        fence = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("```"):
                fence = not fence
                assert not fence or line[3:].strip() in known, f"{path.name}:{number}: {line}"


def test_every_pass_is_documented() -> None:
    """The page of passes has an entry for each built-in pass and pipeline."""
    from graphopt.pipeline import passes, pipelines

    page = (ROOT / "docs" / "passes.md").read_text()
    built_in = [name for name, kind in passes().items() if kind.__module__.startswith("graphopt_passes")]
    built_in += [name for name, kind in pipelines().items() if kind.module.startswith("graphopt_passes")]
    assert built_in
    for name in built_in:
        assert f"`{name}" in page, name


def test_operators_that_compile_are_listed() -> None:
    """The page of targets lists the operators that have kernels, no more and no fewer."""
    from graphopt.backend.emitters import EMITTERS
    from graphopt.backend.readers import READERS

    page = (ROOT / "docs" / "targets.md").read_text()
    listed = page.partition("Operators that have kernels")[2].split("```")[1].split()[1:]
    assert listed == sorted({*EMITTERS, *READERS})
