"""Text of model files, which protobuf hands over as bytes where it is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from graphopt.errors import ModelError

if TYPE_CHECKING:
    import onnx


def check_text(texts: Iterable[str], where: str) -> None:
    """Makes sure that all are text.

    Raises:
        ModelError: one is not UTF-8.
    """
    try:
        "".join(texts)
    except TypeError:
        raise ModelError(
            f"{where} has a name or text that is not UTF-8",
            hint="the model is damaged, or not written as ONNX asks",
        ) from None


def check_model_text(model: onnx.ModelProto) -> None:
    """Checks what belongs to the model as a whole; graphs are checked as they are read.

    Raises:
        ModelError: a text is not UTF-8.
    """
    check_text((model.producer_name, model.producer_version, model.domain, model.doc_string), "the model")
    check_text(_entries(model.metadata_props), "the model's metadata")
    check_text((entry.domain for entry in model.opset_import), "the list of opsets")
    for function in model.functions:
        texts = (function.name, function.domain, function.overload, function.doc_string)
        check_text((*texts, *function.input, *function.output, *function.attribute), "a function")
        check_text((entry.domain for entry in function.opset_import), "a function")
        for attribute in function.attribute_proto:
            check_text((attribute.name,), "a function")


def check_graph_text(graph: onnx.GraphProto, where: str) -> None:
    """Checks a graph, but for its nodes.

    Raises:
        ModelError: a text is not UTF-8.
    """
    check_text((graph.name, graph.doc_string, *_entries(graph.metadata_props)), where)
    for infos in (graph.input, graph.output, graph.value_info):
        for info in infos:
            check_text((info.name, info.doc_string), where)
            if info.metadata_props:
                check_text(_entries(info.metadata_props), where)
    check_text((tensor.name for tensor in graph.initializer), where)
    check_text((tensor.values.name for tensor in graph.sparse_initializer), where)
    for annotation in graph.quantization_annotation:
        check_text((annotation.tensor_name, *_entries(annotation.quant_parameter_tensor_names)), where)


def check_node_text(node: onnx.NodeProto) -> None:
    """Checks a node, but for its attributes.

    Raises:
        ModelError: a text is not UTF-8.
    """
    texts = [*node.input, *node.output, node.op_type, node.name, node.domain, node.doc_string, node.overload]
    if node.metadata_props:
        texts += _entries(node.metadata_props)
    check_text(texts, "a node")


def _entries(entries: Iterable[onnx.StringStringEntryProto]) -> Iterator[str]:
    for entry in entries:
        yield entry.key
        yield entry.value
