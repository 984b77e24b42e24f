"""Reads the text of types back; ``str(type)`` writes it."""

from __future__ import annotations

import functools
import re

from graphopt.errors import TextError
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.types import (
    DType,
    OptionalType,
    QuantScheme,
    SequenceType,
    SparseTensorType,
    TensorType,
    Type,
    UnknownType,
)

_QUOTED = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_TENSOR = rf"(?:[a-z0-9]+|\?)\[(?:[^\]'\"\n%={{}}]|{_QUOTED})*\](?:<(?:[^>'\"\n]|{_QUOTED})*>)?"
_CORE = re.compile(rf"{_TENSOR}|unknown")
_WRAPPERS = re.compile(r"(?:(?:seq|optional|sparse)\()*")
_PARTS = re.compile(rf"([a-z0-9]+|\?)\[((?:[^\]'\"\n]|{_QUOTED})*)\](?:<((?:[^>'\"\n]|{_QUOTED})*)>)?")
_EXTRA = re.compile(
    r"(?:q(\d{1,9})([su])(?: axis=(-?\d{1,9}))?(?: block=(\d{1,9}))?)?(?:, |^|$)(?:layout=(nCx[1-9]\d?c))?"
)
_NESTING = 32


@functools.lru_cache(maxsize=65536)
def parse_type(text: str) -> Type:
    """The type that ``str`` printed as ``text``.

    Raises:
        TextError: not a type.
    """
    return _parse(text.strip(), _NESTING)


def _parse(text: str, depth: int) -> Type:
    if text == "unknown":
        return UnknownType()
    for prefix in ("seq", "optional", "sparse"):
        if text.startswith(prefix + "("):
            if depth == 0 or not text.endswith(")"):
                raise TextError(f"not a type: {text[:60]!r}")
            inner = _parse(text[len(prefix) + 1 : -1], depth - 1)
            if prefix == "seq":
                return SequenceType(inner)
            if prefix == "optional":
                return OptionalType(inner)
            if isinstance(inner, TensorType):
                return SparseTensorType(inner.dtype, inner.shape)
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise TextError(f"not a type: {text[:60]!r}")
    try:
        dtype = None if parts[1] == "?" else DType.parse(parts[1])
    except KeyError:
        raise TextError(f"there is no element type {parts[1]!r}") from None
    shape = None if parts[2].strip() == "*" else tuple(parse_dim(dim) for dim in split_dims(parts[2]))
    quant, layout = _extra(parts[3])
    return TensorType(dtype, shape, quant, layout)


def type_at(text: str, at: int) -> str | None:
    """What looks like a type at this place of a text, None if nothing does."""
    wrappers = _WRAPPERS.match(text, at)
    assert wrappers is not None
    core = _CORE.match(text, wrappers.end())
    depth = wrappers[0].count("(")
    if core is None or not text.startswith(")" * depth, core.end()):
        return None
    return text[at : core.end() + depth]


def split_dims(text: str) -> list[str]:
    """The texts of the dimensions between brackets."""
    if not text.strip():
        return []
    if "(" not in text:
        return [part.strip() for part in text.split(",")]
    found, depth, start, quoted, escaped = [], 0, 0, "", False
    for at, char in enumerate(text):
        if quoted:
            if escaped or char == "\\":
                escaped = not escaped
            elif char == quoted:
                quoted = ""
        elif char in "'\"":
            quoted = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def _extra(text: str | None) -> tuple[QuantScheme | None, str | None]:
    if text is None:
        return None, None
    parts = _EXTRA.fullmatch(text)
    if parts is None or not text:
        raise TextError(f"neither a quantization scheme nor a layout: {text!r}")
    if parts[1] is None:
        return None, parts[5]
    axis = None if parts[3] is None else int(parts[3])
    return QuantScheme(int(parts[1]), parts[2] == "s", axis, int(parts[4] or 0)), parts[5]
