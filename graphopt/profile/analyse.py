"""From measured calls to rows of a table: arithmetic, bytes, and how near each kernel is to what is possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from graphopt.analysis.cost import elements, flops, is_elementwise
from graphopt.ir.graph import Graph, Node
from graphopt.profile.measure import Call, Machine, Measured

Limit = Literal["compute", "memory", "overhead"]


@dataclass(slots=True)
class CallCost:
    """One call of a kernel.

    Attributes:
        kernel: its name.
        node: label of the node of the final graph that it computes; empty for a copy.
        seconds: how long it took.
        flops: arithmetic by definition; None when it depends on data.
        bytes: what it reads and writes, each buffer once.
        compute_seconds: the least time for the arithmetic.
        memory_seconds: the least time for the bytes, each from the cache or memory where it lies.
        overhead_seconds: what a call costs that does nothing.
    """

    kernel: str
    node: str
    seconds: float
    flops: int | None
    bytes: int
    compute_seconds: float
    memory_seconds: float
    overhead_seconds: float


@dataclass(slots=True)
class KernelCost:
    """All calls of one kernel together."""

    kernel: str
    calls: list[CallCost] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time of all calls in a run."""
        return sum(call.seconds for call in self.calls)

    @property
    def flops(self) -> int | None:
        """Arithmetic of all calls; None when that of one is not known."""
        parts = [call.flops for call in self.calls]
        return None if None in parts else sum(part for part in parts if part is not None)

    @property
    def bytes(self) -> int:
        """Bytes of all calls."""
        return sum(call.bytes for call in self.calls)

    @property
    def roofline(self) -> float:
        """The least time by arithmetic and memory as a share of the time taken; above 1 where a kernel
        needs less arithmetic than the definition, as Winograd does."""
        least = sum(max(call.compute_seconds, call.memory_seconds) for call in self.calls)
        return least / self.seconds if self.seconds else 0.0

    @property
    def limit(self) -> Limit:
        """What takes the most time at the least: arithmetic, memory, or calling."""
        totals: dict[Limit, float] = {
            "compute": sum(call.compute_seconds for call in self.calls),
            "memory": sum(call.memory_seconds for call in self.calls),
            "overhead": sum(call.overhead_seconds for call in self.calls),
        }
        return max(totals, key=lambda name: totals[name])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kernel": self.kernel,
            "nodes": [call.node for call in self.calls],
            "seconds": self.seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "flops_per_second": None if self.flops is None or not self.seconds else self.flops / self.seconds,
            "bytes_per_second": self.bytes / self.seconds if self.seconds else None,
            "roofline": self.roofline,
            "limit": self.limit,
            "calls": [asdict(call) for call in self.calls],
        }


@dataclass(slots=True)
class Profile:
    """Where the time of a run goes."""

    kernels: list[KernelCost]
    run_seconds: float
    runs: int
    threads: int
    machine: Machine

    @property
    def kernel_seconds(self) -> float:
        """Time in kernels, of a run."""
        return sum(kernel.seconds for kernel in self.kernels)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "threads": self.threads,
            "runs": self.runs,
            "run_seconds": self.run_seconds,
            "kernel_seconds": self.kernel_seconds,
            "machine": asdict(self.machine),
            "kernels": [kernel.as_dict() for kernel in self.kernels],
        }


def analyse(
    measured: Measured,
    nodes_of: Mapping[str, Sequence[str]],
    graph: Graph,
    sizes: Mapping[str, int],
    threads: int,
) -> Profile:
    """The profile of measured calls.

    Args:
        nodes_of: for each kernel the labels of the nodes that it computes, in the order of its calls.
        graph: the artifact's; its constants need no data.
        sizes: numbers of its symbolic dimensions.
    """
    nodes = {node.label: node for node in graph.nodes}
    # A node whose outputs are computed by kernels of their own is shared by their calls.
    shares = Counter(label for labels in nodes_of.values() for label in labels)
    labelled = list(_labelled(measured.calls, nodes_of))
    moved = [
        touched(call, nodes.get(label), sizes) for call, label in zip(measured.calls, labelled, strict=True)
    ]
    far = distances(measured.calls, moved)
    kernels: dict[str, KernelCost] = {}
    for index, (call, label) in enumerate(zip(measured.calls, labelled, strict=True)):
        node, machine = nodes.get(label), measured.machine
        count = 0 if node is None else flops(node, sizes)
        share = count // shares[label] if count else count
        cost = CallCost(
            kernel=call.kernel,
            node=label,
            seconds=call.seconds,
            flops=share,
            bytes=sum(moved[index]),
            compute_seconds=(share or 0) / machine.flops,
            memory_seconds=sum(
                size / machine.bandwidth(distance)
                for size, distance in zip(moved[index], far[index], strict=True)
            ),
            overhead_seconds=machine.call_seconds,
        )
        kernels.setdefault(call.kernel, KernelCost(call.kernel)).calls.append(cost)
    ordered = sorted(kernels.values(), key=lambda kernel: -kernel.seconds)
    return Profile(ordered, measured.run_seconds, measured.runs, threads, measured.machine)


def _labelled(calls: Sequence[Call], nodes_of: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """For each call the label of its node; empty where the manifest has none."""
    seen: Counter[str] = Counter()
    for call in calls:
        labels = nodes_of.get(call.kernel, ())
        yield labels[seen[call.kernel]] if seen[call.kernel] < len(labels) else ""
        seen[call.kernel] += 1


def distances(calls: Sequence[Call], moved: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each buffer of each call, how many bytes were touched since it was touched last, itself included.

    Runs follow one another: what a run touches first was touched last by the run before.

    Args:
        moved: bytes that are touched of each buffer of each call.
    """
    order = [
        (index, buffer.address, size)
        for index, (call, sizes) in enumerate(zip(calls, moved, strict=True))
        for buffer, size in zip(call.buffers, sizes, strict=True)
    ]
    last = {address: place - len(order) for place, (_, address, _) in enumerate(order)}
    result: list[list[int]] = [[] for _ in calls]
    for place, (index, address, size) in enumerate(order):
        largest = {address: size}
        since = last[address]
        between = order[since:place] if since >= 0 else order[since:] + order[:place]
        for _, other, touched_bytes in between:
            largest[other] = max(touched_bytes, largest.get(other, 0))
        result[index].append(sum(largest.values()))
        last[address] = place
    return result


def touched(call: Call, node: Node | None, sizes: Mapping[str, int]) -> list[int]:
    """Bytes of each buffer of a call that are read or written.

    A kernel that only computes elements from elements, or moves them, reads of each input at most as
    many as it makes: of an embedding table, say, the rows that are looked up.
    """
    whole = [buffer.bytes for buffer in call.buffers]
    if node is None or not is_elementwise(node):
        return whole
    try:
        most = max(elements(value, sizes) for value in node.outputs)
    except KeyError:
        return whole
    return [min(buffer.bytes, most * buffer.item_bytes) for buffer in call.buffers]
