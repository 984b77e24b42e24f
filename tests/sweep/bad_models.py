"""Models made by hand to be wrong, or right and dangerous, each written into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HUGE = 1 << 62
Build = Callable[[Path], Path]


def write(
    folder: Path,
    nodes: Sequence[Any],
    weights: Sequence[Any] = (),
    *,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> Path:
    """A model with input "x" and output "y", both of four floats, if not said otherwise."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])] if inputs is None else inputs
    wanted = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)] if outputs is None else outputs
    graph = helper.make_graph(list(nodes), "g", list(given), list(wanted), list(weights))
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    path = folder / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def constant(name: str, data: Any, dtype: Any = np.float32) -> Any:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(data, dtype), name)


def info(name: str, dtype: int = TensorProto.FLOAT, shape: Any = None) -> Any:
    """The declaration of a value."""
    return helper.make_tensor_value_info(name, dtype, shape)


def claimed(name: str, dims: Sequence[int], dtype: int = TensorProto.FLOAT, data: bytes = b"") -> Any:
    """An initializer whose dimensions need not fit its data."""
    return TensorProto(name=name, data_type=dtype, dims=list(dims), raw_data=data)


def external(location: str, **entries: int) -> Any:
    """An initializer "w" of four floats in a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"], name="sum")


def _outside(folder: Path) -> Path:
    (folder.parent / f"{folder.name}.bin").write_bytes(bytes(16))
    return write(folder, [ADD], [external(f"../{folder.name}.bin")])


def _absolute(folder: Path) -> Path:
    (folder / "w.bin").write_bytes(bytes(16))
    return write(folder, [ADD], [external(str(folder / "w.bin"))])


def _link(folder: Path) -> Path:
    target = folder.parent / f"{folder.name}.bin"
    target.write_bytes(bytes(16))
    (folder / "w.bin").symlink_to(target)
    return write(folder, [ADD], [external("w.bin")])


def _past_the_end(folder: Path) -> Path:
    (folder / "w.bin").write_bytes(bytes(16))
    return write(folder, [ADD], [external("w.bin", offset=8, length=16)])


def _negative_offset(folder: Path) -> Path:
    (folder / "w.bin").write_bytes(bytes(16))
    return write(folder, [ADD], [external("w.bin", offset=-16)])


def _cycle(folder: Path) -> Path:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    return write(folder, nodes)


def nested(depth: int) -> Any:
    """An If in the branch of an If, and so on."""
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "leaf", [], [info("y")])
    for level in range(depth):
        branches = {"then_branch": graph, "else_branch": graph} if level == 0 else {"then_branch": graph}
        if level:
            leaf = helper.make_graph(
                [helper.make_node("Abs", ["x"], [f"e{level}"])], "e", [], [info(f"e{level}")]
            )
            branches["else_branch"] = leaf
        node = helper.make_node("If", ["c"], [f"y{level}"], **branches)
        graph = helper.make_graph([node], f"l{level}", [], [info(f"y{level}")])
    return graph


def _nested(folder: Path) -> Path:
    graph = nested(25)
    return write(
        folder,
        graph.node,
        inputs=[info("x", shape=[4]), info("c", TensorProto.BOOL, [])],
        outputs=graph.output,
    )


def _recursion(folder: Path) -> Path:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", "F", ["a"], ["b"], [helper.make_node("G", ["a"], ["b"], domain="own")], opsets
        ),
        helper.make_function(
            "own", "G", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], opsets
        ),
    ]
    node = helper.make_node("F", ["x"], ["y"], domain="own")
    return write(folder, [node], functions=functions, domains=["own"])


def _doubling(folder: Path) -> Path:
    """Functions of which each calls the next twice: 2^40 nodes when they are inlined."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for i in range(40):
        op, domain = ("Relu", "") if i == 39 else (f"F{i + 1}", "own")
        body = [
            helper.make_node(op, ["a"], ["b"], domain=domain),
            helper.make_node(op, ["b"], ["c"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"F{i}", ["a"], ["c"], body, opsets))
    node = helper.make_node("F0", ["x"], ["y"], domain="own")
    return write(folder, [node], functions=functions, domains=["own"])


def _fold(op: str, *data: Any, dtype: Any = np.int64, **attrs: Any) -> Build:
    """A model in which the largest element of ``op`` of constants is added to the input."""

    def build(folder: Path) -> Path:
        names = [f"c{i}" for i in range(len(data))]
        nodes = [
            helper.make_node(op, names, ["folded"], name="danger", **attrs),
            helper.make_node("Cast", ["folded"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["cast"], ["most"], keepdims=0),
            helper.make_node("Add", ["x", "most"], ["y"]),
        ]
        return write(folder, nodes, [constant(n, d, dtype) for n, d in zip(names, data, strict=True)])

    return build


REFUSED: dict[str, tuple[Build, str]] = {
    "an empty file": (lambda folder: _bytes(folder, b""), "not an ONNX model"),
    "a text file": (lambda folder: _bytes(folder, b"hello there, this is text\n" * 20), "not an ONNX model"),
    "a folder": (lambda folder: folder, "is a folder, not a model"),
    "no file": (lambda folder: folder / "none.onnx", "no such file"),
    "external data above the folder": (_outside, "outside the folder"),
    "external data at an absolute path": (_absolute, "outside the folder"),
    "external data behind a link": (_link, "outside the folder"),
    "external data past the end of the file": (_past_the_end, '"w"'),
    "external data before the file": (_negative_offset, '"w"'),
    "a cycle": (_cycle, "cycle"),
    "a missing initializer": (lambda folder: write(folder, [ADD]), '"w", which nothing defines'),
    "two types in a sum": (lambda folder: write(folder, [ADD], [constant("w", [1], np.int64)]), 'Add "sum"'),
    "shapes that don't broadcast": (
        lambda folder: write(folder, [ADD], [constant("w", [1, 2, 3])]),
        'Add "sum"',
    ),
    "a wrong attribute": (
        lambda folder: write(folder, [helper.make_node("Softmax", ["x"], ["y"], name="soft", axis=0.5)]),
        'Softmax "soft"',
    ),
    "an unknown attribute": (
        lambda folder: write(folder, [helper.make_node("Relu", ["x"], ["y"], name="act", slope=1)]),
        'Relu "act"',
    ),
    "too many inputs": (
        lambda folder: write(folder, [helper.make_node("Relu", ["x", "x"], ["y"], name="act")]),
        'Relu "act"',
    ),
    "an axis out of range": (
        lambda folder: write(folder, [helper.make_node("Concat", ["x", "x"], ["y"], name="cat", axis=7)]),
        'Concat "cat"',
    ),
    "absurd dimensions": (lambda folder: write(folder, [ADD], [claimed("w", [HUGE])]), '"w"'),
    "dimensions whose product overflows": (
        lambda folder: write(folder, [ADD], [claimed("w", [1 << 32, 1 << 32], data=bytes(16))]),
        '"w"',
    ),
    "a negative dimension": (
        lambda folder: write(folder, [ADD], [claimed("w", [-4], data=bytes(16))]),
        '"w"',
    ),
    "too little data": (lambda folder: write(folder, [ADD], [claimed("w", [4], data=bytes(12))]), '"w"'),
    "an element type that is none": (
        lambda folder: write(folder, [ADD], [claimed("w", [4], dtype=99, data=bytes(16))]),
        '"w"',
    ),
    "a value defined twice": (
        lambda folder: write(
            folder, [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
        ),
        '"y"',
    ),
    "an initializer given twice": (
        lambda folder: write(folder, [ADD], [constant("w", [1] * 4), constant("w", [2] * 4)]),
        '"w"',
    ),
    "an input given twice": (
        lambda folder: write(
            folder,
            [helper.make_node("Relu", ["x"], ["y"])],
            inputs=[info("x", shape=[4]), info("x", shape=[4])],
        ),
        '"x"',
    ),
    "functions that call each other": (_recursion, "own"),
    "functions that grow without bounds": (_doubling, "nodes"),
    "a range of step zero": (_fold("Range", 0, 10, 0), 'Range "danger"'),
    "a negative size of a Reshape": (
        lambda folder: write(
            folder,
            [helper.make_node("Reshape", ["x", "s"], ["y"], name="view")],
            [constant("s", [-3], np.int64)],
        ),
        'Reshape "view"',
    ),
}
"""Models that no command takes, and what the message says."""


def _bytes(folder: Path, data: bytes) -> Path:
    path = folder / "bad.onnx"
    path.write_bytes(data)
    return path


def _endless_loop(folder: Path) -> Path:
    """2^62 rounds over constants: folding would never end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "one"], ["w"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", shape=[])],
        [info("on", TensorProto.BOOL, []), info("w", shape=[])],
        [constant("one", 1.0)],
    )
    nodes = [
        helper.make_node("Loop", ["many", "yes", "zero"], ["last"], body=body),
        helper.make_node("Add", ["x", "last"], ["y"]),
    ]
    weights = [constant("many", HUGE, np.int64), constant("yes", True, np.bool_), constant("zero", 0.0)]
    return write(folder, nodes, weights)


def _unknown(folder: Path) -> Path:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="nowhere", name="odd")
    return write(folder, [node], domains=["nowhere"])


TAKEN: dict[str, Build] = {
    "an unknown operator": _unknown,
    "regions nested deep": _nested,
    "a loop without end": _endless_loop,
    "an integer division by zero": _fold("Div", [1, 2, 3, 4], [0]),
    "the one quotient that overflows": _fold("Div", [-(1 << 63)], [-1]),
    "the same of 32 bits": _fold("Div", [-(1 << 31)], [-1], dtype=np.int32),
    "a remainder by zero": _fold("Mod", [1, 2, 3, 4], [0]),
    "the one remainder that overflows": _fold("Mod", [-(1 << 63)], [-1]),
    "a huge range": _fold("Range", 0, 1 << 40, 1),
    "a huge fill": _fold("ConstantOfShape", [1 << 20, 1 << 20]),
    "a huge tile": _fold("Tile", [1, 2], [1 << 40]),
    "a huge expansion": _fold("Expand", [1], [1 << 20, 1 << 22]),
    "a huge padding": _fold("Pad", [1, 2], [1 << 40, 1 << 40]),
    "an index out of range": _fold("Gather", [1, 2], [7]),
    "a shift by more than there are bits": _fold("BitShift", [1], [200], dtype=np.uint64, direction="LEFT"),
    "a huge one-hot": _fold("OneHot", [0, 1], 1 << 40, [0, 1]),
}
"""Models that are valid, or fail only when they run: `opt` carries them through, without running what
would crash, hang or fill the memory."""
