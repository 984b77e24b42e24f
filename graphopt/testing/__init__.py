"""For tests of graphs and passes: assertions, random graphs, and a plugin for pytest.

Names are loaded when they are first used: pytest imports this package wherever graphopt is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.testing.assertions import assert_graphs_equal, assert_same_outputs, rewrite_and_compare
    from graphopt.testing.draft import Draft
    from graphopt.testing.fuzzing.campaign import fuzz
    from graphopt.testing.fuzzing.check import Case, assert_keeps_meaning
    from graphopt.testing.fuzzing.graphs import random_graphs
    from graphopt.testing.fuzzing.sketch import Sketch
    from graphopt.testing.fuzzing.values import sample_inputs
    from graphopt.testing.snippets import graph_of

_HOME = {
    "Case": "graphopt.testing.fuzzing.check",
    "Draft": "graphopt.testing.draft",
    "Sketch": "graphopt.testing.fuzzing.sketch",
    "assert_graphs_equal": "graphopt.testing.assertions",
    "assert_keeps_meaning": "graphopt.testing.fuzzing.check",
    "assert_same_outputs": "graphopt.testing.assertions",
    "fuzz": "graphopt.testing.fuzzing.campaign",
    "graph_of": "graphopt.testing.snippets",
    "random_graphs": "graphopt.testing.fuzzing.graphs",
    "rewrite_and_compare": "graphopt.testing.assertions",
    "sample_inputs": "graphopt.testing.fuzzing.values",
}

__all__ = [
    "Case",
    "Draft",
    "Sketch",
    "assert_graphs_equal",
    "assert_keeps_meaning",
    "assert_same_outputs",
    "fuzz",
    "graph_of",
    "random_graphs",
    "rewrite_and_compare",
    "sample_inputs",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphopt.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
