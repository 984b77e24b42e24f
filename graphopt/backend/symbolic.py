"""Dimensions as expressions of TIR: one 64-bit variable for each symbol."""

from __future__ import annotations

from typing import Any, TypeAlias

from tvm import tirx

from graphopt.ir.dims import Atom, Dim, Shape

Expr: TypeAlias = Any  # a tirx expression or a Python number


def type_of(expression: Expr) -> str:
    """Name of the element type of an expression."""
    return str(expression.ty)


_FUNCTIONS = {"floordiv": tirx.floordiv, "mod": tirx.floormod, "min": tirx.min, "max": tirx.max}


class Symbols:
    """The variables of one function, made as they are asked for."""

    def __init__(self) -> None:
        self.variables: dict[str, tirx.Var] = {}

    def variable(self, name: str) -> tirx.Var:
        """The variable of the symbol ``name``."""
        if name not in self.variables:
            clean = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
            self.variables[name] = tirx.Var(f"d_{clean}", "int64")
        return self.variables[name]

    def expression(self, dim: Dim) -> Expr:
        """``dim`` as a 64-bit expression."""
        if isinstance(dim, int):
            return tirx.IntImm("int64", dim)
        total: Expr = None
        for monomial, coefficient in dim.terms:
            term: Expr = None if coefficient == 1 and monomial else tirx.IntImm("int64", coefficient)
            for atom in monomial:
                factor = self._atom(atom)
                term = factor if term is None else term * factor
            total = term if total is None else total + term
        return total

    def shape(self, shape: Shape) -> list[Expr]:
        """Every dimension as an expression."""
        return [self.expression(dim) for dim in shape]

    def _atom(self, atom: Atom) -> Expr:
        if atom.op == "sym":
            return self.variable(atom.name)
        return _FUNCTIONS[atom.op](*(self.expression(arg) for arg in atom.args))
