"""The names that users may rely on; a change here is a change of the stability promise."""

from __future__ import annotations

import subprocess
import sys

import graphopt as go

NAMES = {
    "Artifact",
    "Context",
    "Effect",
    "Graph",
    "GraphDiff",
    "GraphoptError",
    "Instrument",
    "NumericFault",
    "Pass",
    "PatternPass",
    "Rewriter",
    "Rule",
    "Target",
    "__version__",
    "compile",
    "diff",
    "from_onnx_ir",
    "load",
    "optimize",
    "register_instrument",
    "register_pass",
    "register_pipeline",
    "runtime",
    "save",
    "to_onnx_ir",
}


def test_public_names() -> None:
    assert set(go.__all__) == NAMES == set(dir(go))
    assert all(getattr(go, name) is not None for name in NAMES)


def _modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    assert not _modules_after("import graphopt") & {"numpy", "onnx", "tvm", "onnxruntime", "networkx"}


def test_help_loads_no_heavy_library() -> None:
    loaded = _modules_after("from graphopt.cli.app import app; app(['--help'], standalone_mode=False)")
    assert not loaded & {"numpy", "onnx", "tvm", "onnxruntime", "networkx", "rich"}


def test_running_needs_no_compiler() -> None:
    loaded = _modules_after("import graphopt.runtime")
    assert not loaded & {"onnx", "tvm", "onnxruntime", "graphopt_passes", "graphopt.backend"}
