"""Builds the wheel and tries it in fresh environments of every Python 3.11 to 3.13 found: `make wheel-test`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
SCRIPT = """
import sys
import numpy as np
import onnxruntime
import graphopt as go

graph = go.optimize(go.load(sys.argv[1]), "O2", target="native")
go.compile(graph, "native").save("smoke.gopt")
x = np.linspace(-1, 1, 4 * 784, dtype=np.float32).reshape(4, 1, 28, 28)
(actual,) = go.runtime.load("smoke.gopt")(x)
(expected,) = onnxruntime.InferenceSession(sys.argv[1]).run(None, {graph.inputs[0].name: x})
np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
print("ok on Python", sys.version.split()[0])
"""


def find_python(version: str) -> str | None:
    """An interpreter of this version that starts (a version manager's shim may not)."""
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")),
    ]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return candidate
    return None


def try_wheel(wheel: Path, python: str) -> None:
    """Installs ``wheel`` with its pinned dependencies and nothing of this checkout, and runs the script."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        inner = f"{folder}/venv/bin/python"
        subprocess.run([inner, "-m", "pip", "install", "-q", f"{wheel}[zig]"], check=True)
        model = ROOT / "golden_models" / "mnist" / "mnist.onnx"
        subprocess.run([inner, "-c", SCRIPT, str(model)], check=True, cwd=folder)
        subprocess.run(
            [f"{folder}/venv/bin/graphopt", "passes"], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )


def main() -> int:
    """Exit code 0 when the wheel works on every Python that was found, and one was."""
    pythons = {version: find_python(version) for version in VERSIONS}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)], check=True
        )
        (wheel,) = Path(folder).glob("graphopt-*.whl")
        for version, python in pythons.items():
            if python is None:
                print(f"Python {version}: not found on this machine, not tried")
            else:
                try_wheel(wheel, python)
    return 0 if any(pythons.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
