"""The names that are visible at one place of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir.graph import Region, Value
from graphopt.onnx_io.attributes import Binding

if TYPE_CHECKING:
    import onnx

QUANTIZATION_KEY = "quantization_annotation."
"""Prefix of the metadata keys that hold a value's quantization annotation."""


@dataclass(slots=True)
class Scope:
    """A graph or the body of a function while it is read.

    ``parent`` is the enclosing graph; the body of a function has none. ``bound`` are the
    attributes that the function was called with, ``calls`` the functions being inlined.
    ``renamed`` holds names of the caller for the results of a function.
    """

    region: Region
    opset: Mapping[str, int]
    parent: Scope | None = None
    names: dict[str, Value | None] = field(default_factory=dict)
    declared: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    annotations: dict[str, dict[str, str]] = field(default_factory=dict)
    bound: Mapping[str, Binding] = field(default_factory=dict)
    calls: tuple[tuple[str, str, str], ...] = ()
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    where: str = "the graph"
    depth: int = 0

    def find(self, name: str, user: str) -> Value | None:
        """The value that ``name`` means here; None when it is an absent input of a function.

        Raises:
            ModelError: there is none.
        """
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise ModelError(
            f'{user} in {self.where} uses "{name}", which nothing defines before it',
            hint="the model is damaged, or an initializer or a node was removed from it",
        )

    def value_name(self, name: str) -> str:
        """What a value that is called ``name`` here shall be called in the graph."""
        return self.renamed.get(name) or (self.prefix + name if name else "")

    def declare(self, proto: onnx.GraphProto) -> None:
        """Takes up what a graph says of its values."""
        self.declared = {info.name: info for info in proto.output}
        self.declared.update((info.name, info) for info in proto.value_info)
        for entry in proto.quantization_annotation:
            names = {QUANTIZATION_KEY + item.key: item.value for item in entry.quant_parameter_tensor_names}
            self.annotations[entry.tensor_name] = names

    def describe(self, value: Value, name: str, info: onnx.ValueInfoProto | None) -> None:
        """Gives ``value`` the documentation, metadata and annotation that the file has for ``name``."""
        if info is not None:
            value.doc = info.doc_string
            if info.metadata_props:
                value.metadata = {entry.key: entry.value for entry in info.metadata_props}
        annotation = self.annotations.get(name)
        if annotation:
            value.metadata = {**value.metadata, **annotation}


def given_names(proto: onnx.GraphProto) -> dict[str, None]:
    """The names that a graph defines before its first node."""
    names = dict.fromkeys(info.name for info in proto.input)
    names.update(dict.fromkeys(tensor.name for tensor in proto.initializer))
    names.update(dict.fromkeys(tensor.values.name for tensor in proto.sparse_initializer))
    return names
