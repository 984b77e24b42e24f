"""Running needs no compiler, and running first does not get in the compiler's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


CALL = """
import sys, numpy as np
from graphopt import runtime
executable = runtime.load(sys.argv[1], threads=1)
assert executable(np.ones((2, 8), np.float32))[0].shape == (2, 8)
"""


def test_running_imports_neither_onnx_nor_the_compiler(toy_path: Path) -> None:
    loaded = run(CALL + "print(*sys.modules); print(open('/proc/self/maps').read())", str(toy_path))
    modules = loaded.splitlines()[0].split()
    for name in ("tvm", "onnx", "onnx_ir", "onnxruntime", "graphopt.backend", "graphopt_passes"):
        assert name not in modules
    assert "libtvm_runtime.so" in loaded and "libtvm_compiler" not in loaded


def test_compiling_works_after_running(toy_path: Path, root: Path) -> None:
    code = f"""
sys.path.insert(0, {str(root)!r})
from tests.backend import toys
artifact = toys.artifact(toys.scale_and_add(), np.ones((1, 8), np.float32), "x86-64-v3")
x = np.ones((2, 8), np.float32)
assert (artifact.load()(x)[0] == 2).all() and (executable(x)[1] == 1).all()
"""
    run(CALL + code, str(toy_path))


def test_running_works_after_importing_the_compiler(toy_path: Path) -> None:
    run("import tvm" + CALL, str(toy_path))
