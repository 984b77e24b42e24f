"""Reads ``.gir`` text; the form is shown in :mod:`graphopt.ir.printer` and described in the docs.

White space and ``//`` comments may stand between any two words. The parser builds what the text
says; whether that is a sound graph is the verifier's to judge.
"""

from __future__ import annotations

import math
import re
from typing import Any

from graphopt.errors import TextError, TypeInferenceError
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Attr, Graph, Node, RefAttr, Region, TypeAttr, Value
from graphopt.ir.literals import DOMAIN, parse_data, parse_float, parse_hex
from graphopt.ir.opset import CANONICAL_OPSET, newest_opset
from graphopt.ir.printer import FORMAT
from graphopt.ir.scanner import Scanner
from graphopt.ir.semantics import Semantics
from graphopt.ir.sidecar import Sidecar
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import TensorType, Type, UnknownType

_NESTING = 64
_DIGEST = re.compile(r"#([0-9a-f]{16})\b")


def parse_graph(text: str, *, sidecar: Sidecar | None = None, semantics: Semantics | None = None) -> Graph:
    """The graph of a ``.gir`` text. Outputs without a name are called as their values are.

    Args:
        sidecar: where the data of large constants is; without it reading their data is an error.
        semantics: infers the types that the text leaves out; without it every value needs its type.

    Raises:
        TextError: with line, column, the line itself and a caret.
    """
    return _Parser(text, sidecar or Sidecar(), semantics).document()


