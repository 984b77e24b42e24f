"""Normalization and softmax."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Attr, Value
from graphopt.onnx_io.upgrade.legacy import Legacy


def batch_normalization_9(node: Legacy) -> None:
    """``spatial=0`` normalizes each activation by statistics of its own, of shape ``(C, H, W)``:
    ``(x - mean) / sqrt(var + epsilon) * scale + bias``."""
    if node.take_number("spatial", 1):
        return
    if len(node.outputs) > 1:
        raise node.error("training with spatial=0 can't be represented")
    x, scale, bias, mean, var = (node.data(index) for index in range(5))
    epsilon = node.constant_like(node.take_float("epsilon", 1e-5), x, f"{node.outputs[0]}_epsilon")
    deviation = node.emit("Sqrt", node.emit("Add", var, epsilon))
    normal = node.emit("Div", node.emit("Sub", x, mean), deviation)
    node.replacement = node.emitter.emit(
        "Add", [node.emit("Mul", normal, scale), bias], outputs=[node.outputs[0]]
    )


def batch_normalization_14(node: Legacy) -> None:
    """More than one output meant training."""
    if len(node.outputs) > 3:
        raise node.error("the outputs saved_mean and saved_var can't be represented")
    if len(node.outputs) > 1:
        node.attrs["training_mode"] = 1


def group_normalization_21(node: Legacy) -> None:
    """Scale and bias for each group become ones for each channel: each is repeated C / groups times."""
    groups = node.number("num_groups", 1)
    shape = node.data().tensor.shape
    channels: Dim | None = shape[1] if shape is not None and len(shape) > 1 else None
    if isinstance(channels, int):
        repeats = node.constant([1, channels // max(groups, 1)])
    else:
        count = node.emit("Shape", node.data(), start=1, end=2)
        each = node.emit("Div", count, node.constant([groups]))
        repeats = node.emit("Concat", node.constant([1]), each, axis=0)
    for index in (1, 2):
        column = node.emit("Unsqueeze", node.data(index), node.constant([1]))
        node.inputs[index] = node.emit("Reshape", node.emit("Tile", column, repeats), node.constant([-1]))


def softmax_13(node: Legacy) -> None:
    """Softmax, LogSoftmax and Hardmax worked on all axes from ``axis`` on as if they were one."""
    axis = node.take_number("axis", 1)
    x = node.data()
    shape = x.tensor.shape
    if shape is not None and not -len(shape) <= axis < max(len(shape), 1):
        raise node.error(f"axis {axis} is out of range for an input of rank {len(shape)}")
    if axis == -1 or (shape is not None and all(dim == 1 for dim in shape[axis % max(len(shape), 1) + 1 :])):
        node.attrs["axis"] = axis
        return
    flat: dict[str, Attr] = {"axis": axis}
    target = node.emit("Shape", x)
    node.inputs[0] = node.emit("Flatten", x, **flat)
    node.attrs["axis"] = -1

    def restore(values: Sequence[Value], names: list[str]) -> Sequence[Value]:
        return node.emitter.emit("Reshape", [values[0], target], outputs=names)

    node.finish = restore
