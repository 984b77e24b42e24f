"""``--report`` of ``opt`` and ``compile``, as processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.test_cli import assert_refused, folder, graphopt

__all__ = ["folder"]


def test_opt_writes_a_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    done = graphopt(
        "opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "--report", page, "-p", "fuse-matmul-bias"
    )
    assert done.returncode == 0 and done.stdout.endswith(f"wrote {tmp_path / 'o.onnx'}\nwrote {page}\n"), (
        done.stderr
    )
    text = page.read_text(encoding="utf-8")
    assert "<title>net.onnx · graphopt report</title>" in text and "Kernels" not in text
    assert sorted(os.listdir(tmp_path)) == ["o.onnx", "r.html"]


def test_compile_writes_kernels_for_each_target(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    done = graphopt(
        "compile", folder / "net.onnx", "-o", tmp_path / "o.gopt", "--report", page, "-t", "x86-64-v3", "-t", "x86-64-v4",
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith(f"wrote {page}\n"), done.stderr
    text = page.read_text(encoding="utf-8")
    for target in ("x86-64-v3", "x86-64-v4"):
        for tab in ("Passes", "Graphs", "Kernels"):
            assert f'data-title="{tab} · {target}"' in text
        assert f"<dt>target</dt><dd>{target}" in text
    assert text.count("<td>Gemm + Relu &quot;project&quot;</td>") == 2
    assert "<td>weights.bin</td>" in text and "compiling " in text


@pytest.mark.parametrize("command", ["opt", "compile"])
def test_a_page_that_can_not_be_written_is_refused_at_once(
    command: str, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / ("o.onnx" if command == "opt" else "o.gopt")
    arguments = (command, folder / "net.onnx", "-o", output, "--report")
    assert_refused(
        graphopt(*arguments, tmp_path / "none" / "r.html"), "r.html can't be written", "make it first"
    )
    assert_refused(graphopt(*arguments, tmp_path), f"{tmp_path} can't be written")
    assert_refused(graphopt(*arguments, output), f"{output} goes there")
    assert os.listdir(tmp_path) == []


def test_a_pass_that_fails_leaves_no_page(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import graphopt as go\n\n@go.register_pass('bad')\nclass Bad(go.Pass):\n"
        "    def run(self, rewriter, context):\n        raise ValueError('no')\n"
    )
    page = tmp_path / "r.html"
    done = graphopt(
        "opt", folder / "net.onnx", "-o", tmp_path / "o.onnx", "--plugin", tmp_path / "bad.py", "-p", "bad", "--report", page,
    )  # fmt: skip
    assert_refused(done, 'pass "bad"')
    assert not page.exists() and not (tmp_path / "o.onnx").exists()
