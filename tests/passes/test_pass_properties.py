"""Random graphs: every pass keeps a graph valid and its numbers what they were."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.fuse_regions import plan_regions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_graphs import apply, count, ops
from pass_strategies import graphs, inputs

from graphopt.analysis import ConstantNodes
from graphopt.evaluate import run
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline

LIMITS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def _assert_close(before: Graph, after: Graph, n: int, tolerance: float) -> None:
    wanted, given = run(before, inputs(n)), run(after, inputs(n))
    for name, expected in wanted.items():
        assert given[name].shape == expected.shape
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=1.0))
        np.testing.assert_allclose(
            given[name], expected, rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


@pytest.mark.parametrize(
    "name",
    ["eliminate-dead-code", "eliminate-common-subexpressions", "simplify-identities", "simplify-shapes",
     "fold-constants", "fuse-regions", "fuse-regions{max_ops=3}", "O1"],
)  # fmt: skip
@LIMITS
@given(graph=graphs(), n=st.sampled_from([1, 3]))
def test_exact_passes(name: str, graph: Graph, n: int) -> None:
    before = copy_graph(graph)
    apply(graph, name)
    _assert_close(before, graph, n, 0.0)


@pytest.mark.parametrize("name", ["fuse-conv-bn", "decompose-batch-norm", "fuse-matmul-bias", "O2"])
@LIMITS
@given(graph=graphs(), n=st.sampled_from([1, 3]))
def test_approximate_passes(name: str, graph: Graph, n: int) -> None:
    before = copy_graph(graph)
    apply(graph, name)
    _assert_close(before, graph, n, 2e-5)


@LIMITS
@given(graph=graphs(), fuel=st.integers(0, 12))
def test_any_number_of_rewrites_leaves_a_good_graph(graph: Graph, fuel: int) -> None:
    """What bisection to a guilty rewrite stands on."""
    before = copy_graph(graph)
    report = Pipeline.parse("O2").run(graph, fuel=fuel)
    assert report.rewrites <= fuel
    _assert_close(before, graph, 2, 2e-5)


@LIMITS
@given(graph=graphs())
def test_cleanup_comes_to_an_end(graph: Graph) -> None:
    apply(graph, "O1,O1")
    left = ops(graph)
    report = apply(graph, "O1")
    assert ops(graph) == left
    assert sum(row.rewrites for row in report.rows) == 0


@LIMITS
@given(graph=graphs(max_steps=24), limit=st.integers(2, 9))
def test_regions_are_disjoint_connected_and_have_one_way_out(graph: Graph, limit: int) -> None:
    before = count(graph)
    planned = plan_regions(graph.nodes, limit, ConstantNodes.of(graph))
    seen = [node for members in planned for node in members]
    assert len(seen) == len(set(seen))
    for members in planned:
        assert 2 <= len(members) <= limit
        inside, last = set(members), members[-1]
        for node in members[:-1]:
            assert all(use.user in inside for value in node.outputs for use in value.uses)
        assert any(use.user not in inside for value in last.outputs for use in value.uses)
    apply(graph, f"fuse-regions{{max_ops={limit}}}")
    assert count(graph) == before
