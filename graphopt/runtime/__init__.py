"""Load and run compiled artifacts; imports neither onnx nor the compiler."""

from __future__ import annotations

from graphopt.runtime.executable import Executable, load
from graphopt.runtime.manifest import FORMAT_VERSION, Manifest, TensorSpec, Variant, WeightSpec

__all__ = ["FORMAT_VERSION", "Executable", "Manifest", "TensorSpec", "Variant", "WeightSpec", "load"]
