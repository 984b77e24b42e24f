"""Passes and pipelines: what a pass is, how it gets its name, how passes run in order."""

from graphopt.pipeline.base import Context, Pass, PatternPass
from graphopt.pipeline.instruments import Instrument, PassRun
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.registry import (
    instruments,
    load_plugin,
    passes,
    pipelines,
    register_instrument,
    register_pass,
    register_pipeline,
)
from graphopt.pipeline.report import PassRow, Report
from graphopt.pipeline.settings import Limits
from graphopt.verify.tolerance import Effect

__all__ = [
    "Context",
    "Effect",
    "Instrument",
    "Limits",
    "Pass",
    "PassRow",
    "PassRun",
    "PatternPass",
    "Pipeline",
    "Report",
    "instruments",
    "load_plugin",
    "passes",
    "pipelines",
    "register_instrument",
    "register_pass",
    "register_pipeline",
]
