"""Tuning: kernels made in other ways than the models of cost choose, timed on this machine, the faster ones kept."""

from __future__ import annotations

from graphopt.tune.cache import TuneCache, default_path
from graphopt.tune.result import KernelResult, Tuned
from graphopt.tune.search import refuse_target, tune_graph
from graphopt.tune.tuner import Tuner

__all__ = ["KernelResult", "TuneCache", "Tuned", "Tuner", "default_path", "refuse_target", "tune_graph"]
