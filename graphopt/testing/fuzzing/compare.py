"""Comparing what two graphs gave, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.ir.tensor import Array


def types_differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The first output whose element type or shape is another; "" if there is none."""
    for name, old in before.items():
        if wrong := _type_differs(old, after[name]):
            return f'output "{name}": {wrong}'
    return ""


def _type_differs(old: Any, new: Any) -> str:
    if isinstance(old, list) or old is None:
        return "" if type(old) is type(new) else f"{type(old).__name__} became {type(new).__name__}"
    was, now = (f"{x.dtype}{list(x.shape)}" for x in (np.asarray(old), np.asarray(new)))
    return "" if was == now else f"was {was} and is {now}"


def differs(old: Any, new: Any, *, unsigned: bool = False) -> str:
    """How ``new`` differs from ``old`` in any bit; "" if it does not. All NaN are the same.

    Args:
        unsigned: zeros are the same too, whatever their sign.
    """
    if (wrong := _type_differs(old, new)) or old is None:
        return wrong
    if isinstance(old, list):
        if len(old) != len(new):
            return f"had {len(old)} elements and has {len(new)}"
        return next((w for a, b in zip(old, new, strict=True) if (w := differs(a, b, unsigned=unsigned))), "")
    a, b = np.asarray(old), np.asarray(new)
    if a.dtype.kind in "OSUbiu":
        same = np.asarray(a == b)
    else:
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        x, y = a.astype(wide), b.astype(wide)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if not unsigned and a.dtype.kind != "c":
            same &= np.isnan(x) | (np.signbit(x) == np.signbit(y))
    return "" if same.all() else _first(a, b, ~same)


def beyond(old: Any, new: Any, limit: Array) -> str:
    """Where floats are further apart than ``limit`` says for each element; "" if nowhere. What is infinite
    or NaN must stay so where the limit is finite; integers must be equal."""
    a, b = np.asarray(old), np.asarray(new)
    if (wrong_type := _type_differs(old, new)) or a.dtype.kind in "OSUbiu":
        return wrong_type or differs(old, new)
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        x, y = a.astype(wide), b.astype(wide)
        close = (np.abs(x - y) <= limit) | (x == y) | (np.isnan(x) & np.isnan(y)) | ~np.isfinite(limit)
        if close.all():
            return ""
        worst = np.nanmax(np.where(close, 0, np.abs(x - y)), initial=0.0)
    return f"{_first(a, b, ~close)}, at most {float(worst):.3g} apart"


def _first(old: Array, new: Array, wrong: Array) -> str:
    at = tuple(int(i[0]) for i in np.nonzero(wrong)) if wrong.ndim else ()
    count = int(wrong.sum())
    return f"{count} of {wrong.size} elements, the first at {list(at)}: was {old[at]} and is {new[at]}"
