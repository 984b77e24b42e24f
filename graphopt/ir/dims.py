"""Dimensions of shapes and the exact algebra on them.

A dimension is a Python ``int`` or a :class:`SymDim`, an integer polynomial over atoms in
canonical form, so that equal dimensions compare equal: ``2*(n + 1) == n + n + 2``. Atoms are
named symbols and the operations that polynomials don't close over: floor division, modulo,
minimum, maximum and broadcasting. Symbols stand for integers ≥ 0, as ONNX dimensions do.
"""

from __future__ import annotations

import functools
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Union

Dim = Union[int, "SymDim"]
_MAX_PRODUCTS = 1 << 14
"""Terms of one product; only a text made to be slow has more."""
Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of a monomial: ``op`` is ``"sym"`` (with a name) or a function of dimensions."""

    op: str
    name: str = ""
    args: tuple[Dim, ...] = ()

    @property
    def key(self) -> str:
        """Text of the atom; also its place in canonical order."""
        if self.op == "sym":
            return self.name
        return f"{self.op}({', '.join(str(arg) for arg in self.args)})"


Monomial = tuple[Atom, ...]


class SymDim:
    """A dimension that is not known at compile time, in canonical polynomial form.

    Never constant: operations that leave no symbol return an ``int``. Immutable and hashable.
    """

    __slots__ = ("_hash", "_text", "terms")

    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._text: str | None = None
        self._hash: int | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, SymDim) and self.terms == other.terms)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __str__(self) -> str:
        if self._text is None:
            self._text = _format(self.terms)
        return self._text

    def __repr__(self) -> str:
        return f"SymDim({self})"

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    @property
    def symbol(self) -> str | None:
        """The name, when this is a plain symbol, else None."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            atom = self.terms[0][0][0]
            return atom.name if atom.op == "sym" else None
        return None


@functools.lru_cache(maxsize=65536)
def sym(name: str) -> SymDim:
    """The dimension named ``name``."""
    return SymDim((((Atom("sym", name),), 1),))


def _terms(dim: Dim) -> Iterable[tuple[Monomial, int]]:
    return dim.terms if isinstance(dim, SymDim) else (((), dim),)


# Models repeat few dimensions in many shapes, so the operations remember their results; equal
# dimensions then are mostly the same object, which also makes comparing shapes cheap.
_memo = functools.lru_cache(maxsize=65536)


@_memo
def _add(a: SymDim, b: Dim) -> Dim:
    total = dict(a.terms)
    for monomial, coefficient in _terms(b):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _normal(total)


@_memo
def _multiply(a: SymDim, b: Dim) -> Dim:
    if isinstance(b, SymDim) and len(a.terms) * len(b.terms) > _MAX_PRODUCTS:
        raise ValueError("a dimension with too many terms")
    total: dict[Monomial, int] = {}
    for left, x in a.terms:
        for right, y in _terms(b):
            monomial = tuple(sorted(left + right, key=lambda atom: atom.key))
            total[monomial] = total.get(monomial, 0) + x * y
    return _normal(total)


