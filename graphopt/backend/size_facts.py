"""What each operator takes for granted of the sizes of its inputs.

Type inference refuses sizes that contradict each other when they are numbers; symbols it gives the
benefit of the doubt. What it grants them is said here, to be checked when they have values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from graphopt.ir.dims import Dim, Shape, minimum, mod, product
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType
from graphopt.ops import partial_content
from graphopt.ops.convolution import kernel_of, window
from graphopt.ops.recurrent import GATES
from graphopt.ops.shapes import broadcast_dim
from graphopt.runtime.sizes import Relation


@dataclass(frozen=True)
class Fact:
    """What two sizes of a node must be to each other; ``what`` says in words which sizes they are."""

    relation: Relation
    left: Dim
    right: Dim
    what: str


Facts = Iterator[Fact]
_TABLE: dict[str, Callable[[Node], Facts]] = {}


def facts_of(node: Node) -> Facts:
    """What the kernel of ``node``, a standard operator, takes for granted of sizes."""
    find = _TABLE.get(node.op)
    if find is not None:
        yield from find(node)


def _facts(*ops: str) -> Callable[[Callable[[Node], Facts]], Callable[[Node], Facts]]:
    def attach(function: Callable[[Node], Facts]) -> Callable[[Node], Facts]:
        for op in ops:
            _TABLE[op] = function
        return function

    return attach


def _shape(node: Node, index: int) -> Shape | None:
    """Shape of input ``index``; None when it is absent or of unknown rank."""
    value = node.input(index)
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def _shapes(node: Node, *indices: int) -> tuple[Shape, ...] | None:
    shapes = [_shape(node, index) for index in indices]
    known = tuple(shape for shape in shapes if shape is not None)
    return known if len(known) == len(shapes) else None


def _result(node: Node) -> Shape:
    kind = node.outputs[0].type
    return (kind.shape or ()) if isinstance(kind, TensorType) else ()


def _number(node: Node, name: str, default: int) -> int:
    return cast(int, node.attrs.get(name, default))


def _pairs(relation: Relation, left: Sequence[Dim | None], right: Sequence[Dim | None], what: str) -> Facts:
    """The same of each pair of dimensions, aligned at the end."""
    count = min(len(left), len(right))
    aligned = zip(left[len(left) - count :], right[len(right) - count :], strict=True)
    for axis, (a, b) in enumerate(aligned, max(len(left), len(right)) - count):
        if a is not None and b is not None:
            yield Fact(relation, a, b, f"{what}, axis {axis}")


@_facts(
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum",
    "Where", "Xor",
)  # fmt: skip
def _elementwise(node: Node) -> Facts:
    together = _shape(node, 0)
    for index in range(1, len(node.inputs)):
        other = _shape(node, index)
        if together is None or other is None or other == together:
            continue
        yield from _pairs("broadcast", together, other, f"input {index} with those before it")
        longer, shorter = (together, other) if len(together) >= len(other) else (other, together)
        lead = len(longer) - len(shorter)
        dims = [broadcast_dim(a, b) for a, b in zip(longer[lead:], shorter, strict=True)]
        together = (*longer[:lead], *(1 if dim is None else dim for dim in dims))


@_facts("PRelu")
def _prelu(node: Node) -> Facts:
    shapes = _shapes(node, 1, 0)
    if shapes is not None:
        slope, x = shapes
        yield from _pairs("fits", slope, x, "slope and input")


@_facts("Expand")
def _expand(node: Node) -> Facts:
    shape, target = _shape(node, 0), node.input(1)
    content = None if target is None else partial_content(target)
    if shape is not None and content is not None:
        yield from _pairs("broadcast", shape, content, "input and target")


@_facts("MatMul", "MatMulInteger", "QLinearMatMul")
def _matmul(node: Node) -> Facts:
    shapes = _shapes(node, 0, 3 if node.op == "QLinearMatMul" else 1)
    if shapes is None or not all(shapes):
        return
    a, b = shapes
    yield Fact("equal", a[-1], b[-2] if len(b) > 1 else b[0], "columns of the left and rows of the right")
    yield from _pairs("broadcast", a[:-2], b[:-2], "batches")


@_facts("Gemm")
def _gemm(node: Node) -> Facts:
    shapes, bias = _shapes(node, 0, 1), _shape(node, 2)
    if shapes is None:
        return
    a, b = (
        shape[::-1] if node.attrs.get(name, 0) else shape
        for shape, name in zip(shapes, ("transA", "transB"), strict=True)
    )
    yield Fact("equal", a[1], b[0], "columns of A and rows of B")
    if bias is not None:
        yield from _pairs("fits", bias, (a[0], b[1]), "C and the product")


@_facts("Einsum")
def _einsum(node: Node) -> Facts:
    equation = cast("str | bytes", node.attrs["equation"])
    text = equation.decode() if isinstance(equation, bytes) else equation
    sizes: dict[str, Dim] = {}
    batch: Shape = ()
    for index, term in enumerate(text.replace(" ", "").partition("->")[0].split(",")):
        shape = _shape(node, index)
        if shape is None:
            continue
        before, dots, after = term.partition("...")
        tail = len(shape) - len(after)
        for letter, dim in zip(before + after, (*shape[: len(before)], *shape[tail:]), strict=True):
            if letter in sizes:
                yield Fact("broadcast", sizes[letter], dim, f'"{letter}" of input {index} and before')
            sizes[letter] = broadcast_dim(sizes.get(letter, 1), dim) or dim
        if dots:
            middle = shape[len(before) : tail]
            yield from _pairs("broadcast", batch, middle, f"... of input {index} and before")
            batch = middle if len(middle) >= len(batch) else batch


@_facts("Concat")
def _concat(node: Node) -> Facts:
    first = _shape(node, 0)
    if first is None:
        return
    along = _number(node, "axis", 0) % len(first)
    for index in range(1, len(node.inputs)):
        shape = _shape(node, index)
        for axis, (a, b) in enumerate(zip(first, shape or (), strict=False)):
            if axis != along:
                yield Fact("equal", a, b, f"inputs 0 and {index}, axis {axis}")


@_facts("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _reshape(node: Node) -> Facts:
    shape = _shape(node, 0)
    if shape is not None:
        yield Fact("equal", product(shape), product(_result(node)), "elements before and after")


@_facts("Split")
def _split(node: Node) -> Facts:
    shape = _shape(node, 0)
    if shape is None:
        return
    axis = _number(node, "axis", 0) % len(shape)
    parts = [value.type.shape for value in node.outputs if isinstance(value.type, TensorType)]
    if len(parts) == len(node.outputs) and None not in parts:
        total: Dim = 0
        for part in parts:
            total = total + cast(Shape, part)[axis]
        yield Fact("equal", shape[axis], total, f"axis {axis} and its parts")


@_facts("Conv", "ConvInteger", "QLinearConv")
def _conv(node: Node) -> Facts:
    place = 3 if node.op == "QLinearConv" else 1
    shapes = _shapes(node, 0, place)
    if shapes is None:
        return
    x, w = shapes
    group = _number(node, "group", 1)
    yield Fact("equal", x[1], w[1] * group, "channels of input and weight")
    yield Fact("equal", mod(w[0], group), 0, "output channels in equal groups, what is over")
    bias = {"Conv": 2, "QLinearConv": 8}.get(node.op)
    shape = None if bias is None else _shape(node, bias)
    if shape is not None:
        yield Fact("equal", shape[0], w[0], "bias and output channels")
    kernel = kernel_of(node, TensorType(None, w), len(x) - 2)
    yield from _windows(node, x, kernel or ())


@_facts("MaxPool", "AveragePool", "LpPool")
def _pool(node: Node) -> Facts:
    x = _shape(node, 0)
    if x is not None and not node.attrs.get("ceil_mode", 0):
        kernel = cast("tuple[int, ...]", node.attrs["kernel_shape"])
        # Of numbers ONNX Runtime takes some windows that are too large; type inference follows it.
        yield from (fact for fact in _windows(node, x, kernel) if not isinstance(fact.left, int))


def _windows(node: Node, x: Shape, kernel: tuple[Dim, ...]) -> Facts:
    slide = window(node, kernel)
    if slide.is_same:
        return
    columns = zip(x[2:], slide.begins, slide.ends, kernel, slide.dilations, strict=True)
    for axis, (size, begin, end, k, dilation) in enumerate(columns, 2):
        reach = (k - 1) * dilation + 1
        what = f"input with its padding and kernel, axis {axis}"
        yield Fact("at least", size + begin + end, reach, what)


@_facts("ConvTranspose")
def _conv_transpose(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1)
    if shapes is None:
        return
    x, w = shapes
    yield Fact("equal", x[1], w[0], "channels of input and weight")
    for axis, dim in enumerate(_result(node)[2:], 2):
        yield Fact("at least", dim, 1, f"output, axis {axis}")


@_facts("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def _channel_norm(node: Node) -> Facts:
    x = _shape(node, 0)
    if x is None:
        return
    for index in range(1, len(node.inputs)):
        shape = _shape(node, index)
        if shape is not None and len(shape) == 1:
            yield Fact("equal", shape[0], x[1], f"input {index} and channels")
    if node.op == "GroupNormalization":
        yield Fact(
            "equal", mod(x[1], _number(node, "num_groups", 1)), 0, "channels in equal groups, what is over"
        )


@_facts("LayerNormalization", "RMSNormalization")
def _layer_norm(node: Node) -> Facts:
    x = _shape(node, 0)
    for index in range(1, len(node.inputs)):
        shape = _shape(node, index)
        if x is not None and shape is not None:
            yield from _pairs("fits", shape, x, f"input {index} and what is normalized")


@_facts("QuantizeLinear", "DequantizeLinear")
def _quantize(node: Node) -> Facts:
    shapes = _shapes(node, 1, 0)
    if shapes is None or len(shapes[0]) != 1 or shapes[0] == (1,):
        return
    scale, x = shapes
    axis = _number(node, "axis", 1)
    if -len(x) <= axis < len(x) and not node.attrs.get("block_size", 0):
        yield Fact("equal", scale[0], x[axis], "scales and channels")
    zero = _shape(node, 2)
    if zero is not None and len(zero) == 1:
        yield Fact("equal", zero[0], scale[0], "zero points and scales")


@_facts("Gather")
def _gather(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1)
    if shapes is not None:
        x, indices = shapes
        yield _not_empty(x[_number(node, "axis", 0) % len(x)], product(indices), "what is indexed")


def _not_empty(dim: Dim, wanted: Dim, what: str) -> Fact:
    """``dim`` has an element if anything is wanted of it."""
    return Fact("at least", dim, minimum(wanted, 1), what)


@_facts("GatherElements", "ScatterElements")
def _elements(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1)
    if shapes is None:
        return
    x, indices = shapes
    along = _number(node, "axis", 0) % len(x)
    for axis, (dim, count) in enumerate(zip(x, indices, strict=True)):
        if axis != along:
            yield Fact("at least", dim, count, f"data and indices, axis {axis}")
    yield _not_empty(x[along], product(indices), "what is indexed")
    updates = _shape(node, 2)
    if updates is not None:
        yield from _pairs("equal", updates, indices, "updates and indices")


@_facts("GatherND", "ScatterND")
def _tuples(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1)
    if shapes is None or not shapes[1] or not isinstance(shapes[1][-1], int):
        return
    x, indices = shapes
    batch = _number(node, "batch_dims", 0)
    yield from _pairs("equal", x[:batch], indices[:batch], "batches")
    for axis in range(batch, batch + cast(int, indices[-1])):
        yield _not_empty(x[axis], product(indices[:-1]), f"what is indexed, axis {axis}")
    updates = _shape(node, 2)
    if updates is not None:
        yield from _pairs(
            "equal", updates, (*indices[:-1], *x[cast(int, indices[-1]) :]), "updates and their places"
        )


@_facts("TopK")
def _top_k(node: Node) -> Facts:
    x = _shape(node, 0)
    if x is not None:
        axis = _number(node, "axis", -1)
        yield Fact("at least", x[axis], _result(node)[axis], "elements and k")


@_facts("ArgMax", "ArgMin")
def _arg_extremum(node: Node) -> Facts:
    x = _shape(node, 0)
    if x is not None:
        yield _not_empty(x[_number(node, "axis", 0)], product(_result(node)), "what is searched")


@_facts("Pad", "Resize")
def _sampled(node: Node) -> Facts:
    """An element outside is one from inside: there must be one."""
    x = _shape(node, 0)
    if x is None or (node.op == "Pad" and node.attrs.get("mode", "constant") in ("constant", b"constant")):
        return
    for axis, (dim, out) in enumerate(zip(x, _result(node), strict=False)):
        if dim != out:
            yield _not_empty(dim, out, f"axis {axis}")


@_facts("DepthToSpace", "SpaceToDepth")
def _blocks(node: Node) -> Facts:
    x, block = _shape(node, 0), _number(node, "blocksize", 1)
    if x is None:
        return
    if node.op == "DepthToSpace":
        yield Fact("equal", mod(x[1], block * block), 0, "channels in whole blocks, what is over")
        return
    for axis in (2, 3):
        yield Fact("equal", mod(x[axis], block), 0, f"axis {axis} in whole blocks, what is over")


@_facts("ReverseSequence")
def _reverse_sequence(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1)
    if shapes is not None:
        yield Fact("equal", shapes[1][0], shapes[0][_number(node, "batch_axis", 1)], "lengths and batch")


@_facts(*GATES)
def _recurrent(node: Node) -> Facts:
    shapes = _shapes(node, 0, 1, 2)
    if shapes is None:
        return
    x, weight, recurrence = shapes
    batch = x[0] if node.attrs.get("layout", 0) else x[1]
    yield Fact("equal", x[2], weight[2], "input size and columns of W")
    yield Fact("equal", recurrence[1], weight[1], "rows of R and of W")
    yield Fact(
        "equal", recurrence[2] * GATES[node.op], weight[1], "columns of R, for each gate, and rows of W"
    )
    for index in (4, 5, 6):
        shape = _shape(node, index)
        if shape is not None:
            own = shape[0] if index == 4 or node.attrs.get("layout", 0) else shape[1]
            yield Fact("equal", own, batch, f"batch of input {index} and of the input")
