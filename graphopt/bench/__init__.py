"""Side-by-side measurement: every engine in a process of its own, alone while it is timed."""

from __future__ import annotations

from graphopt.bench.compare import Comparison, EngineResult, compare

__all__ = ["Comparison", "EngineResult", "compare"]
