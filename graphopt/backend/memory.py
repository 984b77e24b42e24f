"""Where values lie: which of them share memory, and which memory is used again when its values are dead.

Values are gathered in *blocks*, pieces of memory in which each value has a place of its own. A view
lies in the block of its source; the pieces of a concatenation lie side by side in the block of its
result, so that kernels write them where they belong. What a kernel writes never lies where another
kernel writes in the same block: every byte of a block is written by one kernel in a run, and
whoever reads it sees what that kernel wrote.

Blocks lie in one *arena*. Two may share bytes of it when the last read of one comes before the
first write of the other.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Generic, TypeVar

from graphopt.backend.contiguous import Known, Part, is_view, pieces_of, stored_bytes, views_of
from graphopt.backend.region import COMPILED_TYPES
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType

LINE = 64
"""Bytes of a cache line: where blocks begin."""


Span = tuple[int, int]
"""Bytes from where to where."""


@dataclass(frozen=True, eq=False)
class Block:
    """Memory of values that lie in, or beside, each other.

    Attributes:
        places: where each value begins, in bytes from any origin.
        written: what kernels write; no two overlap.
        output: the graph's output that the block is returned as.
    """

    places: Mapping[Value, int]
    written: tuple[Span, ...]
    output: Value | None = None

    @cached_property
    def start(self) -> int:
        """Where the first value begins."""
        return min(self.places.values())

    @cached_property
    def size(self) -> int:
        """Bytes of the block."""
        return max(place + size_of(value) for value, place in self.places.items()) - self.start

    def offset(self, value: Value) -> int:
        """Bytes from the start of the block to that of ``value``."""
        return self.places[value] - self.start

    def is_sound(self, alignment: int) -> bool:
        """Whether values begin where kernels want them, none is written over, and an output is all of it."""
        begins = (*self.places.values(), *(begin for begin, _ in self.written))
        if any((begin - self.start) % alignment for begin in begins):
            return False
        if self.output is not None and size_of(self.output) != self.size:
            return False
        return all(end <= begin for (_, end), (begin, _) in pairwise(sorted(self.written)))


def size_of(value: Value) -> int:
    """Bytes of a value whose size does not depend on the call."""
    size = stored_bytes(value)
    assert size is not None
    return size


def _span(value: Value, begin: int) -> Span:
    return begin, begin + size_of(value)


class Blocks:
    """The blocks of a graph's values.

    Only what kernels compute, of static size, is in blocks; TVM looks after the memory of other values.

    Attributes:
        in_place: for nodes the outputs that need no kernel.
        copied: for a Concat in place, those of its inputs that are copied to their places.
    """

    def __init__(self, graph: Graph, known: Known, alignment: int | None) -> None:
        """Gather the values of ``graph``.

        Args:
            alignment: bytes of which the place of every value must be a multiple; None: there are no blocks.
        """
        self.in_place: dict[Node, frozenset[int]] = {}
        self.copied: dict[Node, tuple[Part, ...]] = {}
        self._blocks: dict[Value, Block] = {}
        self._outputs = frozenset(graph.outputs)
        if alignment is None:
            return
        self._alignment = alignment
        for node in graph.nodes:
            self._add(node, known)
        concats = [node for node in graph.nodes if node.op_type == "Concat" and node.output in self._blocks]
        # Of two that want the same piece the larger one gets it.
        for node in sorted(concats, key=lambda node: -size_of(node.output)):
            self._concat(node, pieces_of(node))

    def of(self, value: Value) -> Block | None:
        """The block of a value."""
        return self._blocks.get(value)

    def _add(self, node: Node, known: Known) -> None:
        views = views_of(node, known)
        in_place = set()
        for index, value in enumerate(node.outputs):
            if known(value) is not None or not _is_placeable(value):
                continue
            source = self._blocks.get(views[index].whole) if index in views else None
            if source is not None and self._place(value, source, views[index]):
                in_place.add(index)
            elif source is not None or not is_view(node):
                output = value if value in self._outputs else None
                self._blocks[value] = Block({value: 0}, (_span(value, 0),), output)
        if in_place:
            self.in_place[node] = frozenset(in_place)

    def _place(self, value: Value, source: Block, view: Part) -> bool:
        """Put a view of a value into the block of that, if it can lie there."""
        own = Block({value: 0}, (), value if value in self._outputs else None)
        block = _joined(source, own, source.places[view.whole] + view.offset)
        return self._keep(block)

    def _concat(self, node: Node, pieces: Sequence[Part]) -> None:
        """Write the pieces of a Concat where they belong, copying at most half of it."""
        block, copied = self._blocks[node.output], []
        place = block.places[node.output]
        own = _span(node.output, place)
        block = replace(block, written=tuple(piece for piece in block.written if piece != own))
        slots = {piece: _span(piece.part, place + piece.offset) for piece in pieces}
        for piece in pieces:
            joined = self._with_piece(block, piece, slots)
            if joined is None:
                copied.append(piece)
            block = joined or block
        written = [slots[piece] for piece in copied]
        few = 2 * sum(end - begin for begin, end in written) <= size_of(node.output)
        if pieces and few and self._keep(replace(block, written=(*block.written, *written))):
            self.in_place[node] = frozenset((0,))
            self.copied[node] = tuple(copied)

    def _with_piece(self, block: Block, piece: Part, slots: Mapping[Part, Span]) -> Block | None:
        """``block`` with the piece, and all that shares memory with it, in its slot.

        What comes with the piece must leave the slots of other pieces free, or be those pieces.
        """
        place = slots[piece][0]
        if piece.part in block.places:
            return block if block.places[piece.part] == place else None
        other = self._blocks.get(piece.part)
        joined = None if other is None else _joined(block, other, place - other.places[piece.part])
        if joined is None or not joined.is_sound(self._alignment):
            return None
        for beside, (begin, end) in slots.items():
            taken = any(start < end and begin < stop for start, stop in joined.written)
            if taken and joined.places.get(beside.part) != begin:
                return None
        return joined

    def _keep(self, block: Block | None) -> bool:
        if block is None or not block.is_sound(self._alignment):
            return False
        self._blocks.update(dict.fromkeys(block.places, block))
        return True


def _joined(block: Block, other: Block, shift: int) -> Block | None:
    """Both as one, the origin of ``other`` at ``shift``; None where two outputs of the graph would meet."""
    if block.output is not None and other.output is not None:
        return None
    return Block(
        {**block.places, **{value: place + shift for value, place in other.places.items()}},
        block.written + tuple((begin + shift, end + shift) for begin, end in other.written),
        block.output or other.output,
    )


def _is_placeable(value: Value) -> bool:
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype not in COMPILED_TYPES:
        return False
    return bool(stored_bytes(value))


T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Arena(Generic[T]):
    """Where blocks lie that are not returned.

    Attributes:
        places: bytes from the start of the arena to that of each block.
        size: bytes of the arena.
    """

    places: Mapping[T, int]
    size: int


def pack(steps: Sequence[Iterable[T]], size: Callable[[T], int]) -> Arena[T]:
    """An arena in which blocks that are in use at the same step do not overlap.

    The largest block is placed first, each where the first gap is that takes it.

    Args:
        steps: the blocks that each kernel call reads or writes, in the order of the calls. A block is in use
            from the first to the last.
        size: bytes of a block.
    """
    first: dict[T, int] = {}
    last: dict[T, int] = {}
    for index, blocks in enumerate(steps):
        for block in blocks:
            first.setdefault(block, index)
            last[block] = index
    placed: list[tuple[int, int, T]] = []
    for block in sorted(first, key=lambda block: -size(block)):
        place = 0
        for begin, end, other in placed:
            if begin >= place + size(block):
                break
            if first[block] <= last[other] and first[other] <= last[block]:
                place = max(place, -(-end // LINE) * LINE)
        insort(placed, (place, place + size(block), block), key=lambda entry: entry[0])
    return Arena({block: begin for begin, _, block in placed}, max((end for _, end, _ in placed), default=0))
