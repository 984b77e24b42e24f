"""Strings: carried through and typed, never compiled."""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import fail, fresh, fresh_shape, integers, tensor
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import broadcast


@declare(Kind.OTHER, "StringConcat")
def string_concat(node: Node) -> list[Type]:
    """Broadcast strings."""
    a, b = tensor(node, 0).shape, tensor(node, 1).shape
    if a is None or b is None:
        return [TensorType(DType.STR, None)]
    together = broadcast(a, b)
    if together is None:
        raise fail(node, 1, f"a shape that broadcasts with [{', '.join(str(dim) for dim in a)}]")
    return [TensorType(DType.STR, together)]


@declare(Kind.OTHER, "StringNormalizer")
def string_normalizer(node: Node) -> list[Type]:
    """(words) or (1, words); stop words are left out, so their number is data."""
    shape = tensor(node, 0).shape
    if shape is None:
        return [TensorType(DType.STR, None)]
    if not node.attrs.get("stopwords"):
        return [TensorType(DType.STR, shape)]
    return [TensorType(DType.STR, (*shape[:-1], fresh(node, 0, len(shape) - 1)))]


@declare(Kind.OTHER, "StringSplit")
def string_split(node: Node) -> list[Type]:
    """Pieces in a new last axis, and how many there are for each string."""
    shape = tensor(node, 0).shape
    pieces = None if shape is None else (*shape, fresh(node, 0, len(shape)))
    return [TensorType(DType.STR, pieces), TensorType(DType.I64, shape)]


@declare(Kind.OTHER, "RegexFullMatch")
def regex_full_match(node: Node) -> list[Type]:
    """A bool for each string."""
    return [TensorType(DType.BOOL, tensor(node, 0).shape)]


@declare(Kind.OTHER, "TfIdfVectorizer")
def tfidf_vectorizer(node: Node) -> list[Type]:
    """Counts in f32: as many as ``ngram_indexes`` reaches, for the input or for each of its rows."""
    shape = tensor(node, 0).shape
    indexes = integers(node, "ngram_indexes") or (-1,)
    if shape is None:
        return [TensorType(DType.F32, None)]
    batch = shape[:1] if len(shape) == 2 else ()
    size = max(indexes) + 1 or (fresh_shape(node, 0, 1) or (0,))[0]
    return [TensorType(DType.F32, (*batch, size))]
