"""Which adapter brings which operator to which version."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.onnx_io.upgrade.legacy import Legacy

ADAPTERS: Mapping[tuple[str, int], Callable[[Legacy], None]] = {}
