"""Every built-in pass and pipeline over the backend test cases of the onnx package, before and after."""

from __future__ import annotations

import logging
import warnings

import pytest

from graphopt.errors import ModelError
from graphopt.onnx_io import load
from graphopt.testing.fuzzing.check import Examination, Tally, cases
from tests.onnx_io.onnx_models import node_cases
from tests.sweep.backend_cases import RANDOM, case_of, with_constants

CHUNKS = 24
SAMPLE = 20
"""One case of so many belongs to the suite; the sweep takes all."""


def examine(name: str, kept: int | None, tally: Tally) -> list[str]:
    """What is wrong with any pass on the case; ``kept``: how many inputs are not made constants, None: all."""
    case = case_of(name)
    if kept is not None:
        changed = with_constants(case, kept)
        if changed is None:
            return []
        case = changed
    try:
        graph = load(case.model)
    except ModelError:
        return []
    weights = {tensor.name for tensor in case.model.graph.initializer}
    names = [value.name for value in graph.inputs if value.name not in weights]
    inputs, _ = case.data[0]
    examination = Examination(graph, samples=[dict(zip(names, inputs, strict=False))], tally=tally)
    found = (examination.check(each) for each in cases(package="graphopt_passes"))
    return [f"{name} ({kept}): {finding}" for finding in found if finding is not None]


def examine_all(names: list[str], kept: int | None) -> tuple[list[str], Tally]:
    """What is wrong on any of the cases, and the counts."""
    logging.disable(logging.WARNING)
    tally, wrong = Tally(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for name in names:
            if name not in RANDOM:
                wrong += examine(name, kept, tally)
    logging.disable(logging.NOTSET)
    return wrong, tally


@pytest.mark.parametrize("kept", [None, 0, 1])
def test_sample(kept: int | None) -> None:
    wrong, tally = examine_all(list(node_cases())[3::SAMPLE], kept)
    assert not wrong, "\n".join(wrong)
    assert tally.graphs > 60 and tally.compared.total() > 60


@pytest.mark.sweep
@pytest.mark.parametrize("kept", [None, 0, 1])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_all(chunk: int, kept: int | None) -> None:
    wrong, _ = examine_all(list(node_cases())[chunk::CHUNKS], kept)
    assert not wrong, "\n".join(wrong)
