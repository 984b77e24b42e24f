"""Passes of a third party: a pattern, one over the whole graph, a pipeline and an instrument."""

from __future__ import annotations

import graphopt as go
from acme_passes import cut, mish, slowest

__all__ = ["cut", "mish", "slowest"]

go.register_pipeline("acme", "O1,fuse-mish", "O1, then Mish.")
