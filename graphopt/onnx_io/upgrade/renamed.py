"""Operators and attribute values that got another name, and defaults that changed."""

from __future__ import annotations

from graphopt.onnx_io.upgrade.legacy import Legacy


def scatter_11(node: Legacy) -> None:
    """ScatterElements took its place."""
    node.op = "ScatterElements"


def roi_align_16(node: Legacy) -> None:
    """Coordinates were not shifted by half a pixel, which became the default."""
    node.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


def grid_sample_20(node: Legacy) -> None:
    """Modes that don't name the number of axes."""
    mode = node.attrs.get("mode", "bilinear")
    node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(str(mode), mode)
