"""A graph as what the canvas draws: boxes with places, edges with points, and the texts for a click.

Bodies of nodes are boxes inside the node's own box. Constants are not drawn; they stand among the inputs of
the nodes that use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import TextError
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.literals import format_data
from graphopt.ir.printer import Printer
from graphopt.ir.tensor import Tensor
from graphopt.page.layout import Layout, layered

_CHARACTER = 7.2
"""Width of a character in a node's box, in the drawing's own pixels."""
_LONGEST_TITLE = 26
_LONGEST_DIM = 10
_LONGEST_TEXT = 160
_HEIGHT = 38.0
_MARGIN = 12.0
_HEAD = 24.0


@dataclass(slots=True)
class Box:
    """What is drawn as one box: a node, or an input or output of the graph.

    Attributes:
        kind: ``node``, ``region`` (a node with bodies, drawn around what they hold), ``input`` or ``output``.
        x, y: its upper left corner, in pixels of the drawing.
        parent: the box around it, -1 for none.
    """

    kind: str
    title: str
    name: str
    subtitle: str = ""
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = _HEIGHT
    parent: int = -1
    inputs: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    attrs: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> list[Any]:
        """Compact: the page of a large model holds thousands."""
        place = [round(self.x, 1), round(self.y, 1), round(self.width, 1), round(self.height, 1)]
        texts = [self.kind, self.title, self.name, self.subtitle]
        return [*place, self.parent, *texts, self.inputs, self.outputs, self.attrs]


class Drawing:
    """Boxes and edges of a graph.

    Attributes:
        boxes: in an order in which those around come before those inside.
        edges: from box, to box, and the points between (x, y, x, y, ...).
        of_node: the index of each node's box.
        inputs, outputs: the indices of the boxes of the graph's inputs and outputs.
        width, height: the size of the whole.
    """

    def __init__(self, graph: Graph) -> None:
        self.name = graph.name
        self.boxes: list[Box] = []
        self.edges: list[tuple[int, int, list[float]]] = []
        self.of_node: dict[Node, int] = {}
        self._types: dict[object, str] = {}
        self.inputs = [self._end("input", value.name, value) for value in graph.inputs]
        source = dict(zip(graph.inputs, self.inputs, strict=True))
        inside, links = self._nodes(graph.body, -1, source)
        self.outputs = [
            self._end("output", name, value)
            for name, value in zip(graph.output_names, graph.outputs, strict=False)
        ]
        ends = zip(graph.outputs, self.outputs, strict=False)
        links += [(source[value], box) for value, box in ends if value in source]
        self.width, self.height = self._place([*self.inputs, *inside, *self.outputs], links)
        self._shift()

    def to_json(self) -> dict[str, Any]:
        """What ``view.js`` takes."""
        return {
            "name": self.name,
            "width": round(self.width, 1),
            "height": round(self.height, 1),
            "boxes": [box.to_json() for box in self.boxes],
            "edges": [[a, b, [round(c, 1) for c in points]] for a, b, points in self.edges],
        }

    # --- boxes --------------------------------------------------------------------------------

    def _end(self, kind: str, name: str, value: Value) -> int:
        box = Box(kind, shorten(name), name, subtitle(value))
        (box.outputs if kind == "input" else box.inputs).append((name, self._type(value)))
        return self._add(box)

    def _add(self, box: Box) -> int:
        box.width = max(60.0, _CHARACTER * max(len(box.title), 0.85 * len(box.subtitle)) + 22)
        self.boxes.append(box)
        return len(self.boxes) - 1

    def _nodes(
        self, region: Region, parent: int, source: dict[Value, int]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Boxes for the nodes of a region and what they hold, and the links between them.

        ``source`` says which box of this region gives a value, and takes up the nodes' outputs.
        """
        found: list[int] = []
        links: dict[tuple[int, int], None] = {}
        for node in region:
            index = self.of_node[node] = self._node(node, parent)
            found.append(index)
            for value in _used(node):
                if value in source:
                    links[source[value], index] = None
            for value in node.outputs:
                source[value] = index
        return found, list(links)

    def _node(self, node: Node, parent: int) -> int:
        out = node.outputs[0] if node.outputs else None
        box = Box("region" if node.regions else "node", shorten(node.op), node.name, parent=parent)
        box.subtitle = subtitle(out) if out is not None else ""
        box.inputs = [("", "") if v is None else (v.name, self._operand(v)) for v in node.inputs]
        box.outputs = [(v.name, self._type(v)) for v in node.outputs]
        box.attrs = [(name, _text(value)) for name, value in node.attrs.items()]
        if node.domain:
            box.attrs.insert(0, ("domain", node.domain))
        index = self._add(box)
        if node.is_fused:
            box.title = shorten(f"fused {node.name}".rstrip())
            self._fill(box, *self._nodes(node.body, index, {}))
        elif node.regions:
            self._bodies(node, index)
        return index

    def _bodies(self, node: Node, index: int) -> None:
        """One box for each body, side by side."""
        box = self.boxes[index]
        x, height = _MARGIN, 0.0
        for attr, region in node.regions.items():
            body = Box("body", attr, region.name, parent=index)
            inner = self._add(body)
            self._fill(body, *self._nodes(region, inner, {}))
            body.x, body.y = x, _HEAD
            x += body.width + _MARGIN
            height = max(height, body.height)
        box.width, box.height = max(box.width, x), _HEAD + height + _MARGIN

    def _fill(self, box: Box, inside: list[int], links: list[tuple[int, int]]) -> None:
        """Places what a box holds, and makes it as large as that needs."""
        width, height = self._place(inside, links, _MARGIN, _HEAD)
        box.width = max(box.width, width + 2 * _MARGIN)
        box.height = _HEAD + height + _MARGIN

    # --- places -------------------------------------------------------------------------------

    def _place(
        self, inside: list[int], links: list[tuple[int, int]], left: float = 0.0, top: float = 0.0
    ) -> tuple[float, float]:
        """Places boxes that stand in the same one, relative to it."""
        rank = {box: index for index, box in enumerate(inside)}
        sizes = [(self.boxes[box].width, self.boxes[box].height) for box in inside]
        layout: Layout = layered(sizes, [(rank[a], rank[b]) for a, b in links])
        for box, (x, y) in zip(inside, layout.centres, strict=True):
            placed = self.boxes[box]
            placed.x, placed.y = left + x - placed.width / 2, top + y - placed.height / 2
        for (a, b), route in zip(links, layout.routes, strict=True):
            self.edges.append((a, b, [part for x, y in route for part in (left + x, top + y)]))
        return layout.width, layout.height

    def _shift(self) -> None:
        """From places relative to the box around to places in the whole."""
        for box in self.boxes:
            if box.parent >= 0:
                around = self.boxes[box.parent]
                box.x, box.y = box.x + around.x, box.y + around.y
        for a, _, points in self.edges:
            parent = self.boxes[a].parent
            if parent >= 0:
                for i in range(0, len(points), 2):
                    points[i] += self.boxes[parent].x
                    points[i + 1] += self.boxes[parent].y

    # --- texts --------------------------------------------------------------------------------

    def _type(self, value: Value) -> str:
        if value.type not in self._types:
            self._types[value.type] = str(value.type)
        return self._types[value.type]

    def _operand(self, value: Value) -> str:
        text = self._type(value)
        data = _data(value.const) if value.is_constant and value.const is not None else None
        return (
            f"{text} constant" if value.is_constant and data is None else f"{text} = {data}" if data else text
        )


