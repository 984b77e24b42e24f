"""What the comparison says of engines that fail and of outputs that differ."""

from __future__ import annotations

import subprocess
import sys
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
    with pytest.raises(EvaluationError, match="onnxruntime could not run the model") as caught:
        compare({"onnxruntime": tmp_path / "m.onnx"}, {"x": np.zeros(2, np.float32)})
    assert "InvalidProtobuf" not in caught.value.message  # the class of the exception is nobody's business
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


def test_an_error_of_ours_in_an_engine_comes_over_whole(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        compare({"graphopt": tmp_path / "none.gopt"}, {"file": np.zeros(2, np.float32)})
    said = caught.value.message
    assert said.startswith(f"graphopt could not run the model: {tmp_path / 'none.gopt'} is not an artifact")
    assert "ArtifactError" not in said


def test_an_engine_whose_process_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EvaluationError, match="the process of onnxruntime ended with exit code 1"):
        compare({"onnxruntime": tmp_path / "m.onnx"}, {})
