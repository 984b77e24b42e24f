"""graphopt: optimizes ONNX graphs by verified passes and compiles them ahead of time.

::

    import graphopt as go

    graph = go.optimize(go.load("model.onnx"), "O2")
    artifact = go.compile(graph, target="native")
    artifact.save("model.gopt")
    outputs = go.runtime.load("model.gopt")(x=array)

Names are loaded when they are first used, so importing graphopt is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt import runtime
    from graphopt.api import compile, from_onnx_ir, load, optimize, save, to_onnx_ir
    from graphopt.backend.artifact import Artifact
    from graphopt.diff import GraphDiff, diff
    from graphopt.errors import GraphoptError
    from graphopt.ir.graph import Graph
    from graphopt.ir.rewriter import Rewriter
    from graphopt.pipeline import (
        Context,
        Effect,
        Instrument,
        Pass,
        PatternPass,
        register_instrument,
        register_pass,
        register_pipeline,
    )
    from graphopt.rewrite import Rule
    from graphopt.targets import Target
    from graphopt.verify.fault import NumericFault

__version__ = "0.1.0"

_HOME = {
    "Artifact": "graphopt.backend.artifact",
    "Context": "graphopt.pipeline",
    "Effect": "graphopt.pipeline",
    "Graph": "graphopt.ir.graph",
    "GraphDiff": "graphopt.diff",
    "GraphoptError": "graphopt.errors",
    "Instrument": "graphopt.pipeline",
    "NumericFault": "graphopt.verify.fault",
    "Pass": "graphopt.pipeline",
    "PatternPass": "graphopt.pipeline",
    "Rewriter": "graphopt.ir.rewriter",
    "Rule": "graphopt.rewrite",
    "Target": "graphopt.targets",
    "compile": "graphopt.api",
    "diff": "graphopt.diff",
    "from_onnx_ir": "graphopt.api",
    "load": "graphopt.api",
    "optimize": "graphopt.api",
    "register_instrument": "graphopt.pipeline",
    "register_pass": "graphopt.pipeline",
    "register_pipeline": "graphopt.pipeline",
    "save": "graphopt.api",
    "to_onnx_ir": "graphopt.api",
}

__all__ = [
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
]


def __getattr__(name: str) -> Any:
    if name == "runtime":
        return importlib.import_module("graphopt.runtime")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
