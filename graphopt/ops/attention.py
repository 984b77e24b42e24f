"""Attention and rotary position embedding."""

from __future__ import annotations

from graphopt.ir.dims import Dim, Shape, floordiv
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, Type
from graphopt.ops.access import bad_attr, fail, fresh_shape, integer, rank_of, same_dtype, tensor
from graphopt.ops.registry import Kind, declare


@declare(Kind.HEAVY, "Attention")
def attention(node: Node) -> list[Type]:
    """Scaled dot-product attention on (batch, heads, sequence, size), or with heads and size in one axis.

    Outputs: the result in the form of the query, keys and values with the past in front, the scores.
    """
    q, k, v = (tensor(node, i) for i in range(3))
    if q.shape is None or k.shape is None or v.shape is None:
        rank = None if q.shape is None else len(q.shape)
        keys = TensorType(k.dtype, fresh_shape(node, 1, 4)), TensorType(v.dtype, fresh_shape(node, 2, 4))
        return [
            TensorType(q.dtype, fresh_shape(node, 0, rank)),
            *keys,
            TensorType(q.dtype, fresh_shape(node, 3, 4)),
        ]
    batch, heads, queries, _ = _four(node, 0, q.shape, "q_num_heads")
    _, key_heads, keys_now, key_size = _four(node, 1, k.shape, "kv_num_heads")
    value_size = _four(node, 2, v.shape, "kv_num_heads")[3]
    total: Dim = keys_now
    if node.input(4) is not None:
        past = tensor(node, 4).shape
        total = (fresh_shape(node, 1, 4) or ())[2] if past is None else past[2] + keys_now
    result: Shape = (batch, heads, queries, value_size)
    if len(q.shape) == 3:
        result = (batch, queries, heads * value_size)
    return [
        TensorType(q.dtype, result),
        TensorType(k.dtype, (batch, key_heads, total, key_size)),
        TensorType(v.dtype, (batch, key_heads, total, value_size)),
        TensorType(q.dtype, (batch, heads, queries, total)),
    ]


def _four(node: Node, index: int, shape: Shape, heads_name: str) -> tuple[Dim, Dim, Dim, Dim]:
    """The shape as (batch, heads, sequence, size)."""
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) != 3:
        raise fail(node, index, "rank 3 or 4")
    heads = integer(node, heads_name, 0)
    if heads < 1:
        raise bad_attr(node, heads_name, "the number of heads, for inputs of rank 3")
    return shape[0], heads, shape[1], floordiv(shape[2], heads)


@declare(Kind.HEAVY, "FlexAttention", domain="ai.onnx.preview")
def flex_attention(node: Node) -> list[Type]:
    """Attention on rank 4 whose scores and probabilities pass through regions that keep their shapes."""
    q, v = rank_of(node, 0, 4), rank_of(node, 2, 4)
    dims = list(fresh_shape(node, 0, 4) or ())
    if q is not None:
        dims[:3] = q[:3]
    if v is not None:
        dims[3] = v[3]
    return [TensorType(same_dtype(node, (0, 1, 2)), tuple(dims))]


@declare(Kind.ELEMENTWISE, "RotaryEmbedding")
def rotary_embedding(node: Node) -> list[Type]:
    """The input's type."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape)]
