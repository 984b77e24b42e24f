"""Shape functions on symbolic dimensions: pure arithmetic, no nodes. Formulas are those of the ONNX
operator specifications; symbols stand for integers ≥ 0."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from graphopt.ir import dims
from graphopt.ir.dims import Atom, Dim, Shape, ceildiv, floordiv, maximum, minimum, product

UNBOUNDED = 10**9
"""Slice ends at or above this mean "to the end"."""

_CACHED = 4096  # Models repeat few combinations of sizes and windows, and the algebra is slow.


def lower_bound(dim: Dim) -> int | None:
    """The largest known number that ``dim`` never goes below, None if none is known."""
    return _bound(dim, 1)


def upper_bound(dim: Dim) -> int | None:
    """The smallest known number that ``dim`` never exceeds, None if none is known."""
    return _bound(dim, -1)


def is_nonnegative(dim: Dim) -> bool:
    """Whether ``dim`` is certainly ≥ 0."""
    low = lower_bound(dim)
    return low is not None and low >= 0


def _bound(dim: Dim, sign: int) -> int | None:
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        term = 1
        for atom in monomial:
            low = _atom_low(atom)
            wanted = low if coefficient * sign > 0 else _atom_high(atom)
            if wanted is None or (len(monomial) > 1 and (low is None or low < 0)):
                return None  # without the bound that is needed, or a factor of unknown sign
            term *= wanted
        total += coefficient * term
    return total


def _atom_low(atom: Atom) -> int | None:
    if atom.op == "sym":
        return 0
    a, b = (lower_bound(arg) for arg in atom.args)
    if atom.op == "min":
        return None if a is None or b is None else min(a, b)
    if atom.op == "max":
        known = [bound for bound in (a, b) if bound is not None]
        return max(known) if known else None
    if atom.op == "broadcast":
        return None if a is None or b is None else min(a, b)
    if b is None or b < 0:
        return None
    if atom.op == "mod":
        return 0
    divisor = atom.args[1]
    if a is None:
        return None
    if isinstance(divisor, int) and divisor > 0:
        return a // divisor
    return 0 if a >= 0 else None


def _atom_high(atom: Atom) -> int | None:
    if atom.op == "sym":
        return None
    a, b = (upper_bound(arg) for arg in atom.args)
    if atom.op == "min":
        known = [bound for bound in (a, b) if bound is not None]
        return min(known) if known else None
    if atom.op in ("max", "broadcast"):
        return None if a is None or b is None else max(a, b)
    if atom.op == "mod":
        return None if b is None or b <= 0 else b - 1
    divisor = atom.args[1]
    return a // divisor if a is not None and isinstance(divisor, int) and divisor > 0 else None


def broadcast_dim(a: Dim, b: Dim) -> Dim | None:
    """The dimension that two broadcast to, None if they certainly can't."""
    if isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b):
        return None
    return dims.broadcast(a, b)


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The shape that two broadcast to (NumPy rules), None if they can't."""
    if a == b:
        return a
    if len(a) < len(b):
        a, b = b, a
    lead = len(a) - len(b)
    result = list(a[:lead])
    for left, right in zip(a[lead:], b, strict=True):
        dim = broadcast_dim(left, right)
        if dim is None:
            return None
        result.append(dim)
    return tuple(result)


@functools.lru_cache(maxsize=_CACHED)
def same_padding_output(size: Dim, stride: int) -> Dim:
    """Output size of a window operator with ``auto_pad`` SAME_UPPER or SAME_LOWER."""
    return ceildiv(size, stride)


