"""The two engines, with their errors made ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError

_SILENT = 4


class OrtEngine:
    """ONNX Runtime on the CPU, its optimizations off, its log silent."""

    def __init__(self, model: bytes | Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # Packed ahead, a constant operand goes through other code than one that is computed, and rounds otherwise.
        options.add_session_config_entry("session.disable_prepacking", "1")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception.
            raise _located("ONNX Runtime can't load the graph", error) from error

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs called ``names``."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = _SILENT
        try:
            return list(self._session.run(list(names), dict(feeds), options))
        except Exception as error:
            raise _located("ONNX Runtime failed", error) from error


class ReferenceEngine:
    """ONNX's reference evaluator: slow, in NumPy, and with a kernel for nearly every element type."""

    def __init__(self, model: bytes | Path) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
            self._evaluator = ReferenceEvaluator(proto)
        except Exception as error:  # The evaluator raises whatever its Python code meets.
            raise _located("the reference evaluator can't load the graph", error) from error

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs called ``names``."""
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(self._evaluator.run(list(names), dict(feeds)))
        except Exception as error:
            raise _located("the reference evaluator failed", error) from error


def _located(what: str, error: Exception) -> EvaluationError:
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.search(r"running (\S+) node\. Name:'([^']*)' Status Message: (.*)", text)
    if found:
        op, name, text = found.groups()
        what = f'{what} at {op} "{name}"'
    if len(text) > 500:
        text = text[:500] + "..."
    return EvaluationError(f"{what}: {text}")
