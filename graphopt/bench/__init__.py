"""Side-by-side measurement: every engine in a process of its own, alone while it is timed."""

from __future__ import annotations

from graphopt.bench.compare import Comparison, EngineResult, compare
from graphopt.bench.engines import Engine, engines
from graphopt.bench.page import html_page
from graphopt.bench.report import Report

__all__ = ["Comparison", "Engine", "EngineResult", "Report", "compare", "engines", "html_page"]
