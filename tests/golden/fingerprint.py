"""Texts of graphs that can be compared across machines.

Computed floats differ in the last bit from CPU to CPU, and with them the hash that stands in the
text for a large constant. So a golden text shows such a constant by a fingerprint of a few numbers,
and floats in two texts are compared by distance, all else exactly. Constants that came with the
model were not computed: their hashes stay.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.printer import print_graph

RELATIVE_TOLERANCE = 1e-5
# Differences of rounding below this are of no account: biases that cancel to nearly nothing, say.
ABSOLUTE_TOLERANCE = 1e-6

_FLOAT = re.compile(r"(?<![\w.#%\"])-?(?:\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+)(?![\w.])")


def golden_text(graph: Graph, source: Graph) -> str:
    """The text of `graph`, which was made from `source`, with fingerprints for computed floats."""
    given = {value.const.digest for value in source.constants.values() if value.const is not None}
    text = print_graph(graph)
    for value in graph.constants.values():
        tensor = value.const
        if tensor is not None and tensor.dtype.is_float and tensor.digest not in given:
            text = text.replace(f"#{tensor.digest}", fingerprint(tensor.numpy()))
    return text


def fingerprint(array: np.ndarray[Any, Any]) -> str:
    """Root mean square, and the same after adding a fixed pattern, which tells order and sign."""
    flat = array.astype(np.float64).reshape(-1)
    rms = math.sqrt(np.mean(flat**2))
    pattern = np.random.PCG64(1).random_raw(flat.size) / 2.0**63 - 1.0
    mixed = math.sqrt(np.mean((flat + rms * pattern) ** 2))
    return f"~(rms {rms:.7e}, mixed {mixed:.7e})"


def differences(actual: str, expected: str) -> str:
    """A unified diff of the lines that differ by more than rounding; empty when none does."""
    ours, theirs = actual.splitlines(), expected.splitlines()
    if len(ours) == len(theirs):
        # Lines that are equal but for rounding are shown as they were, so that the diff is short.
        ours = [b if _equal(a, b) else a for a, b in zip(ours, theirs, strict=True)]
    return "\n".join(difflib.unified_diff(theirs, ours, "expected", "actual", lineterm="", n=1))


def _equal(one: str, other: str) -> bool:
    if one == other:
        return True
    if _FLOAT.sub("", one) != _FLOAT.sub("", other):
        return False
    return all(
        math.isclose(float(a), float(b), rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        for a, b in zip(_FLOAT.findall(one), _FLOAT.findall(other), strict=True)
    )
