"""How much arithmetic and memory traffic a node is, as if it were computed straight from its definition.

A multiply-add is two operations, a function such as Exp one. What a kernel really does may be less
(Winograd, taps outside the image) or more (lanes that pad a vector).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphopt.ir.dims import evaluate
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops.control import repetitions
from graphopt.ops.registry import Kind, info

# Operations for each element of the first input, of operators that reduce.
_PER_ELEMENT = {
    "Softmax": 4, "LogSoftmax": 4, "LayerNormalization": 7, "InstanceNormalization": 7,
    "GroupNormalization": 7, "BatchNormalization": 2, "RMSNormalization": 4, "LpNormalization": 3,
    "MeanVarianceNormalization": 5, "ReduceSumSquare": 2, "ReduceL2": 2, "ReduceLogSumExp": 2,
}  # fmt: skip
_NO_ARITHMETIC = frozenset({"Identity", "Cast", "CastLike", "Dropout"})


@dataclass(frozen=True, slots=True)
class Work:
    """Arithmetic operations, and bytes read and written: each operand once, each result once."""

    flops: int
    bytes: int


def work(graph: Graph, sizes: Mapping[str, int]) -> Work | None:
    """What one run of ``graph`` takes, node by node; the body of a loop as often as it runs, every branch once.

    Args:
        sizes: numbers for the symbolic dimensions.

    Returns:
        None when a size is not known, or depends on data, or data decides how often a loop runs.
    """
    try:
        return _work(graph.body, sizes)
    except (KeyError, ZeroDivisionError):
        return None


def _work(region: Region, sizes: Mapping[str, int]) -> Work:
    arithmetic = traffic = 0
    for node in region:
        count = flops(node, sizes)
        if count is None:
            raise KeyError(node.label)
        arithmetic += count
        traffic += sum(bytes_of(v, sizes) for v in (*node.inputs, *node.outputs) if v is not None)
        for inner in node.regions.values():
            if not inner.is_isolated:
                times = repetitions(node)
                if times is None:
                    raise KeyError(node.label)
                once = _work(inner, sizes)
                arithmetic += once.flops * evaluate(times, sizes)
                traffic += once.bytes * evaluate(times, sizes)
    return Work(arithmetic, traffic)


def open_loop(graph: Graph) -> Node | None:
    """The first node whose body runs as often as data decides, for which :func:`work` has no answer."""
    for node in graph.walk():
        if node.regions and not node.is_fused and repetitions(node) is None:
            return node
    return None


def flops(node: Node, sizes: Mapping[str, int]) -> int | None:
    """Arithmetic operations of a node, of a fused one those of all nodes of its body.

    Args:
        node: of any kind.
        sizes: numbers for the symbolic dimensions.

    Returns:
        None when a size depends on data.
    """
    try:
        if not node.is_fused:
            return _count(node, sizes)
        counts = [_count(inner, sizes) for inner in node.body]
        if is_elementwise(node):
            # Nothing is computed but what an element of the result needs.
            results = sum(elements(value, sizes) for value in node.outputs)
            counts = [min(count, results) for count in counts]
        return sum(counts)
    except (KeyError, ZeroDivisionError):
        return None


def is_elementwise(node: Node) -> bool:
    """Whether each element of its results comes from at most one element of each of its inputs."""
    inner = list(node.body) if node.is_fused else [node]
    kinds = {found.kind if (found := info(item)) is not None else Kind.OTHER for item in inner}
    return kinds <= {Kind.ELEMENTWISE, Kind.MOVEMENT}


def _count(node: Node, sizes: Mapping[str, int]) -> int:
    special = _SPECIAL.get(node.op) if not node.domain else None
    if special is not None:
        return special(node, sizes)
    known = info(node)
    kind = known.kind if known is not None else Kind.OTHER
    if kind is Kind.ELEMENTWISE and node.op not in _NO_ARITHMETIC:
        operands = sum(value is not None for value in node.inputs)
        each = operands - 1 if node.op in ("Sum", "Max", "Min", "Mean") else 1
        return each * elements(node.outputs[0], sizes)
    if kind is Kind.REDUCTION:
        return _PER_ELEMENT.get(node.op, 1) * elements(_input(node, 0), sizes)
    return 0


def elements(value: Value, sizes: Mapping[str, int]) -> int:
    """How many numbers a tensor holds.

    Raises:
        KeyError: that is not known.
    """
    return math.prod(_shape(value, sizes))


def bytes_of(value: Value, sizes: Mapping[str, int]) -> int:
    """The size of a value.

    Raises:
        KeyError: it is not known.
    """
    if not value.name:
        return 0  # an output that is left out
    dtype = value.tensor.dtype
    if dtype is None or dtype is DType.STR:
        raise KeyError(value.name)
    return (elements(value, sizes) * dtype.bits + 7) // 8


def _shape(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        raise KeyError(value.name)
    return tuple(evaluate(dim, sizes) for dim in value.type.shape)


def _input(node: Node, index: int) -> Value:
    value = node.input(index)
    if value is None:
        raise KeyError(index)
    return value


def _bias(node: Node, index: int, sizes: Mapping[str, int]) -> int:
    return elements(node.outputs[0], sizes) if node.input(index) is not None else 0


def _convolution(weights: int, bias: int | None) -> Callable[[Node, Mapping[str, int]], int]:
    def count(node: Node, sizes: Mapping[str, int]) -> int:
        taps = _shape(_input(node, weights), sizes)[1:]
        added = 0 if bias is None else _bias(node, bias, sizes)
        return 2 * elements(node.outputs[0], sizes) * math.prod(taps) + added

    return count


def _transposed(node: Node, sizes: Mapping[str, int]) -> int:
    taps = _shape(_input(node, 1), sizes)[1:]
    return 2 * elements(_input(node, 0), sizes) * math.prod(taps) + _bias(node, 2, sizes)


def _product(node: Node, sizes: Mapping[str, int]) -> int:
    return 2 * elements(node.outputs[0], sizes) * _shape(_input(node, 0), sizes)[-1]


def _gemm(node: Node, sizes: Mapping[str, int]) -> int:
    depth = _shape(_input(node, 0), sizes)[0 if node.attrs.get("transA", 0) else -1]
    return 2 * elements(node.outputs[0], sizes) * depth + _bias(node, 2, sizes)


def _einsum(node: Node, sizes: Mapping[str, int]) -> int:
    equation = str(node.attrs["equation"]).replace(" ", "").replace("...", "")
    found: dict[str, int] = {}
    for term, value in zip(equation.partition("->")[0].split(","), node.inputs, strict=True):
        assert value is not None
        shape = _shape(value, sizes)
        for letter, size in zip(reversed(term), reversed(shape), strict=False):
            found[letter] = max(size, found.get(letter, 1))
    return len(node.inputs) * math.prod(found.values())


def _recurrent(node: Node, sizes: Mapping[str, int]) -> int:
    steps = math.prod(_shape(_input(node, 0), sizes)[:2])
    return 2 * steps * (elements(_input(node, 1), sizes) + elements(_input(node, 2), sizes))


def _attention(node: Node, sizes: Mapping[str, int]) -> int:
    queries, keys, values = (_shape(_input(node, index), sizes) for index in range(3))
    if len(queries) == 3:
        # [batch, sequence, heads * size]; every head has as many queries and values of its own.
        heads = node.attrs["q_num_heads"], node.attrs["kv_num_heads"]
        size, value_size = queries[-1], values[-1] * int(str(heads[0])) // int(str(heads[1]))
        return queries[0] * queries[1] * keys[1] * 2 * (size + value_size)
    return math.prod(queries[:-1]) * keys[-2] * 2 * (queries[-1] + values[-1])


def _pool(node: Node, sizes: Mapping[str, int]) -> int:
    window = node.attrs["kernel_shape"]
    assert isinstance(window, tuple)
    return elements(node.outputs[0], sizes) * math.prod(int(str(size)) for size in window)


_SPECIAL: dict[str, Callable[[Node, Mapping[str, int]], int]] = {
    "Conv": _convolution(1, 2),
    "ConvInteger": _convolution(1, None),
    "QLinearConv": _convolution(3, 8),
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
}
