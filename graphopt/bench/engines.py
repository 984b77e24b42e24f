"""The engines that can be measured: each loads a file and gives a function from inputs to outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir.tensor import Array

Run = Callable[["dict[str, Array]"], "list[Array]"]


def load_graphopt(path: Path, threads: int) -> Run:
    """An artifact in graphopt's own runtime."""
    from graphopt import runtime

    executable = runtime.load(path, threads=threads)
    return lambda inputs: list(executable(inputs))


def load_onnxruntime(path: Path, threads: int) -> Run:
    """An ONNX model in ONNX Runtime with all its optimizations, on the CPU.

    Its threads don't spin while they wait, so that they don't disturb the other engines.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, inputs))


ENGINES: dict[str, Callable[[Path, int], Run]] = {
    "graphopt": load_graphopt,
    "onnxruntime": load_onnxruntime,
}
