"""What a machine offers: instruction set, vector registers, caches; and what this machine has."""

from __future__ import annotations

from graphopt.targets.host import host_caches, host_features, host_machine, missing_features
from graphopt.targets.target import Caches, Target

__all__ = ["Caches", "Target", "host_caches", "host_features", "host_machine", "missing_features"]
