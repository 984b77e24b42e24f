"""Small graphs, written as text, and semantics for them."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import Type, UnknownType


class FirstInput:
    """An output has the type of the first input."""

    def infer(self, node: Node) -> list[Type]:
        known = next((v.type for v in node.inputs if v is not None), UnknownType())
        return [known for _ in node.outputs]

    def check(self, node: Node, *, canonical: bool = False) -> str | None:
        return None


def graph_of(body: str, *, inputs: str = "x y", result: str = "r") -> Graph:
    """A graph of f32[2] values; ``T`` stands for that type."""
    head = "".join(f"input %{name}: f32[2]\n" for name in inputs.split())
    text = (
        f'gir 1\ngraph "g" opset 26 {{\n{head}{body.replace(": T", ": f32[2]")}\nreturn %{result} as "r"\n}}'
    )
    return parse_graph(text)


def node(graph: Graph, op: str) -> Node:
    return next(n for n in graph.walk() if n.op == op)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.walk()]
