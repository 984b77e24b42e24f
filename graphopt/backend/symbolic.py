"""Dimensions as expressions of TIR: one 64-bit variable for each symbol."""

from __future__ import annotations

from typing import Any, TypeAlias

from tvm import tirx

from graphopt.ir.dims import Atom, Dim, Shape

Expr: TypeAlias = Any  # a tirx expression or a Python number


def type_of(expression: Expr) -> str:
    """Name of the element type of an expression."""
    return str(expression.ty)


_FUNCTIONS = {
    "floordiv": tirx.floordiv,
    "mod": tirx.floormod,
    "min": tirx.min,
    "max": tirx.max,
    "broadcast": lambda a, b: tirx.Select(a == 1, b, a),
}


class Symbols:
    """The variables of one function, made as they are asked for.

    With ``opaque``, quotients, remainders and extrema of dimensions are variables too, computed once
    where the function starts: TVM's simplifier takes seconds over index arithmetic that spells them out.
    """

    def __init__(self, *, opaque: bool = False) -> None:
        self.opaque = opaque
        self.variables: dict[str, tirx.Var] = {}
        self._computed: dict[Atom, tuple[tirx.Var, Expr]] = {}

    def variable(self, name: str) -> tirx.Var:
        """The variable of the symbol ``name``."""
        if name not in self.variables:
            clean = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
            self.variables[name] = tirx.Var(f"d_{clean}", "int64")
        return self.variables[name]

    def definitions(self) -> list[Expr]:
        """Statements that compute the opaque variables, to stand before their uses.

        The simplifier does not look through a call with effects; LLVM drops this one, the unsigned
        maximum with 0.
        """
        zero = tirx.IntImm("int64", 0)
        return [
            tirx.Bind(variable, tirx.call_llvm_intrin("int64", "llvm.umax.i64", value, zero))
            for variable, value in self._computed.values()
        ]

    def plain(self, shape: Shape) -> list[Expr]:
        """Every dimension as an expression of the symbols' variables alone, for parameters."""
        return [self._expression(dim, False) for dim in shape]

    def expression(self, dim: Dim) -> Expr:
        """``dim`` as a 64-bit expression."""
        return self._expression(dim, self.opaque)

    def shape(self, shape: Shape) -> list[Expr]:
        """Every dimension as an expression."""
        return [self.expression(dim) for dim in shape]

    def _expression(self, dim: Dim, opaque: bool) -> Expr:
        if isinstance(dim, int):
            return tirx.IntImm("int64", dim)
        total: Expr = None
        for monomial, coefficient in dim.terms:
            term: Expr = None if coefficient == 1 and monomial else tirx.IntImm("int64", coefficient)
            for atom in monomial:
                factor = self._atom(atom, opaque)
                term = factor if term is None else term * factor
            total = term if total is None else total + term
        return total

    def _atom(self, atom: Atom, opaque: bool) -> Expr:
        if atom.op == "sym":
            return self.variable(atom.name)
        if opaque and atom in self._computed:
            return self._computed[atom][0]
        value = _FUNCTIONS[atom.op](*(self._expression(arg, opaque) for arg in atom.args))
        if not opaque:
            return value
        variable = tirx.Var(f"e{len(self._computed)}", "int64")
        self._computed[atom] = variable, value
        return variable
