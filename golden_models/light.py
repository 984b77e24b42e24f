"""Gives the "light" models of the onnx package weights that keep the network alive.

The package carries nine ImageNet architectures whose weights were replaced by `ConstantOfShape` of
0.02: every channel then computes the same number and all logits are equal, so that a wrong channel
order or a skipped kernel goes unseen. Here each such weight, and each small one that was kept, is
drawn anew, by the role that it plays for the node that reads it:

    Conv, Gemm weight      uniform with variance 2 / fan-in (He et al. 2015, arXiv:1502.01852, eq. 10),
                           the mean of each filter taken off: behind a Relu all inputs share a
                           positive mean, which otherwise drowns, layer by layer, what tells one
                           picture from another (0.02% of the spread of inception_v2's logits left)
    BatchNormalization     scale 0.5..1, bias and mean -0.05..0.05, variance 0.5..1.5
    Mul, Add of a channel  1..1.5, bias as above

The draw uses only the raw 64-bit stream of PCG64, integer arithmetic and correctly rounded products
and roots, so that every machine and NumPy release makes the same bits.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from golden_models.arrays import Array

if TYPE_CHECKING:
    import onnx

# What the last layer's weights are multiplied by, so that the logits have a spread of 1 to 3: wide
# enough to tell classes apart, narrow enough that Softmax does not reduce them to one 1 and zeros.
LOGIT_GAIN = {
    "resnet50": 8.0,
    "squeezenet": 32.0,
    "shufflenet": 8.0,
    "densenet121": 16.0,
    "inception_v1": 16.0,
    "inception_v2": 16.0,
    "bvlc_alexnet": 2.0,
    "zfnet512": 8.0,
    "vgg19": 16.0,
}

_RANGES = {
    "bias": (-0.05, 0.05),
    "scale": (0.5, 1.0),
    "mean": (-0.05, 0.05),
    "variance": (0.5, 1.5),
    "channel scale": (1.0, 1.5),
}
_ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 2): "bias",
    ("BatchNormalization", 3): "mean",
    ("BatchNormalization", 4): "variance",
    ("Mul", 1): "channel scale",
    ("Add", 1): "bias",
}


def stream(key: str, count: int) -> Array:
    """`count` integers (int64) in [-2**23, 2**23), a function of `key` alone."""
    raw = np.random.PCG64(zlib.crc32(key.encode())).random_raw((count + 1) // 2)
    # Two numbers of 24 bits, all that a float32 holds, from each 64-bit word.
    words = np.stack([raw >> np.uint64(40), (raw >> np.uint64(8)) & np.uint64(0xFFFFFF)], axis=1)
    return words.reshape(-1)[:count].astype(np.int64) - 2**23


def fill(source: Path, target: Path) -> None:
    """Read the light model `source` (a file named light_NAME.onnx), draw its weights, write `target`."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    shapes = {
        name: tuple(int(n) for n in arrays[node.input[0]])
        for name, node in makers.items()
        if node.op_type == "ConstantOfShape"
    } | {name: array.shape for name, array in arrays.items() if array.dtype == np.float32}

    drawn: dict[str, Array] = {}
    last_weight = ""
    for node in graph.node:
        for index, operand in enumerate(node.input):
            role = _ROLES.get((node.op_type, index))
            name = _origin(operand, makers)
            if role is None or name not in shapes:
                continue
            key, shape = f"{source.name}/{name}", shapes[name]
            if role == "weight":
                drawn[name] = _draw_weight(key, shape, _fan_axes(node, len(shape)))
                last_weight = name
            else:
                drawn[name] = _draw_channels(key, shape, *_RANGES[role])
    drawn[last_weight] = drawn[last_weight] * np.float32(LOGIT_GAIN[source.stem.removeprefix("light_")])
    _replace(model, drawn)
    onnx.save(model, target)


def _origin(operand: str, makers: dict[str, onnx.NodeProto]) -> str:
    """The tensor that `operand` is a reshaped view of."""
    while operand in makers and makers[operand].op_type in ("Unsqueeze", "Reshape"):
        operand = makers[operand].input[0]
    return operand


def _fan_axes(node: onnx.NodeProto, rank: int) -> tuple[int, ...]:
    """The axes of a weight that one output element sums over."""
    if node.op_type == "Conv":
        return tuple(range(1, rank))
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return (rank - 1,) if transposed else (rank - 2,)


def _draw_weight(key: str, shape: tuple[int, ...], fan_axes: tuple[int, ...]) -> Array:
    drawn = stream(key, int(np.prod(shape))).reshape(shape)
    fan_in = int(np.prod([shape[axis] for axis in fan_axes]))
    if fan_in > 1:
        drawn -= drawn.sum(axis=fan_axes, keepdims=True) // fan_in
    bound = np.sqrt(np.float32(6.0 / fan_in))  # uniform in +-a has variance a^2 / 3
    weight: Array = drawn.astype(np.float32) * (bound * np.float32(2.0**-23))
    return weight


def _draw_channels(key: str, shape: tuple[int, ...], low: float, high: float) -> Array:
    unit = (stream(key, int(np.prod(shape))) + 2**23).astype(np.float32) * np.float32(2.0**-24)
    return unit.reshape(shape) * np.float32(high - low) + np.float32(low)


def _replace(model: onnx.ModelProto, drawn: dict[str, Array]) -> None:
    """Make `drawn` initializers in place of what had their names, and drop what is then unread."""
    from onnx import numpy_helper

    graph = model.graph
    nodes = [node for node in graph.node if node.output[0] not in drawn]
    read = {operand for node in nodes for operand in node.input}
    kept = [t for t in graph.initializer if t.name in read and t.name not in drawn]
    constants = kept + [numpy_helper.from_array(array, name) for name, array in drawn.items()]
    names = {t.name for t in constants}
    inputs = [v for v in graph.input if v.name in read and v.name not in names]
    for field, items in ((graph.node, nodes), (graph.initializer, constants), (graph.input, inputs)):
        del field[:]
        field.extend(items)
    model.ir_version = 4  # the first in which an initializer need not also be an input
