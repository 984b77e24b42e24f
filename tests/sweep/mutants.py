"""Damaged models: bits flipped, tails cut off, pieces exchanged, single fields changed.

Every mutant is a function of its number alone.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import onnx

import golden_models

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_LARGEST = 700_000
_STRUCTURED = (
    "loop", "scan", "if_", "expanded", "sequence", "optional", "split", "resize", "cast", "quantize", "lstm",
    "gru", "attention", "conv", "pool", "pad", "reshape", "gather", "slice", "gemm", "matmul", "einsum", "onehot",
    "range", "tile", "expand", "layer_normalization", "softmax", "topk", "unsqueeze", "nonmaxsuppression",
)  # fmt: skip
_INTEGERS = (0, 1, -1, 2, 3, 7, 1 << 31, (1 << 62) + 1, -(1 << 63), (1 << 63) - 1, 1000, 65)


@functools.cache
def _files() -> list[bytes]:
    """Whole networks."""
    paths = [golden_models.path("mnist"), golden_models.path("ppocr-cls")]
    paths += sorted((DATA / "light").glob("light_s*.onnx"))
    return [path.read_bytes() for path in paths if path.stat().st_size <= _LARGEST]


@functools.cache
def _small() -> list[bytes]:
    """Models of the onnx package, of a few nodes each."""
    kinds = ("simple", "pytorch-converted", "pytorch-operator")
    paths = [path for kind in kinds for path in sorted((DATA / kind).glob("*/model.onnx"))]
    return [path.read_bytes() for path in paths if path.stat().st_size <= _LARGEST]


@functools.cache
def _cases() -> list[bytes]:
    """Node cases with control flow, attributes and shapes worth damaging."""
    from tests.onnx_io.onnx_models import node_cases

    found = [case.model for name, case in node_cases().items() if any(part in name for part in _STRUCTURED)]
    return [model.SerializeToString() for model in found]


def source(rng: random.Random) -> bytes:
    """An undamaged model."""
    return rng.choice(rng.choice((_files(), _small(), _small(), _cases(), _cases())))


def mutant(number: int) -> tuple[str, bytes]:
    """What was done, and the model."""
    rng = random.Random(number)
    data = source(rng)
    kind = rng.choice((_flip, _flip, _truncate, _splice, _fields, _fields))
    return kind.__name__.strip("_"), kind(data, rng)


def _flip(data: bytes, rng: random.Random) -> bytes:
    """Bits in the structure rather than the weights, which fill most of a file, three times of four."""
    damaged = bytearray(data)
    places = _structure(data) if rng.random() < 0.75 else range(len(data))
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        damaged[rng.choice(places)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _structure(data: bytes) -> list[int]:
    """Positions outside of the raw data of weights."""
    model = onnx.load_from_string(data)
    hidden: list[range] = []
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64 and (at := data.find(tensor.raw_data)) >= 0:
            hidden.append(range(at, at + len(tensor.raw_data)))
    keep = bytearray(b"\1") * len(data)
    for span in hidden:
        keep[span.start : span.stop] = bytes(len(span))
    return [position for position, kept in enumerate(keep) if kept]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(data: bytes, rng: random.Random) -> bytes:
    """A piece left out, doubled, or taken from another model."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 4, 16, 64, 1024)))
    donor = source(rng)
    at = rng.randrange(len(donor))
    piece = rng.choice((b"", data[start:stop] * 2, donor[at : at + stop - start], bytes(stop - start)))
    return data[:start] + piece + data[stop:]


def _fields(data: bytes, rng: random.Random) -> bytes:
    """One to three fields of a well-formed model with another value."""
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not model.graph.node:
            break
        rng.choice(
            (_node_field, _node_field, _attribute, _attribute, _tensor_field, _value_info, _node_list)
        )(model.graph, rng)
    return bytes(model.SerializeToString())


def _names(graph: Any) -> list[str]:
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*names, *(info.name for info in graph.input), "", "no such value"]


def _node_field(graph: Any, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    fields = [f for f in (node.input, node.output) if f]
    match rng.randrange(5):
        case 0:
            node.op_type = rng.choice(
                [*(other.op_type for other in graph.node), "Add", "Shape", "Loop", "Foo"]
            )
        case 1:
            node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "nowhere"))
        case 2 if fields:
            del rng.choice(fields)[-1]
        case 3 if fields:
            rng.choice(fields).append(rng.choice(_names(graph)))
        case _ if fields:
            chosen = rng.choice(fields)
            chosen[rng.randrange(len(chosen))] = rng.choice(_names(graph))


def _attribute(graph: Any, rng: random.Random) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    if attribute.HasField("g") and rng.random() < 0.8:
        rng.choice((_node_field, _attribute, _tensor_field, _value_info))(attribute.g, rng) if (
            attribute.g.node
        ) else attribute.ClearField("g")
    elif attribute.ints and rng.random() < 0.6:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_INTEGERS)
    elif attribute.ints:
        attribute.ints.append(rng.choice(_INTEGERS))
    elif attribute.HasField("i"):
        attribute.i = rng.choice(_INTEGERS)
    elif attribute.HasField("s"):
        attribute.s = rng.choice((b"", b"SAME_UPPER", b"linear", b"\xff\xfe", b"i,i->"))
    elif attribute.HasField("t"):
        _damage_tensor(attribute.t, rng)
    else:
        attribute.type = rng.randrange(15)


def _tensor_field(graph: Any, rng: random.Random) -> None:
    if graph.initializer:
        _damage_tensor(rng.choice(graph.initializer), rng)


def _damage_tensor(tensor: Any, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            tensor.data_type = rng.randrange(30)
        case 1 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_INTEGERS)
        case 2 if tensor.raw_data:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
        case 2 if tensor.int64_data:
            tensor.int64_data[rng.randrange(len(tensor.int64_data))] = rng.choice(_INTEGERS)
        case _:
            tensor.name = rng.choice(("", "x", tensor.name + "_"))


def _value_info(graph: Any, rng: random.Random) -> None:
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = rng.choice(infos)
    tensor = info.type.tensor_type
    match rng.randrange(5):
        case 0:
            tensor.elem_type = rng.randrange(30)
        case 1 if tensor.shape.dim:
            rng.choice(tensor.shape.dim).dim_value = rng.choice(_INTEGERS)
        case 2 if tensor.shape.dim:
            rng.choice(tensor.shape.dim).dim_param = rng.choice(("N", "N+1", "?", "", "a b"))
        case 3 if tensor.shape.dim:
            del tensor.shape.dim[-1]
        case _:
            info.name = rng.choice(_names(graph))


def _node_list(graph: Any, rng: random.Random) -> None:
    index = rng.randrange(len(graph.node))
    match rng.randrange(4):
        case 0:
            del graph.node[index]
        case 1:
            graph.node.add().CopyFrom(graph.node[index])
        case 2:
            other = rng.randrange(len(graph.node))
            first, second = onnx.NodeProto(), onnx.NodeProto()
            first.CopyFrom(graph.node[index])
            second.CopyFrom(graph.node[other])
            graph.node[index].CopyFrom(second)
            graph.node[other].CopyFrom(first)
        case _:
            if graph.initializer:
                del graph.initializer[rng.randrange(len(graph.initializer))]
