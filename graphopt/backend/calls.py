"""Which kernels a run calls, in what order; each distinct one lowered once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from graphopt.backend.constants import Constants
from graphopt.backend.contiguous import Part, is_view
from graphopt.backend.emitters import is_emitted
from graphopt.backend.kernels.narrow import is_even
from graphopt.backend.lower import Lowered, kernel_digest, lower_region, value_at
from graphopt.backend.memory import Blocks
from graphopt.backend.region import KernelRegion
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops import symbolic_content
from graphopt.targets import Target


@dataclass(frozen=True)
class Call:
    """One step of a run: a kernel, or a view (``lowered`` None).

    Attributes:
        place: of a copy into the result of a Concat, what is copied and where to.
    """

    region: KernelRegion
    lowered: Lowered | None
    name: str = ""
    place: Part | None = None

    @property
    def reads(self) -> list[Value]:
        """The graph's values that it reads, constants among them, in the order of the parameters."""
        positions = self.lowered.inputs if self.lowered is not None else (0,)
        return [self.region.outer[position] for position in positions]

    @property
    def writes(self) -> list[Value]:
        """The graph's values that it makes, in the order of the parameters; none for a copy into a place."""
        if self.lowered is None or self.place is not None:
            return []
        return [self.region.results[position] for position in self.lowered.outputs]


class KernelCache:
    """Lowers each distinct region once.

    Args:
        choices: for kernels by their digest the options to take; the models decide the others.
    """

    def __init__(
        self,
        target: Target,
        kernel_error: float,
        choices: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self.target = target
        self.kernel_error = kernel_error
        self.choices = choices
        self.functions: dict[str, Any] = {}
        self._known: dict[Hashable, list[tuple[Lowered, str]]] = {}
        self._names: dict[str, int] = {}

    def lower(
        self, region: KernelRegion, outputs: tuple[int, ...], *, scheduled: bool = True
    ) -> tuple[Lowered, str]:
        """The kernel of these outputs of a region, and its name.

        Args:
            scheduled: False for loops straight from the operators' definitions.
        """
        key = (region.key, outputs, scheduled)
        for lowered, name in self._known.get(key, ()):
            if all(
                _consult(region, kind, (row, index)) == found
                for (kind, row, index), found in lowered.consulted.items()
            ):
                return lowered, name
        digest = kernel_digest(region, self.target, outputs, self.kernel_error) if self.choices else ""
        answers = self.choices.get(digest, {})
        lowered = lower_region(region, self.target, outputs, self.kernel_error, answers, scheduled=scheduled)
        name = self._fresh(lowered.name)
        self._known.setdefault(key, []).append((lowered, name))
        self.functions[name] = lowered.function
        return lowered, name

    def _fresh(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name


def _consult(region: KernelRegion, kind: str, place: tuple[int, int]) -> Hashable:
    value = value_at(region, place)
    if kind == "content":
        return symbolic_content(value)
    if kind == "even":
        return is_even(region.constants[value].numpy())
    return region.constants[value].digest


def plan_calls(
    graph: Graph,
    cache: KernelCache,
    constants: Constants,
    blocks: Blocks,
    unscheduled: Collection[Node] = frozenset(),
) -> list[Call]:
    """Calls in the order in which they are made, of the nodes whose results are read as data.

    Args:
        unscheduled: nodes whose kernels are loops straight from the operators' definitions.
    """
    copies = []
    for value in dict.fromkeys(graph.outputs):
        if value.producer is None or constants.get(value) is not None:
            copies.append(_copy(value, cache, constants))
    calls: list[Call] = []
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        wanted = {i for i, v in enumerate(node.outputs) if v in needed and constants.get(v) is None}
        if wanted & blocks.in_place.get(node, frozenset()):
            needed.update(
                v for v in (node.inputs if node.op == "Concat" else node.inputs[:1]) if v is not None
            )
            calls += [_copy(part.part, cache, constants, part) for part in blocks.copied.get(node, ())]
            wanted -= blocks.in_place[node]
        scheduled = node not in unscheduled
        for call in _calls_of(node, sorted(wanted), cache, constants, blocks, scheduled) if wanted else ():
            calls.append(call)
            needed.update(call.reads)
    return copies + calls[::-1]


def _copy(value: Value, cache: KernelCache, constants: Constants, place: Part | None = None) -> Call:
    region = KernelRegion.copy(value, constants.get)
    return Call(region, *cache.lower(region, (0,)), place)


def _calls_of(
    node: Node,
    wanted: list[int],
    cache: KernelCache,
    constants: Constants,
    blocks: Blocks,
    scheduled: bool,
) -> Iterator[Call]:
    region = KernelRegion.of(node, constants.get)
    if _is_loose_view(node, constants, blocks):
        yield Call(region, None)
        return
    together = any(is_emitted(inner) for inner in region.nodes)
    for outputs in [tuple(wanted)] if together else [(index,) for index in reversed(wanted)]:
        yield Call(region, *cache.lower(region, outputs, scheduled=scheduled))


def _is_loose_view(node: Node, constants: Constants, blocks: Blocks) -> bool:
    """Whether it is a view, made at the call, of memory that is in no block.

    The caller must not be handed the memory of an input, of a weight, of a block, or of a view of one.
    """
    if not is_view(node) or blocks.of(node.output) is not None:
        return False
    value = node.output
    while value.producer is not None and is_view(value.producer) and blocks.of(value) is None:
        (value, *_) = (v for v in value.producer.inputs if v is not None)
    own = value.producer is not None and constants.get(value) is None and blocks.of(value) is None
    return own or not node.output.is_output
