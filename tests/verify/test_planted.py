"""Faults planted into built-in passes are traced to pass, rewrite, node and value, and can be seen again."""

from __future__ import annotations

import pytest
from planted import FAULTS, Fault, model

from graphopt.pipeline import Context, Pipeline
from graphopt.verify.fault import NumericFault


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_traced(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.parse(fault.pipeline)
    pipeline.run(model(fault.graph), verify="numeric")  # nothing is wrong before it is planted
    fault.plant(monkeypatch)
    with pytest.raises(NumericFault) as caught:
        pipeline.run(model(fault.graph), verify="numeric")
    found = caught.value
    assert found.rewrite is not None
    traced = (found.pass_name, found.rewrite.rule, found.rewrite.root, found.value)
    assert traced == (fault.guilty, fault.rule, fault.root, fault.value)
    reproducer = found.reproducer
    assert reproducer is not None
    with pytest.raises(NumericFault):
        Pipeline.parse(reproducer.pipeline).run(
            reproducer.graph, context=Context(inputs=[reproducer.inputs]), verify="numeric"
        )
