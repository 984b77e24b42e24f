"""Shared by the tests on golden models: ONNX Runtime as the reference, and compiled artifacts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden_models

Arrays = Mapping[str, np.ndarray[Any, Any]]
Reference = Callable[[str, Arrays], list[np.ndarray[Any, Any]]]
Load = Callable[[str], Any]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """(model, inputs) -> outputs of ONNX Runtime with its graph optimizations off."""
    import onnxruntime as ort

    sessions: dict[str, Any] = {}

    def run(name: str, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        if name not in sessions:
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            sessions[name] = ort.InferenceSession(golden_models.path(name), options)
        return list(sessions[name].run(None, dict(inputs)))

    return run


@pytest.fixture(scope="module")
def load_compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """model -> its artifact after O2 for this CPU, loaded; compiled once for all test workers."""
    import graphopt as go

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            artifact = folder / f"{name}.gopt"
            with _locked(folder / f"{name}.lock"):
                if not artifact.exists():
                    graph = go.optimize(go.load(golden_models.path(name)), "O2", target="native")
                    go.compile(graph, target="native").save(artifact)
            loaded[name] = go.runtime.load(artifact, threads=1)
        return loaded[name]

    yield load
    for executable in loaded.values():
        executable.close()


class _locked:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "w")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
