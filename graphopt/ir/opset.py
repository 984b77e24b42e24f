"""Versions of ONNX's own operator set."""

from __future__ import annotations

CANONICAL_OPSET = 26
"""The opset that every graph is in; operators that are newer are carried through."""


def newest_opset() -> int:
    """The newest opset that the installed onnx package knows."""
    from onnx import defs

    return int(defs.onnx_opset_version())