def _normal(total: Mapping[Monomial, int]) -> Dim:
    kept = [(monomial, c) for monomial, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    kept.sort(key=lambda term: (-len(term[0]), [atom.key for atom in term[0]]))
    return SymDim(tuple(kept))


def _atom(op: str, *args: Dim) -> SymDim:
    return SymDim((((Atom(op, args=args),), 1),))


@_memo
def floordiv(a: Dim, b: Dim) -> Dim:
    """Floor of ``a / b``. Whole parts are taken out: ``(2*n + 3) // 2`` is ``n + 1``.

    Raises:
        ZeroDivisionError: ``b`` is the constant 0.
    """
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError("division of a dimension by zero")
        if isinstance(a, int):
            return a // b
        if b < 0:
            return floordiv(-a, -b)
        whole = {m: c // b for m, c in a.terms if c % b == 0 or m == ()}
        rest = {m: c % b for m, c in a.terms if c % b}
        if any(m for m in rest):
            rest = {m: (c if m == () else dict(a.terms)[m]) for m, c in rest.items()}
            return _normal(whole) + _nested_floordiv(_normal(rest), b)
        return _normal(whole)
    quotient = _exact_quotient(a, b)
    return _atom("floordiv", a, b) if quotient is None else quotient


def _nested_floordiv(a: Dim, b: int) -> Dim:
    """``(x // c + k) // b`` is ``(x + k*c) // (b*c)`` for constants, ``b`` and ``c`` positive."""
    if isinstance(a, SymDim):
        (monomial, factor), *rest = a.terms
        offset = rest[0][1] if len(rest) == 1 and rest[0][0] == () else 0 if not rest else None
        if factor == 1 and len(monomial) == 1 and offset is not None and monomial[0].op == "floordiv":
            x, c = monomial[0].args
            if isinstance(c, int) and c > 0:
                return floordiv(x + offset * c, b * c)
    return _atom("floordiv", a, b)


def _exact_quotient(a: Dim, b: SymDim) -> Dim | None:
    """``a / b`` when ``b`` is one monomial that divides every term of ``a``, or equals it up to a factor."""
    if isinstance(a, int):
        return 0 if a == 0 else None
    if a == b:
        return 1
    if len(b.terms) != 1:
        return None
    divisor, factor = b.terms[0]
    total: dict[Monomial, int] = {}
    for monomial, c in a.terms:
        left = list(monomial)
        for atom in divisor:
            if atom not in left:
                return None
            left.remove(atom)
        if c % factor:
            return None
        total[tuple(left)] = c // factor
    return _normal(total)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Ceiling of ``a / b``."""
    return -floordiv(-a, b)


@_memo
def mod(a: Dim, b: Dim) -> Dim:
    """``a - b * floor(a / b)``."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int):
        rest = _normal({m: (c % b if m == () else c) for m, c in _terms(a) if c % b})
        return rest % b if isinstance(rest, int) else _atom("mod", rest, b)
    return 0 if _exact_quotient(a, b) is not None else _atom("mod", a, b)


@_memo
def _extremum(op: str, pick: Callable[[int, int], int], a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return pick(a, b)
    difference = a - b
    if isinstance(difference, int):
        return a if pick(difference, 0) == difference else b
    absorbed = _absorbed(op, a, b)
    absorbed = _absorbed(op, b, a) if absorbed is None else absorbed
    if absorbed is not None:
        return absorbed
    low, high = sorted((a, b), key=str)
    return _atom(op, low, high)


def _absorbed(op: str, a: Dim, b: Dim) -> Dim | None:
    """What is left when ``a`` is an extremum that has ``b`` in it: ``max(min(x, b), b)`` is ``b``."""
    if not isinstance(a, SymDim) or len(a.terms) != 1:
        return None
    (monomial, factor) = a.terms[0]
    if factor != 1 or len(monomial) != 1 or monomial[0].op not in ("min", "max") or b not in monomial[0].args:
        return None
    return a if monomial[0].op == op else b


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions."""
    return _extremum("min", min, a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions."""
    return _extremum("max", max, a, b)


@_memo
def broadcast(a: Dim, b: Dim) -> Dim:
    """The dimension that two broadcast to, where they do (they are equal, or one of them is 1).

    Not their maximum: 0 and 1 broadcast to 0.
    """
    if a == b or b == 1:
        return a
    if a == 1 or isinstance(b, int):
        return b
    if isinstance(a, int) or b in _broadcast_args(a):
        return a
    if a in _broadcast_args(b):
        return b
    if _is_capped(a, b):
        return b
    if _is_capped(b, a):
        return a
    low, high = sorted((a, b), key=str)
    return _atom("broadcast", low, high)


def _is_capped(capped: Dim, dim: Dim) -> bool:
    """Whether the first is min(dim, n) with n >= 1: it fits ``dim`` only where the two are equal or it is 1."""
    if isinstance(capped, int) or len(capped.terms) != 1 or capped.terms[0][1] != 1:
        return False
    monomial = capped.terms[0][0]
    if len(monomial) != 1 or monomial[0].op != "min" or dim not in monomial[0].args:
        return False
    return all(arg == dim or (isinstance(arg, int) and arg >= 1) for arg in monomial[0].args)


def _broadcast_args(dim: SymDim) -> tuple[Dim, ...]:
    """What broadcasts to ``dim``; empty where it is anything else."""
    if len(dim.terms) != 1 or dim.terms[0][1] != 1 or len(dim.terms[0][0]) != 1:
        return ()
    atom = dim.terms[0][0][0]
    if atom.op != "broadcast":
        return ()
    nested = [inner for arg in atom.args if isinstance(arg, SymDim) for inner in _broadcast_args(arg)]
    return (*atom.args, *nested)


def product(dims: Iterable[Dim]) -> Dim:
    """The product; 1 for no dimensions."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def symbols(dim: Dim) -> Iterator[str]:
    """Names of the symbols in ``dim``, in order of first appearance, each once."""
    seen: dict[str, None] = {}
    _collect(dim, seen)
    return iter(seen)


def _collect(dim: Dim, seen: dict[str, None]) -> None:
    for monomial, _ in _terms(dim):
        for atom in monomial:
            if atom.op == "sym":
                seen[atom.name] = None
            for arg in atom.args:
                _collect(arg, seen)


FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "floordiv": floordiv,
    "mod": mod,
    "min": minimum,
    "max": maximum,
    "broadcast": broadcast,
}
"""What atoms other than symbols compute, by the name in their text."""


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced; those that ``values`` lacks stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            if atom.op == "sym":
                term = term * values.get(atom.name, sym(atom.name))
            else:
                a, b = (substitute(arg, values) for arg in atom.args)
                term = term * FUNCTIONS[atom.op](a, b)
        total = total + term
    return total


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that ``dim`` stands for.

    Raises:
        KeyError: a symbol has no value.
    """
    result = substitute(dim, values)
    if isinstance(result, int):
        return result
    raise KeyError(next(symbols(result)))


def _format(terms: tuple[tuple[Monomial, int], ...]) -> str:
    parts: list[str] = []
    for monomial, c in terms:
        body = "*".join(_format_atom(atom) for atom in monomial)
        magnitude = str(abs(c)) if not body else body if abs(c) == 1 else f"{abs(c)}*{body}"
        sign = "-" if c < 0 else "+"
        parts.append(f"{sign} {magnitude}" if parts else ("-" + magnitude if c < 0 else magnitude))
    return " ".join(parts)


def _format_atom(atom: Atom) -> str:
    if atom.op != "sym" or _is_plain(atom.name):
        return atom.key
    return "sym(" + repr(atom.name) + ")"


def _is_plain(name: str) -> bool:
    plain = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
    return plain and name not in FUNCTIONS and name != "sym"
