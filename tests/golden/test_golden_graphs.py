"""The text of each golden model after the named pipelines is the one in golden_models/graphs.

`--update-golden` writes those that changed; the change is then reviewed as a diff.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import golden_models
import graphopt as go
from graphopt.ir.printer import print_graph
from graphopt.testing.plugin import GoldenGraph
from tests.golden.fingerprint import differences, fingerprint, golden_text

MODELS = (
    "mnist",
    "ppocr-rec",
    "ppocr-cls",
    "minilm-int8",
    "magika",
    "silero-vad",
    "ddddocr",
    "light-resnet50",
    "light-squeezenet",
    "light-shufflenet",
)
PIPELINES = ("O1", "O2")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", MODELS)
def test_graph_is_the_expected_one(name: str, pipeline: str, root: Path, golden_graph: GoldenGraph) -> None:
    source = go.load(golden_models.path(name))
    before = print_graph(source)
    text = golden_text(go.optimize(source, pipeline), source)
    assert print_graph(source) == before, "optimize changed the graph it was given"

    golden_graph.text(text, root / "golden_models" / "graphs" / f"{name}.{pipeline}.gir", differences)


def test_no_stale_golden_graphs(root: Path) -> None:
    files = {file.name for file in (root / "golden_models" / "graphs").iterdir()}
    assert files == {f"{name}.{pipeline}.gir" for name in MODELS for pipeline in PIPELINES}


def test_rounding_is_no_difference() -> None:
    line = "const %b: f32[2] = [0.05387374, -1e-05] about %tmp_0.1 #12e4567890abcdef"
    assert not differences(line.replace("05387374", "05387375"), line)
    for other in (
        line.replace("0.0538", "0.0539"),
        line.replace("-1e", "1e"),
        line.replace("tmp_0.1", "tmp_0.10"),
        line.replace("#12e4", "#12e5"),
        line.replace("[2]", "[3]"),
        line + "\n" + line,
    ):
        assert differences(other, line)


def test_fingerprints_see_order_sign_and_scale() -> None:
    array = np.random.default_rng(0).standard_normal((64, 16, 3, 3)).astype(np.float32)
    print_of_array = fingerprint(array)
    assert not differences(fingerprint(np.nextafter(array, np.float32(9))), print_of_array)
    for other in (-array, array[::-1], array.transpose(0, 1, 3, 2), array * np.float32(1.001), array[:, :8]):
        assert differences(fingerprint(other), print_of_array)
