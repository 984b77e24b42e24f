"""Work grows in step with the model, and weights on disk stay there.

Seconds depend on what else the machine does, so these tests count calls of functions instead; the
seconds are printed by `python -m tests.sweep.scale`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.ir.verifier import verify
from graphopt.onnx_io import load, to_proto
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context, Pipeline
from tests.sweep.scale import BLOCK, deep_model, large_model, peak_of_opt

SMALL, LARGE = 800, 6400


def calls(work: Callable[[], Any]) -> int:
    """How many functions, of Python and of C, ``work`` calls."""
    count = 0

    def on_event(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def steps(model: onnx.ModelProto) -> dict[str, int]:
    """Calls of each step."""
    graphs: list[Any] = []
    counts = {"import": calls(lambda: graphs.append(load(model)))}
    (graph,) = graphs
    counts["verify"] = calls(lambda: verify(graph, SEMANTICS))
    counts["O2"] = calls(lambda: Pipeline.parse("O2").run(graph, context=Context()))
    counts["export"] = calls(lambda: to_proto(graph))
    return counts


def test_work_grows_linearly() -> None:
    steps(deep_model(BLOCK))  # What is imported or cached at first use.
    small, large = steps(deep_model(SMALL)), steps(deep_model(LARGE))
    for name, count in small.items():
        # The constant part of a step makes it grow more slowly than the model, never faster.
        assert large[name] <= 1.05 * count * LARGE / SMALL, (name, count, large[name])


def test_each_layer_becomes_one_region_behind_its_product() -> None:
    """Counts that the bar's times rest on: O2 really does the work."""
    graph = load(deep_model(SMALL))
    assert len(list(graph.walk())) == SMALL
    report = Pipeline.parse("O2").run(graph, context=Context())
    by_pass = {row.spec: row for row in report.rows}
    assert by_pass["fuse-regions"].rewrites == SMALL // BLOCK
    assert sum(row.nodes_before - row.nodes_after for row in report.rows if "identities" in row.spec) == (
        2 * SMALL // BLOCK
    ), "an Identity and a Transpose of each layer do nothing"
    assert all(node.is_fused for node in graph.body.nodes)
    assert len(list(graph.body.nodes)) == SMALL // BLOCK


def assert_lean(folder: Path, megabytes: int, most: int) -> None:
    """`graphopt opt` on so many megabytes of weights stays below ``most`` megabytes."""
    source, target = large_model(folder, megabytes // 64), folder / "out.onnx"
    peak = peak_of_opt(source, target)
    assert peak < most << 20, f"{peak / 1e6:.0f} MB at the peak"
    onnx.checker.check_model(str(target))
    written = onnx.load(target, load_external_data=False)
    places = [{e.key: e.value for e in tensor.external_data} for tensor in written.graph.initializer]
    assert sum(int(place["length"]) for place in places) == megabytes << 20
    data = {place["location"] for place in places}
    assert len(data) == 1
    (folder / data.pop()).unlink()


def test_weights_of_1_gb_stay_on_disk(tmp_path: Path) -> None:
    assert_lean(tmp_path, 1024, 400)


@pytest.mark.sweep
def test_weights_of_3_gb_stay_on_disk(tmp_path: Path) -> None:
    assert_lean(tmp_path, 3072, 1000)
