"""Rules on the sizes at a call, found at compile time: what kernels take for granted and shapes don't say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphopt.backend.indices import index_facts
from graphopt.backend.size_facts import Fact, facts_of
from graphopt.errors import CompileError
from graphopt.ir.dims import Dim, SymDim, symbols
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import TensorType
from graphopt.ops.shapes import is_nonnegative
from graphopt.runtime.sizes import SizeRule, explain, holds


def size_rules(graph: Graph, known: Callable[[Value], Tensor | None]) -> tuple[SizeRule, ...]:
    """What the symbols of a graph's inputs must satisfy, beside being sizes.

    Args:
        known: gives the data of the root's values that are constant.

    Raises:
        CompileError: sizes that are numbers don't fit together, or a constant index is out of range.
    """
    bound = {
        dim.symbol
        for value in graph.inputs
        for dim in _dims(value)
        if isinstance(dim, SymDim) and dim.symbol is not None
    }
    rules: dict[tuple[str, str, str], SizeRule] = {}
    seen: set[Dim] = set()
    for node in graph.walk():
        if node.domain:
            continue
        for fact in (*facts_of(node), *index_facts(node, known), *_sizes(node, seen)):
            if isinstance(fact.left, int) and isinstance(fact.right, int):
                _check_numbers(node, fact, fact.left, fact.right)
                continue
            if _is_certain(fact):
                continue
            # What depends on data can't be checked before the run.
            if any(name not in bound for dim in (fact.left, fact.right) for name in symbols(dim)):
                continue
            left, right = (dim if isinstance(dim, int) else str(dim) for dim in (fact.left, fact.right))
            where = f"{node.label} ({fact.what})"
            rules.setdefault(
                (fact.relation, str(left), str(right)), SizeRule(where, fact.relation, left, right)
            )
    return tuple(rules.values())


def _dims(value: Value) -> tuple[Dim, ...]:
    return (value.type.shape or ()) if isinstance(value.type, TensorType) else ()


def _check_numbers(node: Node, fact: Fact, left: int, right: int) -> None:
    if not holds(fact.relation, left, right):
        message = explain(f"{node.label} ({fact.what})", fact.relation, str(left), str(right))
        raise CompileError(message, hint="the sizes contradict each other; check what produces its inputs")


def _is_certain(fact: Fact) -> bool:
    """Whether a fact about symbols holds for all their values."""
    left, right = fact.left, fact.right
    if fact.relation == "at least":
        return is_nonnegative(left - right)
    return (
        left == right
        or (fact.relation != "equal" and left == 1)
        or (fact.relation == "broadcast" and right == 1)
    )


def _sizes(node: Node, seen: set[Dim]) -> Iterator[Fact]:
    """No size is negative, and none is divided by 0."""
    for value in node.outputs:
        for axis, dim in enumerate(_dims(value)):
            if isinstance(dim, int) or dim in seen:
                continue
            seen.add(dim)
            yield from (Fact("at least", divisor, 1, f"divisor in axis {axis}") for divisor in _divisors(dim))
            yield Fact("at least", dim, 0, f"output, axis {axis}")


def _divisors(dim: Dim) -> Iterator[SymDim]:
    for monomial, _ in dim.terms if isinstance(dim, SymDim) else ():
        for atom in monomial:
            for argument in atom.args:
                yield from _divisors(argument)
            if atom.op in ("floordiv", "mod") and isinstance(atom.args[1], SymDim):
                yield atom.args[1]
