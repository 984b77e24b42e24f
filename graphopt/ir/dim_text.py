"""Reads dimensions from the text that ``str`` gives of them, e.g. ``2*N + floordiv(M, 4)``."""

from __future__ import annotations

import ast
import functools

from graphopt.errors import TextError
from graphopt.ir.dims import FUNCTIONS, Dim, SymDim, floordiv, mod, sym

_LARGEST = (1 << 63) - 1


@functools.lru_cache(maxsize=65536)
def parse_dim(text: str) -> Dim:
    """The dimension that ``str`` printed as ``text``.

    Raises:
        TextError: not an expression over dimensions.
    """
    try:
        return _parse_node(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise TextError(f"not a dimension: {text!r}") from error


def _parse_node(node: ast.expr) -> Dim:
    dim = _parse_expression(node)
    coefficients = [factor for _, factor in dim.terms] if isinstance(dim, SymDim) else [dim]
    if any(abs(number) > _LARGEST for number in coefficients):
        raise ValueError("a number that does not fit 64 bits")
    return dim


def _parse_expression(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return sym(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_parse_node(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _parse_node(left), _parse_node(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.FloorDiv():
                    return floordiv(a, b)
                case ast.Mod():
                    return mod(a, b)
        case ast.Call(func=ast.Name(id="sym"), args=[ast.Constant(value=str(name))], keywords=[]):
            return sym(name)
        case ast.Call(func=ast.Name(id=function), args=[a_node, b_node], keywords=[]) if (
            function in FUNCTIONS
        ):
            return FUNCTIONS[function](_parse_node(a_node), _parse_node(b_node))
    raise ValueError(ast.dump(node))