def subtitle(value: Value) -> str:
    """A type as a node's box has room for: long dimensions are left out."""
    type = value.tensor
    if not type.is_known or type.dtype is None or type.shape is None:
        return shorten(str(value.type))
    dims = [text if len(text := str(dim)) <= _LONGEST_DIM else "…" for dim in type.shape]
    return f"{type.dtype.text}[{', '.join(dims)}]"


def _used(node: Node) -> Iterator[Value]:
    """What a node and the nodes in it use; a fused region is handed all that it uses."""
    yield from (value for value in node.inputs if value is not None)
    if not node.is_fused:
        for region in node.regions.values():
            yield from region.outputs
            for inner in region:
                yield from _used(inner)


def _data(tensor: Tensor) -> str | None:
    try:
        data = format_data(tensor)
    except TextError:  # Left out of a .gir text.
        return None
    return None if data is None else shorten(data, _LONGEST_TEXT)


def _text(value: object) -> str:
    if isinstance(value, Tensor):
        data = _data(value)
        return str(value.type) if data is None else f"{value.type} = {data}"
    return shorten(Printer(None, lenient=True).attr(value), _LONGEST_TEXT)


def shorten(text: str, longest: int = _LONGEST_TITLE) -> str:
    """A text with its middle left out if it is long."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
