"""What regions use of what stands outside of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.ir.graph import Node, Region, Use, Value


def captures(region: Region) -> Iterator[tuple[Use, Value]]:
    """The uses, in ``region`` or deeper, of values from outside of it, constants among them, in program order."""
    inside: set[Value] = set()

    def outer(user: Node | Region, values: Sequence[Value | None]) -> Iterator[tuple[Use, Value]]:
        for index, value in enumerate(values):
            if value is not None and value not in inside:
                yield Use(user, index), value

    def uses(part: Region) -> Iterator[tuple[Use, Value]]:
        inside.update(part.inputs)
        for node in part:
            yield from outer(node, node.inputs)
            for inner in node.regions.values():
                yield from uses(inner)
            inside.update(node.outputs)
        yield from outer(part, part.outputs)

    return uses(region)


def operands(node: Node) -> list[Value]:
    """What a node reads, its regions included, from outside of it; each value once."""
    captured = [value for region in node.regions.values() for _, value in captures(region)]
    return list(dict.fromkeys([*(value for value in node.inputs if value is not None), *captured]))