class _Parser(Scanner):
    def __init__(self, text: str, sidecar: Sidecar, semantics: Semantics | None) -> None:
        super().__init__(text)
        self.sidecar = sidecar
        self.semantics = semantics
        self.graph = Graph()
        self.builder = Builder(self.graph)
        self.depth = 0

    # --- the graph ----------------------------------------------------------------------------

    def document(self) -> Graph:
        graph = self.graph
        self.skip()
        if not self.word("gir"):
            self.fail(f'expected "gir {FORMAT}": this is not a .gir text')
        start = self.at
        version = self.integer("the version of the text form")
        if version != FORMAT:
            self.fail(f"version {version} of the text form is not known, only {FORMAT}", start)
        if not self.word("graph"):
            self.fail("expected graph")
        graph.name = graph.body.name = self.string("the graph's name in quotes")
        if not self.word("opset"):
            self.fail("expected opset")
        start = self.at
        graph.opset = {"": self.integer("the version of ONNX's operator set")}
        self.check_opset(graph.opset[""], start)
        self.expect("{")
        self.header()
        self.statements(graph.body, self.root_statement)
        if self.at < len(self.text):
            self.fail("the text goes on after the graph")
        return graph

    def check_opset(self, version: int, at: int) -> None:
        # Only what needs a newer one makes us load onnx.
        newest = CANONICAL_OPSET if version <= CANONICAL_OPSET else newest_opset()
        if not CANONICAL_OPSET <= version <= newest:
            self.fail(f"opset {version} is not one that a graph can be in: {CANONICAL_OPSET} to {newest}", at)

    def header(self) -> None:
        graph = self.graph
        while True:
            if self.word("opset"):
                domain = self.string()
                graph.opset[domain] = self.integer()
            elif self.word("unverifiable"):
                graph.unverifiable = self.strings()
            elif self.word("producer"):
                graph.producer = (self.string(), self.string())
            elif self.word("model"):
                graph.model_domain, graph.model_version = self.string(), self.integer()
            elif self.word("about"):
                graph.doc, graph.metadata = self.about()
            elif self.word("body"):
                graph.body.name = self.string()
                graph.body.doc, graph.body.metadata = self.about()
            else:
                return

    def root_statement(self) -> bool:
        if self.word("input"):
            value = self.define_input(self.graph.body)
            if self.take("="):
                value.const = self.data(value.type, name=value.name)
            return True
        if self.word("const"):
            start = self.at
            name, type, doc, metadata = self.definition()
            self.expect("=")
            value = self.builder.constant(self.data(type, start, name), self.free(name, start))
            value.type, value.doc, value.metadata = type, doc, metadata
            return True
        return False

    def statements(self, region: Region, special: Any = None) -> None:
        """Everything up to the closing brace."""
        if self.depth >= _NESTING:
            self.fail(f"regions are nested more than {_NESTING} deep")
        self.depth += 1
        while not self.word("return"):
            if special is None or not special():
                self.node(region)
        self.results(region)
        self.expect("}")
        self.depth -= 1

    def results(self, region: Region) -> None:
        values: list[Value] = []
        while self.peek("%"):
            values.append(self.use())
            if region.parent is None and self.word("as"):
                self.graph.output_names.append(self.string())
            elif region.parent is None:
                self.graph.output_names.append(values[-1].name)
            if not self.take(","):
                break
        self.builder.outputs(values, region)

    def define_input(self, region: Region) -> Value:
        start = self.at
        name, type, doc, metadata = self.definition()
        value = self.builder.input(self.free(name, start), type, region)
        value.doc, value.metadata = doc, metadata
        return value

    def definition(self) -> tuple[str, Type, str, dict[str, str]]:
        name = self.name()
        if self.semantics is not None and not self.peek(":"):
            return name, UnknownType(), "", {}
        self.expect(":")
        type = self.type()
        doc, metadata = self.about()
        return name, type, doc, metadata

    def about(self) -> tuple[str, dict[str, str]]:
        # Most things have neither; their next character tells.
        char = self.text[self.at : self.at + 1]
        doc = self.string() if char == "d" and self.word("doc") else ""
        metadata: dict[str, str] = {}
        if self.peek("meta") and self.word("meta"):
            self.expect("{")
            while not self.take("}"):
                key = self.string()
                self.expect(":")
                metadata[key] = self.string()
                if not self.take(",") and not self.peek("}"):
                    self.fail("expected , or }")
        return doc, metadata

    def free(self, name: str, at: int) -> str:
        if not name:
            self.fail("a value needs a name", at)
        if self.graph.has_value(name):
            self.fail(f"%{name} is defined twice", at)
        return name

    def use(self) -> Value:
        start = self.at
        value = self.graph._values.get(self.name())
        if value is None:
            self.fail("this value is not defined above", start)
        return value

    # --- nodes --------------------------------------------------------------------------------

    def node(self, region: Region) -> None:
        start = self.at
        definitions = []
        while self.peek("%"):
            begin = self.at
            definitions.append((begin, self.definition()))
            if not self.take(","):
                break
        if not self.take("="):
            self.fail("expected a node, return or }" if not definitions else "expected =")
        domain, op = self.operator()
        inputs = self.inputs()
        attrs = self.attrs() if self.peek("{") else {}
        seen: set[str] = set()
        for begin, (name, *_) in definitions:
            self.free(name, begin)
            if name in seen:
                self.fail(f"%{name} is defined twice", begin)
            seen.add(name)
        outputs = [(name, type) for _, (name, type, _, _) in definitions]
        node = self.builder.node(op, inputs, outputs, attrs, domain=domain, region=region)
        for value, (_, (_, _, doc, metadata)) in zip(node.outputs, definitions, strict=True):
            value.doc, value.metadata = doc, metadata
        self.tail(node, start)
        if self.semantics is not None:
            self.infer(node, start)

    def infer(self, node: Node, start: int) -> None:
        """Gives the outputs that have no type the one that follows from the inputs."""
        if not any(isinstance(value.type, UnknownType) for value in node.outputs):
            return
        assert self.semantics is not None
        try:
            types = self.semantics.infer(node)
        except TypeInferenceError as error:
            self.fail(error.message, start)
        for value, type in zip(node.outputs, types, strict=False):
            if isinstance(value.type, UnknownType):
                value.type = type

    def tail(self, node: Node, start: int) -> None:
        if self.peek('"'):
            node.name = self.string()
        if self.peek("from") and self.word("from"):
            node.origin = self.strings()
        node.doc, node.metadata = self.about()
        while self.peek("do") and self.word("do"):
            begin = self.at
            attr = self.identifier("the name of a region")
            if attr in node.regions:
                self.fail(f"{node.label} has two regions {attr}", begin)
            region = self.builder.region(node, attr, self.string() if self.peek('"') else "")
            region.doc, region.metadata = self.about()
            self.expect("(")
            while not self.take(")"):
                self.define_input(region)
                if not self.take(",") and not self.peek(")"):
                    self.fail("expected , or )")
            self.expect("{")
            self.statements(region)

    def operator(self) -> tuple[str, str]:
        if self.peek('"'):
            first = self.string()
            if not self.take("."):
                return "", first
            return first, self.identifier("an operator")
        path = self.match(DOMAIN, "an operator")[0]
        if self.take("."):
            return path, self.identifier("an operator")
        domain, _, op = path.rpartition(".")
        return domain, op

    def inputs(self) -> list[Value | None]:
        self.expect("(")
        values: list[Value | None] = []
        while not self.take(")"):
            values.append(None if self.take("_") else self.use())
            if not self.take(",") and not self.peek(")"):
                self.fail("expected , or )")
        return values

    def attrs(self) -> dict[str, Attr]:
        self.expect("{")
        found: dict[str, Attr] = {}
        while not self.take("}"):
            start = self.at
            name = self.identifier("an attribute")
            if name in found:
                self.fail(f"attribute {name} is given twice", start)
            self.expect("=")
            found[name] = self.attr()
            if not self.take(",") and not self.peek("}"):
                self.fail("expected , or }")
        return found

    def attr(self) -> Attr:
        char = self.text[self.at : self.at + 1]
        if char == "[":
            return self.elements()
        if char == '"' or self.peek('b"'):
            return self.text_literal()
        if self.word("tensor"):
            self.expect("(")
            start = self.at
            type = self.type()
            self.expect(",")
            tensor = self.data(type, start)
            self.expect(")")
            return tensor
        if self.word("type"):
            self.expect("(")
            held = self.type()
            self.expect(")")
            return TypeAttr(held)
        if self.word("ref"):
            self.expect("(")
            name = self.string()
            self.expect(",")
            kind = self.string()
            self.expect(")")
            return RefAttr(name, kind)
        return self.number(parse_float)

    def elements(self) -> tuple[object, ...]:
        if self.depth >= _NESTING:
            self.fail(f"lists are nested more than {_NESTING} deep")
        self.depth += 1
        self.expect("[")
        found: list[object] = []
        while not self.take("]"):
            found.append(self.attr())
            if not self.take(",") and not self.peek("]"):
                self.fail("expected , or ]")
        self.depth -= 1
        return tuple(found)

    # --- constant data ------------------------------------------------------------------------

    def data(self, type: Type, at: int | None = None, name: str = "") -> Tensor:
        start = self.at
        if not isinstance(type, TensorType) or type.dtype is None or not type.is_static:
            self.fail(f"a constant needs a tensor type with numbers for dimensions, not {type}", at)
        shape = tuple(dim for dim in type.shape or () if isinstance(dim, int))
        if self.peek("#"):
            digest = self.match(_DIGEST, "16 hexadecimal digits")[1]
            tensor = self.sidecar.get(digest, type.dtype, shape, name)
            if (tensor.dtype, tensor.shape) != (type.dtype, shape):
                self.fail(f"the constant with this hash has type {tensor.type}", start)
            return tensor
        if any(dim < 0 for dim in shape):
            self.fail("a constant can't have a negative dimension", at)
        try:
            if self.peek('x"'):
                self.at += 1
                return parse_hex(type.dtype, shape, self.string())
            items = self.scalars() if self.take("[") else [self.scalar()]
            return parse_data(type.dtype, shape, items)
        except TextError as error:
            if error.message.startswith("line "):
                raise
            self.fail(error.message, start)

    def scalars(self) -> list[Any]:
        found = []
        while not self.take("]"):
            found.append(self.scalar())
            if not self.take(",") and not self.peek("]"):
                self.fail("expected , or ]")
        return found

    def scalar(self) -> Any:
        if self.peek('"') or self.peek('b"'):
            return self.text_literal()
        if self.word("true"):
            return True
        if self.word("false"):
            return False
        return self.number(_plain_float, allow_u64=True)


def _plain_float(text: str) -> float:
    value = float(text)
    if math.isnan(value) and text != "nan":
        raise ValueError(text)
    return value