@functools.lru_cache(maxsize=_CACHED)
def window_output(
    size: Dim, kernel: Dim, stride: int, dilation: int, begin: int, end: int, ceil: bool = False
) -> Dim:
    """Output size of a convolution or pooling along one axis with explicit padding.

    With ``ceil`` the last window may run over the end, but it must not start in the end padding:
    ``ceildiv`` is monotone, so both conditions fit in one division.
    """
    extent = (kernel - 1) * dilation + 1
    if not ceil:
        room = size + (begin + end) - extent
        if isinstance(room, int) and room < 0:
            # ONNX and its runtimes truncate: a stride that is larger than what is missing gives one output.
            return 1 - (-room // stride)
        return floordiv(room, stride) + 1
    over = minimum(end - extent + stride, 0)
    return ceildiv(size + begin + over, stride)


@functools.lru_cache(maxsize=_CACHED)
def transposed_output(
    size: Dim, kernel: Dim, stride: int, dilation: int, begin: int, end: int, extra: int
) -> Dim:
    """Output size of a transposed convolution along one axis."""
    return (size - 1) * stride + extra + (kernel - 1) * dilation + 1 - (begin + end)


def same_pads(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Padding (begin, end) that ``auto_pad`` SAME_UPPER (or SAME_LOWER) stands for."""
    output = -(-size // stride)
    total = max((output - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def slice_places(size: int, start: int, end: int, step: int) -> range:
    """The places that ``[start:end:step]`` takes of ``size`` elements.

    Python's slices but for two things: backwards, a start before the front means the first element,
    and an end of INT_MAX means "all the rest" in both directions (so ONNX Runtime reads it).
    """
    if step < 0 and size and start < -size:
        start = -size
    if step < 0 and end in (2**31 - 1, 2**63 - 1):
        end = -size - 1
    return range(*slice(start, end, step).indices(size))


@functools.lru_cache(maxsize=_CACHED)
def slice_dim(size: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    """Number of elements that ``[start:end:step]`` takes of an axis, None when that can't be said.

    Negative starts and ends count from the end, everything is clamped to the axis (ONNX Slice).

    Raises:
        ZeroDivisionError: ``step`` is 0.
    """
    if step == 0:
        raise ZeroDivisionError("a slice with step 0")
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(slice_places(size, start, end, step))
    if step < 0:
        whole = start in (-1, size - 1) or (isinstance(start, int) and start >= UNBOUNDED)
        return ceildiv(size, -step) if whole and isinstance(end, int) and end <= -UNBOUNDED else None
    first, last = _from_front(size, start), _from_front(size, end)
    if first is None or last is None:
        return None
    # A start past the end needs no clamping, the length becomes 0; nor does an end before the front.
    low = first if is_nonnegative(first) else maximum(first, 0)
    high = size if isinstance(end, int) and end >= UNBOUNDED else at_most(last, size)
    length = ceildiv(high - low, step)
    return length if is_nonnegative(length) else maximum(length, 0)


def _from_front(size: Dim, position: Dim) -> Dim | None:
    if is_nonnegative(position):
        return position
    high = upper_bound(position)
    return size + position if high is not None and high < 0 else None


def at_most(value: Dim, limit: Dim) -> Dim:
    """The smaller of two, with bounds used to say which one it is where that is sure."""
    if is_nonnegative(limit - value):
        return value
    return limit if is_nonnegative(value - limit) else minimum(value, limit)


def reshape(source: Shape | None, target: Sequence[Dim | None]) -> list[Dim | None] | None:
    """Fills in the one entry of ``target`` that is -1 or unknown from the number of elements.

    ``target`` has zeros already replaced. Entries that can't be filled in stay None; None for the
    whole when the numbers of elements certainly differ.
    """
    open_places = [i for i, dim in enumerate(target) if dim is None or dim == -1]
    left = None if source is None else list(source)
    right: list[Dim] = []
    for dim in target:
        if dim is None or dim == -1:
            continue
        if left is not None and dim in left and dim != 0:
            left.remove(dim)
        else:
            right.append(dim)
    result: list[Dim | None] = [None if dim == -1 else dim for dim in target]
    if left is None:
        return result
    total, known = product(left), product(right)
    if not open_places:
        return None if isinstance(total, int) and isinstance(known, int) and total != known else result
    if len(open_places) == 1 and known != 0:
        if isinstance(total, int) and isinstance(known, int) and total % known:
            return None
        result[open_places[0]] = floordiv(total, known)
    return result
