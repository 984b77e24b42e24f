"""Attributes that became inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.graph import Value
from graphopt.ir.types import DType
from graphopt.onnx_io.upgrade.legacy import Legacy


def slice_10(node: Legacy) -> None:
    """``starts``, ``ends`` and ``axes``."""
    starts, ends, axes = (node.take_numbers(name) for name in ("starts", "ends", "axes"))
    if starts is None or ends is None or len(starts) != len(ends):
        raise node.error('attributes "starts" and "ends" must be there and of one length')
    node.set_input(1, node.constant(starts))
    node.set_input(2, node.constant(ends))
    if axes is not None:
        node.set_input(3, node.constant(axes))


def topk_10(node: Legacy) -> None:
    """``k``."""
    if "k" not in node.attrs:
        raise node.error('attribute "k" is missing')
    node.set_input(1, node.constant([node.take_number("k", 1)]))


def clip_11(node: Legacy) -> None:
    """``min`` and ``max``; one that was not given stays open."""
    for index, name in ((1, "min"), (2, "max")):
        if name in node.attrs:
            limit = node.take_float(name, 0.0)
            node.set_input(index, node.constant_like(limit, node.data(), f"{node.outputs[0]}_{name}"))


def pad_11(node: Legacy) -> None:
    """``pads`` and ``value``."""
    pads = node.take_numbers("pads")
    if pads is None:
        raise node.error('attribute "pads" is missing')
    value = node.take_float("value", 0.0)
    node.set_input(1, node.constant(pads))
    if node.attrs.get("mode", "constant") == "constant" and value:
        node.set_input(2, node.constant_like(value, node.data(), f"{node.outputs[0]}_value"))


def dropout_10(node: Legacy) -> None:
    """The mask was of the type of the data and became boolean."""
    if len(node.outputs) < 2:
        return
    dtype = node.data().tensor.dtype or DType.F32

    def cast_mask(values: Sequence[Value], names: list[str]) -> Sequence[Value]:
        mask = node.emitter.emit("Cast", [values[1]], {"to": dtype.value}, outputs=[names[1]])
        return [values[0], *mask]

    node.finish = cast_mask


def dropout_12(node: Legacy) -> None:
    """``ratio``; what it drops is none of inference's business."""
    node.set_input(1, node.constant(node.take_float("ratio", 0.5), np.float32, f"{node.outputs[0]}_ratio"))


def axes_input(node: Legacy) -> None:
    """``axes`` of Squeeze, Unsqueeze and the reductions; an empty list is as none."""
    axes = node.take_numbers("axes")
    if axes:
        node.set_input(1, node.constant(axes, hint=f"{node.outputs[0]}_axes"))


def split_13(node: Legacy) -> None:
    """``split``."""
    sizes = node.take_numbers("split")
    if sizes:
        node.set_input(1, node.constant(sizes, hint=f"{node.outputs[0]}_split"))


def split_18(node: Legacy) -> None:
    """Equal parts must be counted."""
    if node.input(1) is None:
        node.attrs["num_outputs"] = len(node.outputs)


def dft_20(node: Legacy) -> None:
    """``axis``, whose default was 1."""
    axis = node.take_number("axis", 1)
    node.set_input(2, node.constant(axis, hint=f"{node.outputs[0]}_axis"))
