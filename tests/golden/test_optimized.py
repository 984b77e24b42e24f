"""Optimized golden models, exported again, give in ONNX Runtime what the originals give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import golden_models
import graphopt as go
from golden_models import MODELS
from tests.golden.conftest import Reference

# Half of what a compiled artifact may be off. ONNX Runtime's own optimizations change the recogniser's
# probabilities by 6e-5 of the largest, and those of the other models by less than 1e-5.
TOLERANCE = 5e-5


@pytest.mark.parametrize(
    "name", [pytest.param(m.name, marks=[pytest.mark.sweep] * m.heavy) for m in MODELS.values()]
)
def test_o2_keeps_the_outputs(name: str, tmp_path: Path, reference: Reference) -> None:
    import onnxruntime as ort

    file = tmp_path / "optimized.onnx"
    go.save(go.optimize(go.load(golden_models.path(name)), "O2"), file)
    onnx.checker.check_model(file, full_check=True)
    assert file.stat().st_size <= 1.02 * MODELS[name].size + 65536, "optimizing inflated the model"

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(file, options)
    assert [value.name for value in session.get_outputs()] == list(MODELS[name].outputs)
    for seed in (0, 1):
        inputs = golden_models.example_inputs(name, seed)
        for ours, theirs in zip(session.run(None, inputs), reference(name, inputs), strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
