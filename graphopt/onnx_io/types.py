"""Types and dimensions out of ONNX protos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from graphopt.errors import ModelError, TextError
from graphopt.ir import dims
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.dims import Dim, Shape, sym
from graphopt.ir.types import (
    DType,
    OptionalType,
    SequenceType,
    SparseTensorType,
    TensorType,
    Type,
    UnknownType,
)
from graphopt.onnx_io.text import check_text

if TYPE_CHECKING:
    import onnx

_ANONYMOUS = frozenset({"", "?", "*", "None", "none", "unk", "dynamic"})
_EXPRESSION = re.compile(r"[A-Za-z_][\w ,()*+/%-]*|\d+ *\*[\w ,()*+/%-]*")
_MAX_EXPRESSION = 64


def is_anonymous(text: str) -> bool:
    """Whether ``text`` names no dimension: exporters write it for "unknown"."""
    return text in _ANONYMOUS or re.fullmatch(r"-?\d+", text) is not None


class DimReader:
    """Reads dimensions of one model.

    The same text is the same dimension everywhere in a model; a dimension without a name, and
    a name that exporters use for "unknown" (``""``, ``"?"``, ``"-1"``, ``"0"``), is a fresh
    symbol each time, named after its value.

    Args:
        fixed: numbers for named dimensions.
        sizes: names that are by themselves a dimension of an input. A text such as ``n + 1`` is
            arithmetic when all its names are, else the name of a dimension.
    """

    def __init__(self, fixed: Mapping[str, int], sizes: Iterable[str] = ()) -> None:
        self.fixed = fixed
        self.sizes = frozenset((*sizes, *fixed))
        self.anonymous: set[str] = set()
        self._by_text: dict[str, Dim] = {}
        self._taken: set[str] = set()

    def fresh(self, hint: str) -> Dim:
        """A new symbol that no other dimension of the model has."""
        base = re.sub(r"\W", "_", hint, flags=re.ASCII) or "d"
        base = base if base[0].isalpha() or base[0] == "_" else f"d_{base}"
        name, count = base, 0
        while name in self._taken or name in self.fixed:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self.anonymous.add(name)
        return sym(name)

    def named(self, text: str, hint: str) -> Dim:
        """The dimension that ``text`` names, a fresh one when it names none."""
        check_text((text,), f'the shape of "{hint}"')
        if is_anonymous(text):
            return self.fresh(hint)
        found = self._by_text.get(text)
        if found is None:
            found = self._by_text[text] = self._parse(text)
        return found

    def _parse(self, text: str) -> Dim:
        dim: Dim = sym(text)
        if not text.isidentifier() and len(text) <= _MAX_EXPRESSION and _EXPRESSION.fullmatch(text):
            try:
                dim = parse_dim(text)
            except TextError:
                dim = sym(text)
            if not self.sizes.issuperset(dims.symbols(dim)):
                dim = sym(text)
        clashes = {name: self.fresh(name) for name in dims.symbols(dim) if name in self.anonymous}
        self._taken.update(dims.symbols(dim))
        return dims.substitute(dim, {**clashes, **self.fixed})

    def dim(self, proto: onnx.TensorShapeProto.Dimension, hint: str) -> Dim:
        """The dimension of a proto."""
        kind = proto.WhichOneof("value")
        if kind == "dim_value":
            return int(proto.dim_value) if proto.dim_value >= 0 else self.fresh(hint)
        return self.named(proto.dim_param, hint) if kind == "dim_param" else self.fresh(hint)

    def shape(self, proto: onnx.TensorShapeProto, hint: str) -> Shape:
        """The shape of a proto; fresh symbols are named ``<hint>_d<axis>``."""
        return tuple(self.dim(dim, f"{hint}_d{axis}") for axis, dim in enumerate(proto.dim))

    def type(self, proto: onnx.TypeProto, hint: str) -> Type:
        """The type of a proto. Map types are unknown types: no operator of ONNX's main domain has one.

        Raises:
            ModelError: the element type is none of ONNX's.
        """
        kind = proto.WhichOneof("value")
        if kind in ("tensor_type", "sparse_tensor_type"):
            inner = getattr(proto, kind)
            shape = self.shape(inner.shape, hint) if inner.HasField("shape") else None
            dtype = element_type(inner.elem_type, f'"{hint}"') if inner.elem_type else None
            return TensorType(dtype, shape) if kind == "tensor_type" else SparseTensorType(dtype, shape)
        if kind == "sequence_type":
            return SequenceType(self.type(proto.sequence_type.elem_type, hint))
        if kind == "optional_type":
            return OptionalType(self.type(proto.optional_type.elem_type, hint))
        return UnknownType()


def element_type(code: int, where: str) -> DType:
    """The element type with ONNX's code ``code``.

    Raises:
        ModelError: there is none.
    """
    try:
        return DType(code)
    except ValueError:
        raise ModelError(
            f"{where} has element type {code}, which ONNX does not define",
            hint="the file is damaged, or newer than this version of graphopt",
        ) from None
