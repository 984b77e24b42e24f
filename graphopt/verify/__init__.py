"""Proof by numbers: are the values of a graph what they were before a pass, and which rewrite changed them."""

from graphopt.verify.tolerance import Effect, Path, Tolerance, tolerance

__all__ = ["Effect", "Path", "Tolerance", "tolerance"]
