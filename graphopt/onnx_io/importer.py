"""ONNX protos to a graph: scopes, functions inlined, regions, every value typed on the way.

The nodes are read from the protos themselves rather than through onnx_ir's model: a fault is
then found at the node that has it, sparse tensors and map types do not stop the import, and
50,000 nodes are read four times as fast.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir import dims
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.opset import CANONICAL_OPSET, newest_opset
from graphopt.ir.semantics import Semantics
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import Type, refines
from graphopt.onnx_io.attributes import AttributeReader, Binding
from graphopt.onnx_io.constants import constant_data
from graphopt.onnx_io.external import ExternalFiles
from graphopt.onnx_io.inlined_size import inlined_size
from graphopt.onnx_io.nodes import NodeMaker
from graphopt.onnx_io.order import node_label, ordered_nodes
from graphopt.onnx_io.schemas import exists, since_version
from graphopt.onnx_io.scope import Scope, given_names
from graphopt.onnx_io.settle import settle
from graphopt.onnx_io.tensors import dense_from_sparse, tensor_from_proto
from graphopt.onnx_io.text import check_graph_text, check_model_text, check_node_text
from graphopt.onnx_io.types import DimReader
from graphopt.onnx_io.versions import VersionedNodes

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

OLDEST_OPSET = 6
MAX_NODES = 2_000_000
MAX_DEPTH = 64


class Importer:
    """Builds one graph from one model."""

    def __init__(
        self, model: onnx.ModelProto, files: ExternalFiles, dims: DimReader, semantics: Semantics
    ) -> None:
        self.model = model
        self.files = files
        self.dims = dims
        self.attributes = AttributeReader(files, dims)
        self.graph = Graph(model.graph.name or "main")
        self.builder = Builder(self.graph)
        self.maker = NodeMaker(self.builder, semantics, dims, self._region)
        self.versioned = VersionedNodes(self.maker)
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}

    def run(self, input_types: Mapping[str, Type]) -> Graph:
        """The graph; ``input_types`` replace what the model declares of its inputs.

        Raises:
            ModelError: the model is not valid, or can't be represented.
        """
        model, graph = self.model, self.graph
        check_model_text(model)
        if self.functions and inlined_size(model, self.functions) > MAX_NODES:
            raise ModelError(
                f"the model has more than {MAX_NODES} nodes once its functions are inlined",
                hint="functions that call each other many times grow exponentially",
            )
        opset = self._opset(model.opset_import)
        graph.metadata = {entry.key: entry.value for entry in model.metadata_props}
        graph.body.metadata = {entry.key: entry.value for entry in model.graph.metadata_props}
        graph.doc, graph.body.doc = model.doc_string, model.graph.doc_string
        graph.producer = (model.producer_name, model.producer_version)
        graph.model_domain, graph.model_version = model.domain, model.model_version
        graph.opset = {**opset, "": CANONICAL_OPSET}
        scope = Scope(graph.body, opset)
        scope.declare(model.graph)
        self._root_inputs(scope, model.graph, input_types)
        self._initializers(scope, model.graph)
        self._nodes(scope, model.graph.node, given_names(model.graph))
        self._root_outputs(scope, model.graph)
        graph.opset[""], graph.unverifiable = self.versioned.newest, tuple(self.versioned.unverifiable)
        return graph

    def _opset(self, imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
        opset: dict[str, int] = {}
        for entry in imports:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            opset[domain] = max(entry.version, opset.get(domain, 0))
        version = opset.setdefault("", CANONICAL_OPSET if opset else 1)
        if version < OLDEST_OPSET:
            raise ModelError(
                f"the model uses opset {version} of ONNX, older than {OLDEST_OPSET}, the oldest that is read",
                hint="convert it to opset 13 or newer with onnx.version_converter or the exporter that made it",
            )
        if version > newest_opset():
            raise ModelError(
                f"the model uses opset {version} of ONNX; the newest known here is {newest_opset()}",
                hint="install a newer onnx package, or export the model for an older opset",
            )
        return opset

    # --- inputs, constants, outputs -----------------------------------------------------------

    def _root_inputs(self, scope: Scope, proto: onnx.GraphProto, types: Mapping[str, Type]) -> None:
        for info in proto.input:
            if info.name in scope.names or not info.name:
                what = f'two inputs named "{info.name}"' if info.name else "an input without a name"
                raise ModelError(f"the graph has {what}", hint="give every input a name of its own")
            type = types.get(info.name)
            if type is None:
                type = self.dims.type(info.type, info.name)
            value = self.builder.input(info.name, type, scope.region)
            scope.describe(value, info.name, info)
            scope.names[info.name] = value
            for dim in getattr(type, "shape", None) or ():
                self.maker.known.update(dims.symbols(dim))

    def _initializers(self, scope: Scope, proto: onnx.GraphProto) -> None:
        seen: set[str] = set()
        constants: list[tuple[str, Tensor]] = []
        for tensor in proto.initializer:
            where = f'initializer "{tensor.name}"'
            constants.append((tensor.name, tensor_from_proto(tensor, self.files, where)))
        for sparse in proto.sparse_initializer:
            where = f'sparse initializer "{sparse.values.name}"'
            constants.append((sparse.values.name, dense_from_sparse(sparse, self.files, where)))
        for name, data in constants:
            if not name or name in seen:
                what = f'two initializers named "{name}"' if name else "an initializer without a name"
                raise ModelError(f"{scope.where} has {what}", hint="give every initializer a name of its own")
            seen.add(name)
            value = scope.names.get(name)
            if value is not None:
                self._default(scope, value, data)
            else:
                value = self.builder.constant(data, scope.value_name(name))
                scope.names[name] = value
            scope.describe(value, name, scope.declared.get(name))

    def _default(self, scope: Scope, value: Value, data: Tensor) -> None:
        if not refines(data.type, value.type):
            raise ModelError(
                f'input "{value.name}" of {scope.where} is declared {value.type}, its initializer is {data.type}'
            )
        if self.model.ir_version >= 4 and scope.parent is None:
            value.const = data
            return
        # Before IR version 4 every initializer had to be an input too; it is none to the caller.
        self.builder.constant_instead(value, data)

    def _root_outputs(self, scope: Scope, proto: onnx.GraphProto) -> None:
        values: list[Value] = []
        for info in proto.output:
            value = scope.find(info.name, "the list of outputs")
            if value is None or info.name in self.graph.output_names:
                raise ModelError(f'"{info.name}" is twice among the outputs of the graph')
            self._check_output(value, info)
            values.append(value)
            self.graph.output_names.append(info.name)
        if not values:
            raise ModelError("the graph has no outputs", hint="declare at least one output")
        self.builder.outputs(values)

    def _check_output(self, value: Value, info: onnx.ValueInfoProto) -> None:
        declared = self.dims.type(info.type, info.name)
        merged, conflict = settle(declared, value.type, self.maker.known, self.dims.anonymous)
        if conflict in ("element type", "kind"):
            raise ModelError(
                f'output "{info.name}" is declared {declared}, and its operator gives {value.type}',
                hint="correct the declaration in the model",
            )
        if value.producer is not None:
            value.type = merged

    # --- nodes --------------------------------------------------------------------------------

    def _nodes(self, scope: Scope, nodes: Sequence[onnx.NodeProto], given: Mapping[str, None]) -> None:
        if scope.depth > MAX_DEPTH:
            raise ModelError(f"graphs and functions nest deeper than {MAX_DEPTH}, in {scope.where}")
        for node in nodes:
            check_node_text(node)
        for node in ordered_nodes(nodes, given, scope.where):
            self._node(scope, node)

    def _node(self, scope: Scope, proto: onnx.NodeProto) -> None:
        label = node_label(proto)
        inputs = [scope.find(name, label) if name else None for name in proto.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = list(proto.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        if not outputs:
            raise ModelError(
                f"{label} in {scope.where} has no outputs", hint="remove the node: it does nothing"
            )
        function = self.functions and self.functions.get((proto.domain, proto.op_type, proto.overload))
        if function:
            self._inline(scope, proto, function, inputs, outputs)
            return
        attrs, graphs = self.attributes.read(proto, scope.bound, label)
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx") and len(outputs) == 1:
            value = self.builder.constant(constant_data(attrs, label), scope.value_name(outputs[0]))
            scope.describe(value, outputs[0], scope.declared.get(outputs[0]))
            scope.names[outputs[0]] = value
            return
        version = self._version(scope, proto, label)
        values = self.versioned.make(scope, proto, label, inputs, outputs, attrs, graphs, version)
        for name, value in zip(outputs, values, strict=True):
            if name:
                self.maker.settle(scope, name, value, label)
                scope.names[name] = value

    def _version(self, scope: Scope, proto: onnx.NodeProto, label: str) -> int | None:
        if proto.domain not in ("", "ai.onnx"):
            self.graph.opset.setdefault(proto.domain, scope.opset.get(proto.domain, 1))
            return None
        opset = scope.opset[""]
        version = since_version(proto.op_type, opset)
        if version is None and exists(proto.op_type, ""):
            raise ModelError(
                f"{label} in {scope.where}: opset {opset}, which the model imports, has no such operator yet",
                hint="the opset import of the model is wrong",
            )
        return version

    # --- regions and functions ----------------------------------------------------------------

    def _region(
        self, scope: Scope, region: Region, label: str, binding: Binding, types: Sequence[Type], node: Node
    ) -> None:
        proto: onnx.GraphProto = binding.proto.g
        parent = binding.scope if isinstance(binding.scope, Scope) else scope
        inner = Scope(
            region,
            parent.opset,
            parent,
            bound=parent.bound,
            calls=scope.calls,
            prefix=parent.prefix,
            where=f'graph "{proto.name}" of {label}',
            depth=scope.depth + 1,
        )
        region.doc = proto.doc_string
        region.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        check_graph_text(proto, f"a graph of {label}")
        inner.declare(proto)
        for info, given in zip(proto.input, types, strict=True):
            if info.name in inner.names:
                raise ModelError(f'{inner.where} has two inputs named "{info.name}"')
            value = self.builder.input(inner.value_name(info.name), given, region)
            inner.names[info.name] = value
            inner.declared[info.name] = info
            inner.describe(value, info.name, info)
            declared = self.dims.type(info.type, info.name)
            self.maker.declared[value] = declared
            value.type = settle(declared, given, self.maker.known, self.dims.anonymous)[0]
        self._initializers(inner, proto)
        self._nodes(inner, proto.node, given_names(proto))
        outputs = [inner.find(info.name, "the list of outputs") for info in proto.output]
        if any(value is None for value in outputs):
            raise ModelError(f"an output of {inner.where} is an absent input of a function")
        self.builder.outputs([value for value in outputs if value is not None], region)

    def _inline(
        self,
        scope: Scope,
        call: onnx.NodeProto,
        function: onnx.FunctionProto,
        inputs: list[Value | None],
        outputs: list[str],
    ) -> None:
        key = (function.domain, function.name, function.overload)
        where = f'function "{function.domain}.{function.name}"'
        label = node_label(call)
        if key in scope.calls:
            raise ModelError(f"{where} calls itself, through {label}", hint="functions must not recur")
        if len(inputs) > len(function.input) or len(outputs) > len(function.output):
            raise ModelError(f"{label} has more inputs or outputs than {where}")
        inner = Scope(
            scope.region,
            self._function_opset(scope, function),
            bound=_bind(scope, call, function),
            calls=(*scope.calls, key),
            prefix=f"{scope.prefix}{call.name or function.name}/",
            renamed={
                own: scope.value_name(outer)
                for own, outer in zip(function.output, outputs, strict=False)
                if outer
            },
            where=where,
            depth=scope.depth + 1,
        )
        inner.names.update(zip(function.input, inputs + [None] * len(function.input), strict=False))
        self._nodes(inner, function.node, dict.fromkeys(function.input))
        for own, outer in zip(function.output, outputs, strict=False):
            if outer:
                value = inner.find(own, label)
                scope.names[outer] = value
                if value is not None:
                    self.maker.settle(scope, outer, value, label)

    def _function_opset(self, scope: Scope, function: onnx.FunctionProto) -> Mapping[str, int]:
        if not function.opset_import:
            return scope.opset
        opset = self._opset(function.opset_import)
        for domain, version in opset.items():
            if domain:
                self.graph.opset[domain] = max(version, self.graph.opset.get(domain, 0))
        return opset


def _bind(scope: Scope, call: onnx.NodeProto, function: onnx.FunctionProto) -> dict[str, Binding]:
    bound = {attr.name: Binding(attr, None) for attr in function.attribute_proto}
    for attr in call.attribute:
        if not attr.ref_attr_name:
            bound[attr.name] = Binding(attr, scope)
        elif attr.ref_attr_name in scope.bound:
            bound[attr.name] = scope.bound[attr.ref_attr_name]
    return bound
