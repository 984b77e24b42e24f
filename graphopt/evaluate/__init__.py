"""Runs graphs in ONNX Runtime or in ONNX's reference evaluator: folding, calibration, verification."""

from graphopt.evaluate.constants import evaluate_nodes
from graphopt.evaluate.examples import example_inputs
from graphopt.evaluate.inputs import check_inputs
from graphopt.evaluate.session import Session, run

__all__ = ["Session", "check_inputs", "evaluate_nodes", "example_inputs", "run"]
