"""What the comparison says of engines that fail and of outputs that differ."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from graphopt.bench import compare
from graphopt.bench.compare import _relative_error
from graphopt.errors import EvaluationError


def test_an_engine_that_can_t_load_is_named_and_its_process_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(EvaluationError, match="onnxruntime could not run the model"):
        compare({"onnxruntime": tmp_path / "m.onnx"}, {"x": np.zeros(2, np.float32)})
    (process,) = started
    assert process.poll() is not None
    assert process.stdin is not None and process.stdin.closed
    assert process.stdout is not None and process.stdout.closed


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 3.0], [np.inf, 2.0], 0.5),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
        ([True, False], [True, True], 1.0),
        ([], [], 0.0),
    ],
)
def test_distance_of_outputs(actual: list[float], expected: list[float], error: float) -> None:
    assert _relative_error(np.array(actual), np.array(expected)) == error
