"""Faults planted into the back end are traced to the kernel, and to its schedule or its lowering."""

from __future__ import annotations

import pytest
from broken_kernels import BROKEN, WEIGHTS, Broken, model

from graphopt.bisect.kernels import Making, Reference, kernel_fault
from graphopt.evaluate import example_inputs
from graphopt.pipeline import Context, Pipeline
from graphopt.targets import Target


@pytest.mark.parametrize("broken", BROKEN, ids=[broken.name for broken in BROKEN])
def test_a_broken_kernel_is_traced(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, target = model(broken.graph, **WEIGHTS.get(broken.name, {})), Target.parse("x86-64-v3")
    Pipeline.parse("O2").run(graph, context=Context(target=target))
    reference = Reference(graph, [example_inputs(graph, distinct=True)])
    broken.plant(monkeypatch)
    found = kernel_fault(graph, Making(target), reference)
    assert found is not None
    assert (found.region, found.value, found.blame, found.plainer) == (
        broken.region, broken.value, broken.blame, broken.plainer,
    ), found  # fmt: skip
