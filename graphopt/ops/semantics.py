"""What the graph asks of operators: the types of their outputs, and whether a node fits its schema."""

from __future__ import annotations

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, Type, UnknownType
from graphopt.ops import fallback, schema
from graphopt.ops.registry import RULES

_UNKNOWN = UnknownType()
_LARGEST_SIZE = 2**63 - 1


def _is_representable(dim: Dim) -> bool:
    return dim.__class__ is not int or 0 <= dim <= _LARGEST_SIZE


class OnnxSemantics:
    """The operators of ONNX, of ``graphopt`` itself, and some of ``com.microsoft``.

    Implements :class:`graphopt.ir.semantics.Semantics`.
    """

    def infer(self, node: Node) -> list[Type]:
        """Types of the outputs, one for each; :class:`UnknownType` where nothing is known.

        Raises:
            TypeInferenceError: the inputs or attributes contradict the operator.
        """
        rule = RULES.get((node.domain, node.op))
        try:
            types = rule(node) if rule is not None else fallback.infer(node)
        except TypeInferenceError:
            raise
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A rule trusts that the node fits its schema; one that doesn't ends here.
            problem = self.check(node) or f"{node.label}: its attributes or inputs are out of range: {error}"
            raise TypeInferenceError(problem) from error
        for type in types:
            if type.__class__ is TensorType and type.shape and not all(map(_is_representable, type.shape)):
                raise TypeInferenceError(
                    f"{node.label}: an output would be {type}, a size that ONNX can't represent"
                )
        missing = len(node.outputs) - len(types)
        if missing < 0:
            del types[missing:]
        elif missing:
            types += [_UNKNOWN] * missing
        return types

    def check(self, node: Node, *, canonical: bool = False) -> str | None:
        """What is wrong with arity, attributes or element types of ``node`` by its operator's schema.

        Args:
            canonical: an operator of ONNX's own domain must be one of the canonical opset, in the form
                that it has there; else any form known will do, and unknown operators are not judged.
        """
        return schema.check(node, canonical=canonical)


SEMANTICS = OnnxSemantics()
