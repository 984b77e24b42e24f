"""What the graph needs to know of operators, as a protocol: ``graphopt.ops`` implements it."""

from __future__ import annotations

from typing import Protocol

from graphopt.ir.graph import Node
from graphopt.ir.types import Type


class Semantics(Protocol):
    """Knowledge of operators that the rewriter and the verifier ask for."""

    def infer(self, node: Node) -> list[Type]:
        """Types of the outputs, one for each, from operator, attributes and inputs.

        Unknown operators give :class:`UnknownType`.

        Raises:
            TypeInferenceError: the inputs don't fit the operator.
        """
        ...

    def check(self, node: Node, *, canonical: bool = False) -> str | None:
        """What is wrong with arity or attributes of ``node`` by its operator's schema, None if nothing.

        Args:
            canonical: an operator of ONNX's own domain must be one of the canonical opset, in the form
                that it has there; else any form known will do, and unknown operators are not judged.
        """
        ...
