"""Graphs from a line of text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from graphopt.errors import ArgumentError, TextError
from graphopt.ir.graph import Graph
from graphopt.ir.opset import CANONICAL_OPSET

GraphLike = Union[Graph, str, "os.PathLike[str]"]
"""A graph, the text of one, or the path of a model."""

_HEAD = f'gir 1 graph "test" opset {CANONICAL_OPSET} {{\n'


def graph_of(source: GraphLike) -> Graph:
    """The graph that ``source`` is, holds or names.

    A text is a ``.gir`` text or what stands between its braces; types of nodes may be left out, and an
    output without a name is called as its value is::

        graph_of("input %x: f32[n, 4]  %y = Relu(%x)  return %y")

    Args:
        source: a graph, which is returned as it is; a text; or the path of an .onnx or .gir file.

    Raises:
        TextError: the text does not parse; line and column are those of ``source``.
        ModelError: the file can't be read.
        ArgumentError: it is something else.
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, str):
        return _parsed(source)
    if isinstance(source, os.PathLike):
        from graphopt.api import load

        return load(Path(source))
    raise ArgumentError(
        f"a graph is wanted, not {type(source).__name__}", hint="give a Graph, a .gir text or a Path"
    )


def _parsed(text: str) -> Graph:
    from graphopt.ir.parser import parse_graph
    from graphopt.ops import SEMANTICS

    whole = text.lstrip().startswith("gir ")
    if not whole and "%" not in text:
        raise TextError(f"{text!r} is no graph", hint="give a .gir text, or a Path to a file")
    try:
        return parse_graph(text if whole else f"{_HEAD}{text}\n}}", semantics=SEMANTICS)
    except TextError as error:
        if not whole:
            error.message = _shifted(error.message)
        raise


def _shifted(message: str) -> str:
    """The message with the line counted without the head."""
    first, space, rest = message.partition(" ")
    number, comma, more = rest.partition(",")
    if first != "line" or not number.isdigit():
        return message
    return f"{first}{space}{max(int(number) - 1, 1)}{comma}{more}"
