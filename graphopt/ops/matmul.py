"""Matrix products: MatMul, Gemm, Einsum, and their integer and quantized forms."""

from __future__ import annotations

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, QuantScheme, TensorType, Type
from graphopt.ops.access import bad_attr, fail, fresh_shape, integer, rank_of, same_dtype, tensor, text
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import broadcast, broadcast_dim


def matmul_shape(node: Node, left: int, right: int) -> Shape | None:
    """Shape of the product of two inputs, by NumPy's rules.

    Raises:
        TypeInferenceError: scalars, inner sizes that differ, or batches that don't broadcast.
    """
    a, b = tensor(node, left).shape, tensor(node, right).shape
    if a == () or b == ():
        raise fail(node, left if a == () else right, "a vector, matrix or stack of matrices")
    if a is None or b is None:
        return None
    inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[0]
    if isinstance(inner_a, int) and isinstance(inner_b, int) and inner_a != inner_b:
        raise fail(node, right, f"{inner_a} rows, as many as the left matrix has columns")
    batch = broadcast(a[:-2], b[:-2])
    if batch is None:
        raise fail(node, right, f"batch dimensions that broadcast with [{', '.join(str(d) for d in a[:-2])}]")
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return (*batch, *rows, *columns)


@declare(Kind.HEAVY, "MatMul")
def matmul(node: Node) -> list[Type]:
    """Product of (stacks of) matrices."""
    return [TensorType(same_dtype(node, (0, 1)), matmul_shape(node, 0, 1))]


@declare(Kind.HEAVY, "MatMulInteger")
def matmul_integer(node: Node) -> list[Type]:
    """As MatMul, accumulated in i32."""
    return [TensorType(DType.I32, matmul_shape(node, 0, 1))]


@declare(Kind.HEAVY, "QLinearMatMul")
def qlinear_matmul(node: Node) -> list[Type]:
    """As MatMul on quantized data; the output has the element type of its zero point (input 7)."""
    dtype = tensor(node, 7).dtype
    quant = None if dtype is None else QuantScheme(dtype.bits, dtype.is_signed)
    return [TensorType(dtype, matmul_shape(node, 0, 3), quant)]


@declare(Kind.HEAVY, "Gemm")
def gemm(node: Node) -> list[Type]:
    """A' B' + C with A' and B' matrices, transposed on request, and C broadcast to the product."""
    dtype = same_dtype(node, range(len(node.inputs)))
    a, b = rank_of(node, 0, 2), rank_of(node, 1, 2)
    rows, columns = fresh_shape(node, 0, 2) or (1, 1)
    inner: list[Dim] = []
    if a is not None:
        swap = integer(node, "transA", 0)
        rows = a[1] if swap else a[0]
        inner.append(a[0] if swap else a[1])
    if b is not None:
        swap = integer(node, "transB", 0)
        columns = b[0] if swap else b[1]
        inner.append(b[1] if swap else b[0])
    if len(inner) == 2 and all(isinstance(dim, int) for dim in inner) and inner[0] != inner[1]:
        raise fail(node, 1, f"inner size {inner[0]}")
    bias = tensor(node, 2).shape if node.input(2) is not None else None
    if bias is not None and a is not None and b is not None:
        together = broadcast((rows, columns), bias)
        if (
            together is None
            or len(together) > 2
            or any(
                isinstance(t, int) and isinstance(d, int) and t != d
                for t, d in zip(together, (rows, columns), strict=True)
            )
        ):
            raise fail(node, 2, f"a shape that broadcasts to [{rows}, {columns}]")
    return [TensorType(dtype, (rows, columns))]


@declare(Kind.HEAVY, "Einsum")
def einsum(node: Node) -> list[Type]:
    """Sum of products by an equation such as ``bij,bjk->bik``; ``...`` stands for broadcast axes."""
    dtype = same_dtype(node, range(len(node.inputs)))
    equation = text(node, "equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        raise bad_attr(node, "equation", f"{len(node.inputs)} terms")
    sizes: dict[str, Dim] = {}
    batch: Shape | None = ()
    for index, term in enumerate(terms):
        shape = tensor(node, index).shape
        if shape is None:
            batch = None if "..." in term else batch
            continue
        batch = _einsum_term(node, index, term, shape, sizes, batch)
    if not arrow:
        letters = left.replace(".", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(
            c for c in sorted(set(letters)) if letters.count(c) == 1
        )
    before, dots, after = right.partition("...")
    if dots and batch is None:
        return [TensorType(dtype, None)]
    unknown = fresh_shape(node, 0, len(right) + 8) or ()
    head = [sizes.get(letter, unknown[i]) for i, letter in enumerate(before)]
    tail = [sizes.get(letter, unknown[len(before) + i]) for i, letter in enumerate(after)]
    return [TensorType(dtype, (*head, *((batch or ()) if dots else ()), *tail))]


def _einsum_term(
    node: Node, index: int, term: str, shape: Shape, sizes: dict[str, Dim], batch: Shape | None
) -> Shape | None:
    before, dots, after = term.partition("...")
    named = len(before) + len(after)
    if len(shape) < named or (not dots and len(shape) != named):
        raise fail(node, index, f'a tensor that "{term}" describes')
    middle = shape[len(before) : len(shape) - len(after)]
    for letter, dim in zip(
        before + after, shape[: len(before)] + shape[len(shape) - len(after) :], strict=True
    ):
        size = broadcast_dim(sizes[letter], dim) if letter in sizes else dim
        if size is None:
            raise fail(node, index, f'size {sizes[letter]} for "{letter}"')
        sizes[letter] = size
    if batch is None or not dots:
        return batch
    together = broadcast(batch, middle)
    if together is None:
        raise fail(node, index, f"dimensions of ... that broadcast with [{', '.join(str(d) for d in batch)}]")
    return together
