"""Short texts for values and attributes, as messages show them."""

from __future__ import annotations

from graphopt.diff.flat import Item, Kind
from graphopt.errors import TextError
from graphopt.ir.graph import Node, Region, Value
from graphopt.ir.literals import format_data, format_name
from graphopt.ir.printer import Printer
from graphopt.ir.tensor import Tensor

_LONGEST = 72


def shorten(text: str, longest: int = _LONGEST) -> str:
    """A text cut in its middle."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def attribute_text(value: object) -> str:
    """An attribute's value as in ``.gir`` text, cut if it is long."""
    if isinstance(value, Tensor):
        return tensor_text(value)
    return shorten(Printer(None, lenient=True).attr(value))


def tensor_text(tensor: Tensor) -> str:
    """The type of a tensor, and its data when it is small."""
    try:
        data = format_data(tensor)
    except TextError:  # Data that is not at hand.
        data = None
    return f"{tensor.type}" if data is None else f"{tensor.type} = {shorten(data, 40)}"


def constant_text(value: Value) -> str:
    """A constant by name, type, and data when it is small."""
    assert value.const is not None
    return f"{format_name(value.name)}: {tensor_text(value.const)}"


def value_text(item: Item, out: int) -> str:
    """A value by its name and where it comes from."""
    name = format_name(item.values[out].name)
    if item.kind is Kind.NODE and item.owner is not None:
        return f"{name} of {item.owner.op_type}"
    if item.kind is Kind.PARAM and item.owner is not None:
        return f"{name} of {item.attr} of {item.owner.label}"
    return f"{name} of the graph's inputs"


def node_text(node: Node) -> str:
    """A node by operator and name, and where it stands unless that is the graph itself."""
    place = place_of(node.parent)
    return node.label if place == "main" else f"{node.label} in {place}"


def place_of(region: Region | None) -> str:
    """How a region is called: ``main``, or the body of a node."""
    if region is None or region.parent is None:
        return "main"
    attr = next((name for name, inner in region.parent.regions.items() if inner is region), region.name)
    return f"{attr} of {region.parent.label}"
