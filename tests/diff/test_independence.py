"""A graph equals itself, whatever its internal names and the order of its nodes; one change is found alone."""

from __future__ import annotations

import random

import graph_strategies
import pytest
from disguise import MUTATIONS, disguise, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import golden_models
import graphopt as go
from graphopt.diff import diff
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph
from graphopt.testing import random_graphs
from tests.golden.test_golden_graphs import MODELS

SEEDS = st.integers(0, 2**32)
EXAMPLES = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", MODELS)
def test_golden_models_equal_themselves_in_disguise(name: str) -> None:
    graph = go.load(golden_models.path(name))
    assert not diff(graph, disguise(graph))
    after = go.optimize(graph, "O2", verify="off")
    found = diff(after, disguise(after, 1))
    assert found.equal and len(found.partners) == len(list(after.walk()))
    assert diff(graph, after).equal is False


def check_equal(graph: Graph, seed: int) -> None:
    found = diff(graph, disguise(graph, seed))
    assert found.equal, found.text()
    assert len(found.partners) == len(list(graph.walk()))


def check_mutations(graph: Graph, seed: int) -> None:
    rng = random.Random(seed)
    for kind in MUTATIONS:
        before = copy_graph(graph)
        after = copy_graph(before)
        mutation = mutate(before, after, kind, rng)
        if mutation is not None:
            found = diff(before, after)
            assert mutation.is_found(found), f"{kind}: {mutation.what}\n{found.text()}"


@settings(EXAMPLES, max_examples=300)
@given(random_graphs(), SEEDS)
def test_random_networks(graph: Graph, seed: int) -> None:
    check_equal(graph, seed)
    check_mutations(graph, seed)


@settings(EXAMPLES, max_examples=200)
@given(graph_strategies.graphs(), SEEDS)
def test_random_graphs_of_every_kind(graph: Graph, seed: int) -> None:
    check_equal(graph, seed)
    check_mutations(graph, seed)


@pytest.mark.sweep
@settings(EXAMPLES, max_examples=500)
@given(random_graphs(), SEEDS, st.sampled_from(["", "O1", "O2"]))
def test_500_random_networks_before_and_after_passes(graph: Graph, seed: int, pipeline: str) -> None:
    graph = go.optimize(graph, pipeline, verify="off") if pipeline else graph
    check_equal(graph, seed)
    check_mutations(graph, seed)


@pytest.mark.sweep
@settings(EXAMPLES, max_examples=500)
@given(graph_strategies.graphs(), SEEDS)
def test_500_random_graphs_of_every_kind(graph: Graph, seed: int) -> None:
    check_equal(graph, seed)
    check_mutations(graph, seed)
