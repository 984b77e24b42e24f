"""The backend test cases of the onnx package through import, O2 and export, in ONNX Runtime or the
reference evaluator; and their text form there and back."""

from __future__ import annotations

import pytest

from graphopt.errors import ModelError
from graphopt.onnx_io import load
from tests.onnx_io.onnx_models import node_cases
from tests.sweep.backend_cases import Outcome, case_names, case_of, examine, untyped_values

SAMPLE = 12
"""One case of so many belongs to the suite; the sweep takes all."""
CHUNKS = 24

# The cases come in these numbers with onnx 1.23; were some not found, the bar would be met by leaving out.
LEAST = 2033

REFUSED = {
    "test_not_2d": "opset 1",  # The cases declare opset 1, in which Not is older than what is read.
    "test_not_3d": "opset 1",
    "test_not_4d": "opset 1",
}
"""The cases that are refused, and a word of the message."""

WRONG_AS_THEY_ARE = {"test_range_bfloat16_type_positive_delta_expanded"}
"""Cases that ONNX Runtime can't load, and for which the reference evaluator does not give what is
recorded even before anything is done to them."""


def report(outcomes: list[Outcome]) -> str:
    """One paragraph for each case that is not as it should be."""
    lines = []
    for outcome in outcomes:
        expected = REFUSED.get(outcome.name)
        if outcome.refused and (expected is None or expected not in outcome.refused):
            lines.append(f"{outcome.name} is refused: {outcome.refused}")
        if expected is not None and not outcome.refused:
            lines.append(f"{outcome.name} is not refused any more")
        if outcome.name not in WRONG_AS_THEY_ARE:
            lines += [f"{outcome.name}: {problem}" for problem in outcome.problems]
    return "\n".join(lines)


@pytest.mark.parametrize("chunk", range(4))
def test_sample_of_cases(chunk: int) -> None:
    names = case_names()[::SAMPLE][chunk::4]
    assert len(names) > 40
    problems = report([examine(name) for name in names])
    assert not problems, problems


@pytest.mark.parametrize("kept", [0, 1])
def test_sample_of_cases_with_constant_inputs(kept: int) -> None:
    names = list(node_cases())[5 :: 3 * SAMPLE]
    outcomes = [examine(name, kept) for name in names if name not in REFUSED]
    assert sum(bool(outcome.engines) for outcome in outcomes) > 25
    assert not report(outcomes), report(outcomes)


@pytest.mark.sweep
@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_all_cases_with_constant_inputs(chunk: int, kept: int) -> None:
    names = [name for name in list(node_cases())[chunk::CHUNKS] if name not in REFUSED]
    problems = report([examine(name, kept) for name in names])
    assert not problems, problems


@pytest.mark.sweep
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_all_cases(chunk: int) -> None:
    problems = report([examine(name) for name in case_names()[chunk::CHUNKS]])
    assert not problems, problems


@pytest.mark.sweep
def test_few_cases_are_refused_or_untyped() -> None:
    names = case_names()
    assert len(names) >= LEAST
    refused, untyped = [], []
    for name in names:
        try:
            graph = load(case_of(name).model)
        except ModelError:
            refused.append(name)
            continue
        if untyped_values(graph):
            untyped.append(name)
    assert len(refused) <= 0.03 * len(names), refused
    assert len(untyped) <= 0.03 * len(names), untyped


@pytest.mark.sweep
def test_cases_that_are_wrong_as_they_are() -> None:
    """Once the evaluator is right about them, they belong to the others."""
    for name in WRONG_AS_THEY_ARE:
        assert examine(name).problems, f"{name} is right now: take it off the list"
