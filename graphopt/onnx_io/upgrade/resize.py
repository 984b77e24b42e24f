"""Upsample and Resize."""

from __future__ import annotations

import numpy as np

from graphopt.onnx_io.upgrade.legacy import Legacy


def upsample_9(node: Legacy) -> None:
    """``scales`` became an input."""
    scales = node.take_numbers("scales")
    if scales is None:
        raise node.error('attribute "scales" is missing')
    node.set_input(1, node.constant(scales, np.float32, f"{node.outputs[0]}_scales"))


def upsample_10(node: Legacy) -> None:
    """Resize took its place."""
    node.op = "Resize"


def resize_11(node: Legacy) -> None:
    """What opset 10 left open, as ONNX Runtime reads it: ``x / scale``, rounded down for nearest
    neighbours, or up where the image shrinks."""
    scales = node.data(1)
    node.inputs = [node.data(), None, scales]
    mode = node.attrs.get("mode", "nearest")
    if mode in ("bilinear", "trilinear"):
        node.attrs["mode"] = "linear"
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if mode != "nearest":
        return
    node.attrs["nearest_mode"] = "floor"
    data = node.const(2)
    factors = np.ones(0) if data is None else data.numpy().astype(np.float64)
    if not (factors < 1).any():
        return
    if (factors > 1).any():
        up = node.constant(np.maximum(factors, 1), np.float32, f"{node.outputs[0]}_up")
        node.inputs[0] = node.emit("Resize", node.data(), None, up, **node.attrs)
        node.inputs[2] = node.constant(np.minimum(factors, 1), np.float32, f"{node.outputs[0]}_down")
    node.attrs["nearest_mode"] = "ceil"


def resize_13(node: Legacy) -> None:
    """Empty tensors stood for absent inputs; a mode for nearest neighbours went away, which is
    another with its rounding shifted by a half: floor(x) = round(x - 1/2), ties up."""
    if node.input(3) is not None:
        node.inputs[2] = None
    mode = node.attrs.get("coordinate_transformation_mode")
    if mode != "tf_crop_and_resize" and node.input(1) is not None:
        node.inputs[1] = None
    if mode == "tf_half_pixel_for_nn":
        if node.attrs.get("mode", "nearest") != "nearest" or node.attrs.get("nearest_mode") != "floor":
            raise node.error(
                'coordinate_transformation_mode "tf_half_pixel_for_nn" needs nearest_mode "floor"'
            )
        node.attrs["coordinate_transformation_mode"] = "half_pixel"
        node.attrs["nearest_mode"] = "round_prefer_ceil"
