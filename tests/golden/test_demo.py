"""`make demo` reads its line, and would say so if the two engines differed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golden_models import demo, lettering
from tests.golden.conftest import Reference

TIMES = {"graphopt": 1.0, "onnxruntime": 2.0}


def test_the_demo_reads_its_line(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "golden_models.demo", "Invoice #2026-0815"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'Invoice #2026-0815'") == 2
    assert "The outputs agree" in done.stdout


def test_the_demo_tells_differences(reference: Reference, capsys: pytest.CaptureFixture[str]) -> None:
    (right,) = reference("ppocr-rec", {"x": lettering.render("Mind the gap")})
    (other,) = reference("ppocr-rec", {"x": lettering.render("404 Not Found")})
    assert demo._report(right, right, TIMES)
    assert demo._report(right + np.float32(5e-5), right, TIMES)
    assert not demo._report(right + np.float32(5e-4), right, TIMES)
    assert not demo._report(other, right, TIMES)
