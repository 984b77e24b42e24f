"""Types of two graphs, compared up to the names of their internal symbols.

The importer names an unknown dimension after the value that has it, so such names are as internal as
those of values. Symbols in the types of the graphs' inputs are part of the signature and stand for
themselves; the others are paired one to one, by how often they stand at the same place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import permutations

from graphopt.ir.dims import Dim, SymDim, substitute, sym, symbols
from graphopt.ir.graph import Graph
from graphopt.ir.types import OptionalType, SequenceType, SparseTensorType, TensorType, Type

_MOST_UNBOUND = 3
"""New symbols in one expression that are paired by trial."""


def signature_symbols(graph: Graph) -> set[str]:
    """Symbols in the types of the graph's inputs."""
    return {name for value in graph.inputs for dim in _dims(value.type) for name in symbols(dim)}


def _dims(type: Type) -> Iterator[Dim]:
    match type:
        case SequenceType() | OptionalType():
            yield from _dims(type.elem)
        case TensorType() | SparseTensorType():
            yield from type.shape or ()


def masked(type: Type, fixed: set[str]) -> str:
    """The text of a type, in which dimensions with other symbols than ``fixed`` are ``?``."""
    match type:
        case SequenceType():
            return f"seq({masked(type.elem, fixed)})"
        case OptionalType():
            return f"optional({masked(type.elem, fixed)})"
        case TensorType() | SparseTensorType() if type.shape is not None:
            if all(isinstance(dim, int) for dim in type.shape):
                return str(type)
            shape = tuple(
                dim if isinstance(dim, int) or all(name in fixed for name in symbols(dim)) else sym("?")
                for dim in type.shape
            )
            if isinstance(type, TensorType):
                return str(type.with_shape(shape))
            return str(SparseTensorType(type.dtype, shape))
    return str(type)


class Pairing:
    """Which symbol of the one graph stands for which of the other."""

    def __init__(self, fixed: Iterable[str]) -> None:
        self._left: dict[str, str] = {name: name for name in fixed}
        self._right = dict(self._left)
        self._equal: dict[tuple[Type, Type], bool] = {}

    def learn(self, pairs: Iterable[tuple[Type, Type]]) -> None:
        """Pairs symbols by the types of values that were matched: those first that meet most often."""
        votes: Counter[tuple[str, str]] = Counter()
        for a, b in pairs:
            for x, y in zip(_dims(a), _dims(b), strict=False):
                if isinstance(x, SymDim) and isinstance(y, SymDim) and x.symbol and y.symbol:
                    votes[x.symbol, y.symbol] += 1
        for (x_name, y_name), _ in votes.most_common():
            self._bind(x_name, y_name)

    def _bind(self, a: str, b: str) -> None:
        if a not in self._left and b not in self._right:
            self._left[a], self._right[b] = b, a

    def equal(self, a: Type, b: Type) -> bool:
        """Whether two types are equal, given what stands for what."""
        if (a, b) not in self._equal:
            self._equal[a, b] = self._types(a, b)
        return self._equal[a, b]

    def _types(self, a: Type, b: Type) -> bool:
        if type(a) is not type(b):
            return False
        if isinstance(a, SequenceType | OptionalType) and isinstance(b, SequenceType | OptionalType):
            return self._types(a.elem, b.elem)
        if isinstance(a, TensorType) and isinstance(b, TensorType):
            return (a.quant, a.layout) == (b.quant, b.layout) and self._tensors(a, b)
        if isinstance(a, SparseTensorType) and isinstance(b, SparseTensorType):
            return self._tensors(a, b)
        return a == b

    def _tensors(self, a: TensorType | SparseTensorType, b: TensorType | SparseTensorType) -> bool:
        if a.dtype is not b.dtype or a.shape is None or b.shape is None:
            return a.dtype is b.dtype and a.shape is b.shape
        return len(a.shape) == len(b.shape) and all(map(self._dim, a.shape, b.shape))

    def _dim(self, a: Dim, b: Dim) -> bool:
        if not isinstance(a, SymDim) or not isinstance(b, SymDim):
            return a == b
        new_a = [name for name in symbols(a) if name not in self._left]
        new_b = [name for name in symbols(b) if name not in self._right]
        if len(new_a) != len(new_b) or len(new_a) > _MOST_UNBOUND:
            return False
        for order in permutations(new_b):
            renamed = {name: sym(self._left[name]) for name in symbols(a) if name in self._left}
            renamed |= {x: sym(y) for x, y in zip(new_a, order, strict=True)}
            if substitute(a, renamed) == b:
                for x, y in zip(new_a, order, strict=True):
                    self._bind(x, y)
                return True
        return False
