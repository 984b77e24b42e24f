"""What is not a number stays visible: activations must not turn it into a bound."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt as go
from graphopt.ir.parser import parse_graph

BODIES = {
    "Relu": "%y: f32[20] = Relu(%x)",
    "Clip": "%y: f32[20] = Clip(%x, %low, %high)",
    "HardSigmoid": "%y: f32[20] = HardSigmoid(%x)",
}


@pytest.mark.parametrize("op", BODIES)
def test_nan_passes_through(op: str) -> None:
    graph = parse_graph(f"""gir 1
graph "nan" opset 26 {{
  input %x: f32[20]
  const %low: f32[] = -1
  const %high: f32[] = 1
  {BODIES[op]}
  return %y as "y"
}}
""")
    x = np.linspace(-2, 2, 20, dtype=np.float32)
    x[[0, 7, 19]] = np.nan
    (y,) = go.compile(graph, "native").load()(x)
    assert np.isnan(y).tolist() == np.isnan(x).tolist()
    assert np.nanmin(y) >= -1 and np.nanmax(y) <= (2 if op == "Relu" else 1)
