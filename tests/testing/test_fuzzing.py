"""Random graphs through the passes, and that faults planted in passes are found and shrunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from graphopt_passes.conditions import keeps_type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphopt as go
from graphopt.ir.graph import Graph, Value
from graphopt.ir.printer import print_graph
from graphopt.ir.verifier import verify
from graphopt.ops import SEMANTICS
from graphopt.pipeline import PatternPass, passes, registry
from graphopt.rewrite import Assumes, Match, Rule, const, op, var
from graphopt.testing import (
    Case,
    Sketch,
    assert_keeps_meaning,
    fuzz,
    graph_of,
    random_graphs,
    sample_inputs,
)
from graphopt.testing.fuzzing.__main__ import main
from graphopt.testing.fuzzing.check import Examination, cases, report
from graphopt.testing.fuzzing.choices import Recorder, Replay, shrink
from graphopt.testing.fuzzing.graphs import make_graph

X = var("x")
EXAMPLES = 30


def test_no_pass_changes_what_a_graph_means() -> None:
    """As `make fuzz` does with many more graphs."""
    campaign = fuzz(cases(package="graphopt_passes"), EXAMPLES, seed=1)
    assert not campaign.findings, report(campaign.findings[0])
    assert campaign.tally.refused.total() < EXAMPLES / 5
    assert campaign.tally.compared["bit by bit"] > 200 and campaign.tally.compared["up to roundings"] > 60
    built_in = [p for p in passes().values() if p.__module__.startswith("graphopt_passes")]
    rules = {rule.name for p in built_in if issubclass(p, PatternPass) for rule in p().rules()}
    fired = rules & set(campaign.tally.fired)
    assert len(fired) > 0.5 * len(rules), sorted(rules - fired)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(graph=random_graphs(), seed=st.integers(0, 20))
def test_the_strategy_gives_valid_graphs(graph: Graph, seed: int) -> None:
    verify(graph, SEMANTICS)
    for name, array in sample_inputs(graph, seed).items():
        assert np.shape(array) == np.shape(sample_inputs(graph, seed, wild=True)[name])
    assert_keeps_meaning("O1", graph, seed)


def test_the_same_numbers_make_the_same_graph() -> None:
    draw = Recorder(5)
    first = make_graph(draw)
    assert print_graph(make_graph(Replay(draw.drawn))) == print_graph(first)
    assert print_graph(make_graph(Recorder(5))) == print_graph(first)
    smallest = make_graph(Replay([]))
    assert len(smallest.nodes) == 1


def test_shrinking_leaves_what_fails() -> None:
    asked = []

    def fails(drawn: Sequence[int]) -> bool:
        asked.append(drawn)
        return sum(value > 10 for value in drawn) >= 2

    found = shrink([3, 40, 2, 2, 1, 99, 7, 12, 0] * 9, fails)
    assert len(found) == 2 and all(10 < value < 25 for value in found)
    assert len(asked) <= 400


# --- faults ---------------------------------------------------------------------------------------


def _swapped(rewriter: go.Rewriter, match: Match) -> Value:
    """y - x for x - y."""
    return rewriter.create("Add", [match["y"], rewriter.create("Neg", [match["x"]]).output]).output


def _difference(rewriter: go.Rewriter, match: Match) -> Value:
    """x - x for x * 0: never -0."""
    return rewriter.create("Sub", [match["x"], match["x"]]).output


def _affine(rewriter: go.Rewriter, match: Match) -> Value:
    """Normalization with twice the epsilon."""
    node, shape = match.root, match["x"].tensor.shape
    epsilon = node.attrs.get("epsilon", 1e-5)
    assert isinstance(epsilon, float) and shape is not None
    scale, bias, mean, var = (match.array(name) for name in ("scale", "bias", "mean", "var"))
    factor = scale / np.sqrt(var + 2 * epsilon)
    form = (-1, *(1,) * (len(shape) - 2))
    dtype = scale.dtype
    f, t = (rewriter.constant(v.reshape(form).astype(dtype)) for v in (factor, bias - mean * factor))
    return rewriter.create("Add", [rewriter.create("Mul", [match["x"], f]).output, t]).output


def _baked(rewriter: go.Rewriter, match: Match) -> Value:
    """A symbolic size taken for 2."""
    x = match["x"]
    target = [dim if isinstance(dim, int) else 2 for dim in x.tensor.shape or ()]
    moved = rewriter.create("Reshape", [x, rewriter.constant(np.array(target, np.int64))]).output
    return rewriter.create("Abs", [moved]).output


def is_dynamic(match: Match) -> str | None:
    """Why a value has no size to bake in, or more than one."""
    shape = match["x"].tensor.shape or ()
    return None if sum(not isinstance(dim, int) for dim in shape) == 1 else "not one unknown size"


def _raising(rewriter: go.Rewriter, match: Match) -> Value:
    raise ValueError("planted")


_statistics = [const(name) for name in ("scale", "bias", "mean", "var")]
ROUNDED = (Assumes.REASSOCIATION,)

FAULTS = {
    "swapped": (Rule("swapped", op("Sub", X, var("y")), _swapped), "differs"),
    "difference": (Rule("difference", op("Mul", X, const(value=0)), _difference, keeps_type), "differs"),
    "epsilon": (
        Rule("epsilon", op("BatchNormalization", X, *_statistics), _affine, None, ROUNDED),
        "differs",
    ),
    "baked": (Rule("baked", op("Relu", X), _baked, is_dynamic), "does not run"),
    "raising": (Rule("raising", op("Tanh", X), _raising), "fails"),
}


Plant = Callable[[Rule], str]


@pytest.fixture
def plant() -> Iterator[Plant]:
    """Registers a pass of one rule for the time of a test; gives its name."""
    names = []

    def register(rule: Rule) -> str:
        @go.register_pass(f"planted-{rule.name}")
        @dataclass(frozen=True)
        class Planted(PatternPass):
            """A pass with a fault."""

            effect = go.Effect.APPROXIMATE if Assumes.REASSOCIATION in rule.assumes else go.Effect.EXACT

            def rules(self) -> Sequence[Rule]:
                return [rule]

        names.append(Planted.name)
        return Planted.name

    yield register
    for name in names:
        del registry._passes[name]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_shrunk(fault: str, plant: Plant, tmp_path: Path) -> None:
    rule, kind = FAULTS[fault]
    findings = fuzz([Case(plant(rule))], 150, seed=3, max_steps=4).findings
    (finding,) = (found for found in findings if found.kind == kind)
    assert finding.rules in ((fault,), ())
    assert len(list(finding.graph.walk())) <= 5, report(finding)
    # What it prints shows it again.
    go.save(finding.graph, tmp_path / "small.gir")
    words = report(finding, str(tmp_path / "small.gir")).splitlines()[-1].split()[3:]
    again = CliRunner().invoke(main, [word.strip("'") for word in words])
    assert again.exit_code == 1 and again.output.startswith(f"1 finding\n{finding.case}: {kind}")


@pytest.mark.parametrize("assumes", [(), (Assumes.SIGN_OF_ZERO,)])
def test_what_a_rule_declares_is_not_held_against_it(assumes: tuple[Assumes, ...], plant: Plant) -> None:
    """A motif of our own makes it fire in nearly every graph."""

    def times_zero(s: Sketch) -> object:
        return s("Mul", s.value(), s.constant(kind="zeros"))

    rule = Rule("difference", op("Mul", X, const(value=0)), _difference, keeps_type, assumes)
    campaign = fuzz([Case(plant(rule))], 40, seed=2, motifs=[times_zero])
    assert campaign.tally.fired["difference"] > 30
    assert bool(campaign.findings) == (not assumes)


def test_a_zero_whose_sign_the_engine_loses_is_no_fault_of_a_pass(plant: Plant) -> None:
    """ONNX Runtime's Where gives +0.0 for a -0.0 of its first operand; the reference evaluator settles it."""
    graph = graph_of(
        """input %z: f32[2]  const %c: bool[2] = [true, true]  const %x: f32[2] = [-0.0, -0.0]
        %y = Where(%c, %x, %z)  %r = Reciprocal(%y)  return %r"""
    )
    examination = Examination(graph)
    assert examination.check(Case("simplify-identities")) is None
    assert examination.tally.compared["the engine differs, not the pass"] == 1
    wrong = Rule("wrong-one", op("Where", const(), var("a"), X), lambda _, match: match["x"])
    found = examination.check(Case(plant(wrong)))
    assert found is not None and found.kind == "differs"


def test_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--examples", "5", "--passes", "O1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("5 graphs") and "0 findings" in done.output
    assert not list(tmp_path.iterdir())


def test_compiled_graphs_give_what_the_engine_gives() -> None:
    campaign = fuzz([], 3, seed=11, compiled=True, max_steps=4)
    assert not campaign.findings, report(campaign.findings[0])
    assert campaign.tally.compared["up to roundings"] > 1
