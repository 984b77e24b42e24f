"""Random graphs for property tests: every kind of type, attribute, constant, region and name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from graphopt.ir.builder import Builder
from graphopt.ir.dims import Dim, ceildiv, maximum, sym
from graphopt.ir.graph import Attr, Graph, Node, RefAttr, Region, TypeAttr, Value
from graphopt.ir.tensor import Tensor
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

TEXTS = st.text(max_size=8)
NAMES = st.one_of(
    st.sampled_from(
        ["x", "onnx::Conv_1", "/model/layer.0/Add", "x:0", "a b", 'q"uote', "%", "1", "ü", "return"]
    ),
    st.text(min_size=1, max_size=6),
)
SYMBOLS = st.sampled_from(["n", "batch", "a b", "for", "min", "]", "'", ","]).map(sym)


class FirstInput:
    """Semantics for tests: an output has the type of the first input; op ``Bad`` has no valid form."""

    def infer(self, node: Node) -> list[Type]:
        known = next((v.type for v in node.inputs if v is not None), UnknownType())
        return [known for _ in node.outputs]

    def check(self, node: Node, *, canonical: bool = False) -> str | None:
        return "no such form" if node.op == "Bad" else None


DIMS: st.SearchStrategy[Dim] = st.one_of(
    st.integers(0, 9),
    SYMBOLS,
    st.builds(lambda a, b, c: ceildiv(a * c + b, 2), SYMBOLS, st.integers(0, 3), st.integers(1, 3)),
    st.builds(lambda a, b: maximum(a + 1, b), SYMBOLS, SYMBOLS),
)
SHAPES = st.lists(DIMS, max_size=3).map(tuple)
QUANT = st.builds(
    QuantScheme,
    st.sampled_from([4, 8]),
    st.booleans(),
    st.none() | st.integers(-1, 3),
    st.sampled_from([0, 32]),
)
IN_ROWS = st.builds(TensorType, st.none() | st.sampled_from(DType), st.none() | SHAPES, st.none() | QUANT)
# Not at the border of a graph, so not in the random ones.
IN_BLOCKS = st.builds(
    lambda batch, channels, places, layout: TensorType(DType.F32, (batch, channels, *places), None, layout),
    DIMS,
    st.integers(0, 40),
    st.lists(DIMS, min_size=1, max_size=3),
    st.sampled_from(["nCx16c", "nCx8c"]),
)
SIMPLE_TYPES = st.one_of(
    IN_ROWS, st.builds(SparseTensorType, st.sampled_from(DType), SHAPES), st.just(UnknownType())
)
TYPES: st.SearchStrategy[Type] = st.one_of(
    SIMPLE_TYPES,
    SIMPLE_TYPES.map(SequenceType),
    SIMPLE_TYPES.map(SequenceType).map(OptionalType),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bytes as any element type: NaN payloads, subnormals and all."""
    dtype = draw(st.sampled_from(DType))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 2), (4, 6)]))
    count = int(np.prod(shape, dtype=np.int64))
    if dtype is DType.STR:
        array = np.empty(shape, object)
        array.flat[:] = draw(st.lists(TEXTS | st.binary(max_size=4), min_size=count, max_size=count))
        return Tensor.of(array, dtype)
    if dtype.bits < 8 or dtype is DType.BOOL:
        limit = 2 if dtype is DType.BOOL else 1 << dtype.bits
        codes = draw(st.lists(st.integers(0, limit - 1), min_size=count, max_size=count))
        low = 1 << dtype.bits - 1 if dtype in (DType.I4, DType.I2) else 0
        if dtype is DType.F4E2M1:
            return Tensor.of(np.array(codes, np.uint8).view(dtype.numpy).reshape(shape), dtype)
        return Tensor.of((np.array(codes, np.int64) - low).astype(dtype.numpy).reshape(shape), dtype)
    size = count * dtype.numpy.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    return Tensor.of(np.frombuffer(data, dtype.numpy).reshape(shape), dtype)


SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.floats(width=32),
    TEXTS,
    st.binary(max_size=4),
    tensors(),
    TYPES.map(TypeAttr),
    st.builds(RefAttr, TEXTS, st.sampled_from(["FLOAT", "INTS"])),
)
ATTRS: st.SearchStrategy[Attr] = SCALARS | st.lists(SCALARS, max_size=3).map(tuple)
ATTR_DICTS = st.dictionaries(NAMES, ATTRS, max_size=2)


METADATA = st.just({}) | st.dictionaries(TEXTS, TEXTS, max_size=2)
DOCS = st.just("") | TEXTS


def _decorate(draw: st.DrawFn, thing: Value | Node | Region) -> None:
    if draw(st.integers(0, 5)) == 0:
        thing.metadata, thing.doc = draw(METADATA), draw(DOCS)


def _fill(draw: st.DrawFn, builder: Builder, region: Region, visible: list[Value], depth: int) -> None:
    visible = list(visible)
    visible += region.inputs
    for _ in range(draw(st.integers(0 if depth else 1, 4))):
        choices = st.none() | st.sampled_from(visible) if visible else st.none()
        inputs = draw(st.lists(choices, max_size=3))
        outputs = draw(OUTPUTS)
        node = builder.node(
            draw(st.sampled_from(["Add", "Conv", "odd op", "If"])),
            inputs,
            outputs,
            draw(ATTR_DICTS),
            domain=draw(st.sampled_from(["", "", "com.microsoft", "odd domain", "a/b", "1.a", "a..b", "a."])),
            name=draw(DOCS),
            region=region,
        )
        node.origin = tuple(draw(st.lists(TEXTS, max_size=2)))
        _decorate(draw, node)
        for value in node.outputs:
            _decorate(draw, value)
        for name in draw(st.sampled_from([(), (), ("then_branch", "else branch")])) if depth < 2 else ():
            if name in node.attrs:
                continue
            inner = builder.region(node, name, draw(st.sampled_from(["", "other name"])))
            _decorate(draw, inner)
            for _ in range(draw(st.integers(0, 2))):
                builder.input(draw(NAMES), draw(TYPES), inner)
            _fill(draw, builder, inner, visible, depth + 1)
        visible += node.outputs
    local = [*region.inputs, *(v for n in region for v in n.outputs)]
    builder.outputs(draw(st.lists(st.sampled_from(local), max_size=2)) if local else [], region)


OUTPUTS = st.lists(st.tuples(NAMES, TYPES), min_size=1, max_size=2)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A structurally sound graph; its types mean nothing."""
    graph = Graph(draw(TEXTS))
    graph.body.name = draw(st.sampled_from([graph.name, graph.name, "body"]))
    graph.opset = draw(st.sampled_from([{"": 26}, {"": 26, "com.microsoft": 1}, {"": 27}]))
    graph.unverifiable = draw(st.sampled_from([(), ("Foo",), ("Foo", 'an "odd" name')]))
    graph.producer = draw(st.sampled_from([("", ""), ("pytorch", "2.1")]))
    graph.model_domain, graph.model_version = draw(st.sampled_from([("", 0), ("a.b", 3)]))
    graph.metadata, graph.doc = dict(draw(METADATA)), draw(DOCS)
    _decorate(draw, graph.body)
    builder = Builder(graph)
    visible = []
    for name in draw(st.lists(NAMES, max_size=3)):
        value = builder.input(name, draw(TYPES))
        if draw(st.integers(0, 3)) == 0:
            value.const = draw(tensors())
            value.type = value.const.type
        _decorate(draw, value)
    for data in draw(st.lists(tensors(), max_size=3)):
        visible.append(builder.constant(data, draw(NAMES)))
        visible[-1].type = replace(data.type, quant=draw(st.none() | QUANT))
        _decorate(draw, visible[-1])
    _fill(draw, builder, graph.body, visible, 0)
    graph.output_names = [f"out {i}" for i in range(len(graph.outputs))]
    return graph
