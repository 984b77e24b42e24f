"""``graphopt run --emulate``"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.backend.emulation import EMULATED
from tests.cli.test_cli import assert_refused, folder, graphopt

__all__ = ["folder"]


@EMULATED
def test_aarch64_code_runs_under_emulation(folder: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    arm = tmp_path / "arm.gopt"
    assert graphopt("compile", folder / "net.onnx", "-t", "aarch64", "-o", arm).returncode == 0
    inputs = ("--inputs", tmp_path / "in.npz")
    done = graphopt("run", arm, "--emulate", *inputs, "-o", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    (expected,) = onnxruntime.InferenceSession(folder / "net.onnx").run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_allclose(archive["y"], expected, rtol=1e-5, atol=1e-5)
    done = graphopt("run", arm, "--emulate", "--random", "--dim", "n=6", "--json")
    assert json.loads(done.stdout)["outputs"][0]["type"] == "float32[6x3]"
    done = graphopt("run", arm, "--random")
    assert_refused(done, "aarch64 is for aarch64, this machine is", "--emulate", "--target native")
    done = graphopt("bench", folder / "net.onnx", "--artifact", arm)
    assert_refused(done, "aarch64 is for aarch64, this machine is")
    assert "TargetError" not in done.stderr
    assert_refused(graphopt("run", arm, "--emulate", "--threads", "2", "--random"), "--threads")
    assert_refused(graphopt("run", folder / "net.gopt", "--emulate", "--random"), "holds no aarch64 code")


def test_without_qemu_emulation_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = tmp_path / "arm.gopt"
    assert graphopt("compile", folder / "net.onnx", "-t", "aarch64", "-o", arm).returncode == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(graphopt("run", arm, "--emulate", "--random"), "qemu-aarch64-static", "apt install")
