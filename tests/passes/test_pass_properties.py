"""Random graphs: what holds of passes whatever the graph. That they keep its meaning is fuzzed in tests/testing."""

from __future__ import annotations

from graphopt_passes.fuse_regions import plan_regions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_graphs import apply, count, ops

from graphopt.analysis import ConstantNodes
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.testing import random_graphs

LIMITS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@LIMITS
@given(graph=random_graphs(), fuel=st.integers(0, 12))
def test_any_number_of_rewrites_leaves_a_good_graph(graph: Graph, fuel: int) -> None:
    """What bisection to a guilty rewrite stands on."""
    report = Pipeline.parse("O2").run(graph, fuel=fuel)
    assert report.rewrites <= fuel


@LIMITS
@given(graph=random_graphs())
def test_cleanup_comes_to_an_end(graph: Graph) -> None:
    apply(graph, "O1,O1")
    left = ops(graph)
    report = apply(graph, "O1")
    assert ops(graph) == left
    assert sum(row.rewrites for row in report.rows) == 0


@LIMITS
@given(graph=random_graphs(max_steps=14), limit=st.integers(2, 9))
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
