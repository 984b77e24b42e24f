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

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from graphopt.backend.contiguous import Known, Part, is_view, pieces_of, stored_bytes, views_of
from graphopt.backend.region import COMPILED_TYPES
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType

LINE = 64
"""Bytes of a cache line: where blocks begin."""


Span = tuple[int, int]
"""Bytes from where to where."""


@dataclass(eq=False)
class Block:
    """Memory of values that lie in, or beside, each other.

    Attributes:
        places: where each value begins, in bytes from any origin.
        written: what kernels write, in order; no two overlap.
        span: the whole block.
        output: the graph's output that the block is returned as; it fills the block.
    """

    places: dict[Value, int]
    written: list[Span]
    span: Span
    output: Value | None = None

    @classmethod
    def of(cls, value: Value, *, output: bool, written: bool) -> Block:
        """The block of one value."""
        span = (0, size_of(value))
        return cls({value: 0}, [span] if written else [], span, value if output else None)

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.span[1] - self.span[0]

    def offset(self, value: Value) -> int:
        """Bytes from the start of the block to that of ``value``."""
        return self.places[value] - self.span[0]

    def copy(self) -> Block:
        """A block that can be added to."""
        return replace(self, places=dict(self.places), written=list(self.written))

    def is_free(self, span: Span) -> bool:
        """Whether no kernel writes there."""
        index = bisect_left(self.written, span)
        before, after = self.written[max(index - 1, 0) : index], self.written[index : index + 1]
        return all(end <= span[0] for _, end in before) and all(begin >= span[1] for begin, _ in after)

    def add(self, other: Block, shift: int) -> bool:
        """Take in the values of another block, whose origin is at ``shift`` in this one.

        False, and nothing is done, where kernels would write over each other, or an output would not be all.
        """
        span = (other.span[0] + shift, other.span[1] + shift)
        whole = (min(self.span[0], span[0]), max(self.span[1], span[1]))
        if self.output is not None and (other.output is not None or whole != self.span):
            return False
        if other.output is not None and whole != span:
            return False
        written = [(begin + shift, end + shift) for begin, end in other.written]
        if not all(map(self.is_free, written)):
            return False
        self.places.update((value, place + shift) for value, place in other.places.items())
        for span in written:
            insort(self.written, span)
        self.span, self.output = whole, self.output or other.output
        return True


def size_of(value: Value) -> int:
    """Bytes of a value whose size does not depend on the call."""
    size = stored_bytes(value)
    assert size is not None
    return size


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
            output = value in self._outputs
            if source is not None and self._view(views[index], source, output):
                in_place.add(index)
            elif source is not None or not is_view(node):
                self._blocks[value] = Block.of(value, output=output, written=True)
        if in_place:
            self.in_place[node] = frozenset(in_place)

    def _view(self, view: Part, source: Block, output: bool) -> bool:
        """Put a view of a value into the block of that, if it can lie there."""
        own = Block.of(view.part, output=output, written=False)
        if view.offset % self._alignment or not source.add(own, source.places[view.whole] + view.offset):
            return False
        self._blocks[view.part] = source
        return True

    def _concat(self, node: Node, pieces: Sequence[Part]) -> None:
        """Write the pieces of a Concat where they belong, copying at most half of it."""
        block, left = self._blocks[node.output].copy(), size_of(node.output) // 2
        place = block.places[node.output]
        block.written.remove((place, place + size_of(node.output)))
        slots = [place + piece.offset for piece in pieces]
        copied = []
        for piece in pieces:
            if piece.offset % self._alignment:
                return
            if not self._put(piece, block, slots, pieces):
                copied.append(piece)
                left -= size_of(piece.part)
        for piece in copied:
            begin = place + piece.offset
            span = (begin, begin + size_of(piece.part))
            if left < 0 or not block.is_free(span):
                return
            insort(block.written, span)
        if pieces:
            self.in_place[node] = frozenset((0,))
            self.copied[node] = tuple(copied)
            self._blocks.update(dict.fromkeys(block.places, block))

    def _put(self, piece: Part, block: Block, slots: Sequence[int], pieces: Sequence[Part]) -> bool:
        """Put a piece, and all that shares memory with it, where the piece belongs.

        What comes with the piece must leave the slots of other pieces free, or be those pieces.
        """
        place = block.places[piece.whole] + piece.offset
        if piece.part in block.places:
            return block.places[piece.part] == place
        other = self._blocks.get(piece.part)
        if other is None:
            return False
        shift = place - other.places[piece.part]
        for begin, end in other.written:
            first = max(bisect_right(slots, begin + shift) - 1, 0)
            for slot, beside in zip(slots[first:], pieces[first:], strict=True):
                if slot >= end + shift:
                    break
                taken = begin + shift < slot + size_of(beside.part)
                if taken and other.places.get(beside.part) != slot - shift:
                    return False
        return block.add(other, shift)


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
