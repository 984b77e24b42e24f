"""Passes and pipelines: what a pass is, how it gets its name, how passes run in order."""

from graphopt.pipeline.base import Context, Pass, PatternPass
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import load_plugin, passes, pipelines, register_pass, register_pipeline
from graphopt.pipeline.report import PassRow, Report
from graphopt.verify.tolerance import Effect

__all__ = [
    "Context",
    "Effect",
    "Pass",
    "PassRow",
    "PatternPass",
    "Pipeline",
    "Report",
    "load_plugin",
    "passes",
    "pipelines",
    "register_pass",
    "register_pipeline",
]
